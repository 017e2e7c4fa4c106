//! The guest's heartbeats as the host heard them.

use super::End;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Length of a window of the writing rate.
const WINDOW: Duration = Duration::from_millis(100);
/// A longer time between two heartbeats counts as a silence. Linux beats each 10 ms.
const SILENCE: Duration = Duration::from_millis(20);

/// A heartbeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    pub(super) end: End,
    pub(super) at: Instant,
    pub(super) writes: u64,
}

/// Writes in one window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Window {
    /// Its begin, from the start of the migration.
    pub(crate) ms: i64,
    pub(crate) writes: u64,
    /// Whether the guest was switched over in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) switch: bool,
}

/// All heartbeats, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Beats(Vec<Beat>);

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Beats {
    pub(super) fn push(&mut self, beat: Beat) {
        self.0.push(beat);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Longest time between two heartbeats from `from` until `until`, in milliseconds.
    pub(super) fn longest_gap_ms(&self, from: Instant, until: Instant) -> f64 {
        self.gaps(from, until).max().map_or(0.0, milliseconds)
    }

    /// Silences of more than [`SILENCE`] from `from` until `until`, added up, in milliseconds.
    pub(super) fn stall_ms(&self, from: Instant, until: Instant) -> f64 {
        milliseconds(self.gaps(from, until).filter(|gap| *gap > SILENCE).sum())
    }

    /// Times between heartbeats that follow each other, the first begun at or before `from`.
    fn gaps(&self, from: Instant, until: Instant) -> impl Iterator<Item = Duration> {
        let begin = self.0.partition_point(|beat| beat.at < from).saturating_sub(1);
        let end = self.0.partition_point(|beat| beat.at <= until);
        let pairs = self.0.get(begin..end).unwrap_or_default().windows(2);
        pairs.filter_map(|pair| Some(pair.last()?.at.duration_since(pair.first()?.at)))
    }

    /// Time between the last heartbeat from the source and the first from the destination.
    pub(super) fn gap_at_switch_ms(&self) -> Option<f64> {
        let first = self.0.iter().position(|beat| beat.end == End::Destination)?;
        let (first, last) = (self.0.get(first)?, self.0.get(first.checked_sub(1)?)?);
        Some(milliseconds(first.at.duration_since(last.at)))
    }

    /// Writes in each window, from one second before `start` until `until`.
    pub(super) fn rate(&self, start: Instant, until: Instant) -> Vec<Window> {
        let from = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        let switched = self.0.iter().rfind(|beat| beat.end == End::Source).map(|beat| beat.at);
        let has_switched = self.0.iter().any(|beat| beat.end == End::Destination);
        let mut windows = Vec::new();
        let (mut begin, mut ms) = (from, -milliseconds(start.duration_since(from)) as i64);
        while let Some(end) = begin.checked_add(WINDOW).filter(|end| *end <= until) {
            let switch =
                has_switched && switched.is_some_and(|switched| (begin..end).contains(&switched));
            let writes = self.writes_at(end).saturating_sub(self.writes_at(begin));
            windows.push(Window { ms, writes, switch });
            (begin, ms) = (end, ms + WINDOW.as_millis() as i64);
        }
        windows
    }

    /// The counter as last heard by `moment`.
    fn writes_at(&self, moment: Instant) -> u64 {
        let next = self.0.partition_point(|beat| beat.at <= moment);
        let last = next.checked_sub(1).and_then(|last| self.0.get(last));
        last.or(self.0.first()).map_or(0, |beat| beat.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_windows_follow_from_the_arrivals() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut beats = Beats::default();
        let mut writes = 0;
        for ms in (-1000_i64..1000).step_by(10) {
            // The guest stands still from 40 to 310 ms; the host heard nothing.
            if (41..310).contains(&ms) {
                continue;
            }
            writes += 5;
            let end = if ms <= 40 { End::Source } else { End::Destination };
            let at = start - Duration::from_secs(1) + Duration::from_millis((ms + 1000) as u64);
            beats.push(Beat { end, at, writes });
        }
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(beats.longest_gap_ms(start, after(1000)).round(), 270.0);
        assert_eq!(beats.gap_at_switch_ms().map(f64::round), Some(270.0));
        assert_eq!(beats.longest_gap_ms(start, after(300)).round(), 10.0);
        assert_eq!(beats.longest_gap_ms(after(400), after(1000)).round(), 10.0);
        assert_eq!(beats.stall_ms(start, after(1000)).round(), 270.0);
        assert_eq!(beats.stall_ms(after(400), after(1000)), 0.0);
        let windows = beats.rate(start, after(550));
        let seen: Vec<_> = windows.iter().map(|w| (w.ms, w.writes, w.switch)).skip(9).collect();
        let expected = [
            (-100, 50, false),
            (0, 20, true),
            (100, 0, false),
            (200, 0, false),
            (300, 50, false),
            (400, 50, false),
        ];
        assert_eq!(seen, expected);
    }
}
