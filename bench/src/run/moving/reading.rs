//! What is read off a move: by the host, by the guest, by the kernel.

use super::{BYTES_PER_MIB, Run, Times, ms};
use crate::guest::{BEFORE, End, Verdict};
use crate::run::counts::Counts;
use crate::run::figures::Figures;
use crate::scenario::{Link, Mode};
use crate::{limits, warm};
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

/// Heartbeats that a run keeps for plots, on both sides of the switch.
const KEPT: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(3)];
const PAGES_PER_MIB: u64 = 256;

impl Run<'_> {
    /// What the host heard and saw, and what the guest timed.
    pub(super) fn figures(&self, times: &Times, verdict: &Verdict) -> Result<Figures> {
        let Times { start, done, until } = *times;
        let mut figures = Figures::default();
        let beats = &self.beats;
        let stopped = self.source.qmp.when("STOP").filter(|at| *at >= start);
        let runs = self.destination.qmp.when("RESUME").filter(|at| *at >= start);
        let pause =
            stopped.zip(runs).map(|(stopped, runs)| ms(runs.saturating_duration_since(stopped)));
        figures.set("pause_ms", pause);
        if self.it.options.background {
            figures.set("total_ms", ms(done - start));
            if self.it.mode != Mode::Precopy {
                figures.set("drain_ms", runs.map(|runs| ms(done.saturating_duration_since(runs))));
            }
        }
        let switch = beats.switch().context("no heartbeat from both ends")?;
        figures.set("gap_at_switch_ms", beats.gap_at_switch_ms());
        figures.set("longest_gap_ms", beats.longest_gap_ms(start, until));
        figures.set("stall_ms", beats.stall_ms(start, done, until));
        let before = start.checked_sub(BEFORE).context("the host has just started")?;
        figures.set("stall_before_ms", beats.stall_ms(before, start, start));
        if self.it.rate > 0 {
            let former =
                beats.per_second(before, BEFORE).context("no heartbeats before the move")?;
            let second = beats.per_second(switch, Duration::from_secs(1));
            figures.set("rate_before", former);
            figures.set("back_to_90_ms", beats.back_ms(former));
            figures.set("first_second_percent", second.map(|now| 100.0 * now / former));
            figures.set("touch_p50_us", verdict.touch_us_p50 as f64);
            figures.set("touch_p99_us", verdict.touch_us_p99 as f64);
            figures.set("touch_max_us", verdict.touch_us_max as f64);
        }
        figures.set("guest_gap_ms", verdict.max_gap_us as f64 / 1e3);
        let blackout = verdict.processors.as_ref().map(|found| found.tick_gap_us as f64 / 1e3);
        figures.set("tick_gap_ms", blackout);
        Ok(figures)
    }

    pub(super) fn set_counts(&self, figures: &mut Figures, counts: Counts) {
        let pages = (self.it.fill_mib * PAGES_PER_MIB) as f64;
        for (name, count) in [
            ("syscalls_per_page", counts.syscalls),
            ("switches_per_page", counts.switches),
            ("page_faults_per_page", counts.page_faults),
            ("cpu_us_per_page", counts.cpu_us),
        ] {
            figures.set(name, count.map(|count| count / pages));
        }
        figures.set("stolen_ms", counts.stolen_ms);
    }

    /// The same bytes at best, beside the guest, which goes on. Only loopback is that fast.
    pub(super) fn set_raw(&self, figures: &mut Figures) {
        let Some(drain) = figures.get("drain_ms").filter(|_| self.it.link == Link::Loopback) else {
            return;
        };
        let bytes = self.it.fill_mib * BYTES_PER_MIB;
        match warm::memory(2 * bytes).and_then(|_| limits::drain(bytes)) {
            Ok(raw) => {
                figures.set("raw_ms", ms(raw));
                figures.set("drain_by_raw", drain / ms(raw));
            }
            Err(error) => eprintln!("bench: no raw limit beside this guest: {error:#}"),
        }
    }

    pub(super) fn kept_beats(&self, until: Instant) -> Vec<(f64, bool, u64)> {
        let Some(switch) = self.beats.switch() else { return Vec::new() };
        let [before, after] = KEPT;
        let from = switch.checked_sub(before).unwrap_or(switch);
        let kept = self.beats.between(from, until.min(switch + after));
        let first = kept.first().map_or(0, |beat| beat.writes);
        let place = |at: Instant| {
            ms(at.saturating_duration_since(switch)) - ms(switch.saturating_duration_since(at))
        };
        kept.iter()
            .map(|beat| {
                let there = beat.end == End::Destination;
                (place(beat.at), there, beat.writes.saturating_sub(first))
            })
            .collect()
    }
}
