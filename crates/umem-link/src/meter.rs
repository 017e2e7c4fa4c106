//! What both ends measure alike: times, phase, rate.

use crate::status::DowntimeParts;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two samples of the rate.
const SAMPLE: Duration = Duration::from_millis(100);

struct Inner {
    phase: &'static str,
    error: Option<String>,
    set_up: Option<Instant>,
    ended: Option<Instant>,
    handed_over: Option<Instant>,
    drained: Option<Instant>,
    parts: Vec<(String, f64)>,
    downtime: Option<Duration>,
    sample: (Instant, u64),
    rate: f64,
}

/// Times and phase of one migration at one end.
pub(crate) struct Meter {
    started: Instant,
    inner: Mutex<Inner>,
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A copy of what was measured so far.
pub(crate) struct Reading {
    pub(crate) phase: &'static str,
    pub(crate) error: Option<String>,
    pub(crate) total_ms: f64,
    pub(crate) setup_ms: Option<f64>,
    pub(crate) drain_ms: Option<f64>,
    pub(crate) downtime: DowntimeParts,
    pub(crate) rate: f64,
}

impl Meter {
    pub(crate) fn new(phase: &'static str) -> Self {
        let started = Instant::now();
        let inner = Inner {
            phase,
            error: None,
            set_up: None,
            ended: None,
            handed_over: None,
            drained: None,
            parts: Vec::new(),
            downtime: None,
            sample: (started, 0),
            rate: 0.0,
        };
        Self { started, inner: Mutex::new(inner) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Time on this migration's own clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// An instant on this migration's own clock.
    pub(crate) fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.started)
    }

    /// Sets the phase; whether it is another one.
    pub(crate) fn phase(&self, phase: &'static str, error: Option<&str>) -> bool {
        self.with(|inner| {
            if let Some(error) = error {
                inner.error = Some(error.to_owned());
            }
            let before = std::mem::replace(&mut inner.phase, phase);
            if before == "setup" && phase != before {
                inner.set_up.get_or_insert_with(Instant::now);
            }
            before != phase
        })
    }

    /// Whether this is the phase now.
    pub(crate) fn is_in(&self, phase: &str) -> bool {
        self.with(|inner| inner.phase == phase)
    }

    pub(crate) fn end(&self) {
        self.with(|inner| *inner.ended.get_or_insert_with(Instant::now));
    }

    /// A part of the downtime.
    pub(crate) fn part(&self, name: &str, length: Duration) {
        self.with(|inner| inner.parts.push((name.to_owned(), milliseconds(length))));
    }

    pub(crate) fn downtime(&self, length: Duration) {
        self.with(|inner| inner.downtime = Some(length));
    }

    pub(crate) fn handed_over(&self) {
        self.with(|inner| *inner.handed_over.get_or_insert_with(Instant::now));
    }

    pub(crate) fn drained(&self) {
        self.with(|inner| *inner.drained.get_or_insert_with(Instant::now));
    }

    /// What was measured so far, with `bytes` on the wire now.
    pub(crate) fn read(&self, bytes: u64) -> Reading {
        self.with(|inner| {
            let elapsed = inner.sample.0.elapsed();
            if elapsed >= SAMPLE {
                inner.rate = bytes.saturating_sub(inner.sample.1) as f64 / elapsed.as_secs_f64();
                inner.sample = (Instant::now(), bytes);
            }
            let end = inner.ended.unwrap_or_else(Instant::now);
            let between = |from: Option<Instant>, to: Option<Instant>| {
                Some(milliseconds(to?.saturating_duration_since(from?)))
            };
            Reading {
                phase: inner.phase,
                error: inner.error.clone(),
                total_ms: milliseconds(end.saturating_duration_since(self.started)),
                setup_ms: between(Some(self.started), inner.set_up),
                drain_ms: between(inner.handed_over, inner.drained),
                downtime: DowntimeParts {
                    parts: inner.parts.clone(),
                    total: inner.downtime.map(milliseconds),
                },
                rate: if inner.ended.is_some() { 0.0 } else { inner.rate },
            }
        })
    }
}
