//! What a demo found out, as text and as JSON.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt::Write as _;
use umem_bench::guest::{Processors, Verdict, Window};
use umem_bench::vm::Status;
use umem_link::{FaultLatency, RoundsStatus};

/// Pages that arrived, by what brought them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PageReport {
    /// In rounds of precopy, and valid at the switch.
    pub(super) precopy: u64,
    pub(super) demand: u64,
    pub(super) prefault: u64,
    pub(super) background: u64,
    /// Of all of these, pages of one repeated byte.
    pub(super) zero: u64,
    pub(super) total: u64,
}

/// Rounds of precopy, as the source tells them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct RoundReport {
    /// Rounds, the last one, while the guest stood still, among them.
    pub(super) rounds: u32,
    /// Copies of pages sent in them.
    pub(super) copies: u64,
    /// Pages whose copies were void at the switch.
    pub(super) discarded: u64,
    /// Pages that the guest wrote, a second, over the last round.
    pub(super) dirty_pages_rate: f64,
    /// Bytes a second.
    pub(super) send_rate: f64,
    /// As predicted after the last round that decided something.
    pub(super) expected_downtime_ms: Option<f64>,
    /// Most of the vCPUs' time that was taken, in percent.
    pub(super) throttle_most: u8,
}

impl RoundReport {
    pub(super) fn new(rounds: &RoundsStatus, throttle_most: u8) -> Self {
        Self {
            rounds: rounds.passes,
            copies: rounds.copies,
            discarded: rounds.discarded,
            dirty_pages_rate: rounds.dirty_pages_rate,
            send_rate: rounds.send_rate,
            expected_downtime_ms: rounds.expected_downtime_ms,
            throttle_most,
        }
    }

    fn text(&self) -> String {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let mut text = format!(
            "{}; {} copies of pages sent, {} of the pages void at the switch; the guest wrote {:.0} \
             pages/s, the source sent {:.0} MiB/s",
            self.rounds,
            self.copies,
            self.discarded,
            self.dirty_pages_rate,
            mib(self.send_rate)
        );
        if let Some(expected) = self.expected_downtime_ms {
            let _ = write!(text, "; expected downtime {expected:.1} ms");
        }
        if self.throttle_most > 0 {
            let _ = write!(text, "; {} % of the vCPU's time taken", self.throttle_most);
        }
        text
    }
}

/// Parts of the downtime, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Phases(pub(super) Vec<(String, f64)>);

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, ms) in &self.0 {
            map.serialize_entry(name, ms)?;
        }
        map.end()
    }
}

/// The whole outcome. Times in milliseconds unless the name says otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The guest found all its memory well, and both ends agree that all pages arrived.
    pub(super) verified: bool,
    pub(super) mode: String,
    /// Phases of the migration at the source.
    pub(super) phases: Vec<String>,
    pub(super) guest: &'static str,
    /// The guest's architecture: riscv64 is the software CPU, x86_64 KVM.
    pub(super) target: &'static str,
    pub(super) memory_bytes: u64,
    pub(super) dirty_rate: u64,
    pub(super) seed: u64,
    pub(super) downtime_ms: f64,
    pub(super) total_ms: f64,
    pub(super) drain_ms: Option<f64>,
    /// Longest time between two heartbeats as the host heard them, from the start of the migration
    /// until the check.
    pub(super) heartbeat_gap_ms: f64,
    /// The same between the last of the source and the first of the destination.
    pub(super) heartbeat_gap_switch_ms: Option<f64>,
    /// Silences of the guest of more than 20 ms as the host heard them, added up, from the start of the
    /// migration until it was complete (without background: until the guest ran at the destination).
    pub(super) stall_ms: f64,
    /// Longest by the guest's own clock.
    pub(super) heartbeat_gap_guest_ms: f64,
    pub(super) fault_us: FaultLatency,
    /// Missing in pure postcopy.
    pub(super) rounds: Option<RoundReport>,
    pub(super) pages: PageReport,
    pub(super) wire_bytes: u64,
    pub(super) rate_100ms: Vec<Window>,
    pub(super) phases_ms: Phases,
    /// Huge pages that were joined from small ones until the guest had checked its memory, and places.
    pub(super) huge_pages_joined: Option<(u64, u64)>,
    pub(super) verdict: Verdict,
    /// Both ends' own words.
    pub(super) source: Value,
    pub(super) destination: Value,
}

/// Both ends say that the migration is complete, and that all pages arrived as they were.
pub(super) fn ends_agree(source: &Status, destination: &Status) -> bool {
    let done = |end: &Status| end.phase == "completed" && end.verified;
    done(source) && done(destination) && source.digest == destination.digest
}

/// The downtime and its parts, by one clock: the source's, which sees all of it, if it knows them.
pub(super) fn downtime(source: &Status, destination: &Status) -> (f64, Phases) {
    let known = if source.downtime.total.is_some() { source } else { destination };
    (known.downtime.total.unwrap_or_default(), Phases(known.downtime.parts.clone()))
}

impl Report {
    /// Lines for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let faults = &self.fault_us;
        let accelerator = if self.target == "x86_64" { "KVM" } else { "software CPU" };
        let parts: Vec<String> =
            self.phases_ms.0.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<16}{value}");
        };
        line("guest", format!("{}, {} on the {accelerator}", self.guest, self.target));
        line("mode", format!("{} ({})", self.mode, self.phases.join(", ")));
        line("downtime", format!("{:.2} ms ({})", self.downtime_ms, parts.join(", ")));
        line("total", format!("{:.1} ms", self.total_ms));
        if let Some(drain) = self.drain_ms {
            line("drain", format!("{drain:.1} ms"));
        }
        let switch = self.heartbeat_gap_switch_ms.unwrap_or_default();
        line(
            "heartbeat gap",
            format!(
                "{:.2} ms as heard here ({switch:.2} at the switch), {:.2} ms by the guest's clock",
                self.heartbeat_gap_ms, self.heartbeat_gap_guest_ms
            ),
        );
        line("silent", format!("{:.1} ms in gaps of more than 20 ms", self.stall_ms));
        if let Some(rounds) = &self.rounds {
            line("rounds", rounds.text());
        }
        line(
            "faults",
            format!(
                "{}; us: p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
                faults.count, faults.p50, faults.p90, faults.p99, faults.p999, faults.max
            ),
        );
        let pages = &self.pages;
        line(
            "pages",
            format!(
                "{} precopy, {} demand, {} prefault, {} background, of these {} of one repeated byte; \
                 {} in all",
                pages.precopy,
                pages.demand,
                pages.prefault,
                pages.background,
                pages.zero,
                pages.total
            ),
        );
        let mib = self.wire_bytes as f64 / f64::from(1 << 20);
        line("wire", format!("{} bytes ({mib:.1} MiB)", self.wire_bytes));
        line("writes / 100 ms", self.rates());
        if let Some((joined, places)) = self.huge_pages_joined {
            line("huge pages", format!("{joined} of {places} joined from small ones afterwards"));
        }
        let verdict = &self.verdict;
        line(
            "memory",
            format!(
                "{}: {} pages checked, {} bad, {} writes",
                if verdict.ok { "all memory is right" } else { "MEMORY IS DAMAGED" },
                verdict.checked_pages,
                verdict.bad_pages,
                verdict.writes
            ),
        );
        if verdict.workers > 1 {
            let mut vcpus = verdict.workers.to_string();
            if verdict.tokens > 0 {
                let _ = write!(vcpus, "; {} inter-processor interrupts", verdict.tokens);
            }
            if verdict.fences > 0 {
                let _ = write!(
                    vcpus,
                    " and {} remote fences, {} of them not in time",
                    verdict.fences, verdict.stale
                );
            }
            line("vcpus", vcpus);
        }
        if let Some(processors) = &verdict.processors {
            line("processors", processors_text(processors));
        }
        line("verified", if self.verified { "yes" } else { "NO" }.to_owned());
        text
    }

    /// Half a second before the switch and one after, with `|` at the switch.
    fn rates(&self) -> String {
        let Some(switch) = self.rate_100ms.iter().position(|window| window.switch) else {
            return "the switch was not heard".to_owned();
        };
        let shown = self.rate_100ms.iter().enumerate();
        let shown = shown.skip(switch.saturating_sub(5)).take(switch.min(5) + 11);
        let words = shown.map(|(place, window)| {
            let mark = if place == switch { "|" } else { "" };
            format!("{mark}{}", window.writes)
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

fn processors_text(found: &Processors) -> String {
    let mut text = format!(
        "longest time without a timer interrupt {:.2} ms; {} looks at registers, {} altered",
        found.tick_gap_us as f64 / 1e3,
        found.state_checks,
        found.state_bad
    );
    if let Some(first) = &found.state_first {
        let _ = write!(text, " (first {first})");
    }
    let _ = write!(
        text,
        "; {} checks of the timer's rate, {} off; {} steps back of a clock; {} interrupts lost",
        found.timer_checks, found.timer_off, found.steps_back, found.rings_lost
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(digest: &str) -> Status {
        Status {
            phase: "completed".into(),
            verified: true,
            digest: Some(digest.into()),
            ..Status::default()
        }
    }

    #[test]
    fn ends_agree_only_when_both_completed_verified_and_have_one_digest() {
        assert!(ends_agree(&completed("a"), &completed("a")));
        assert!(!ends_agree(&completed("a"), &completed("b")));
        assert!(!ends_agree(&completed("a"), &Status { verified: false, ..completed("a") }));
        let active = Status { phase: "postcopy-active".into(), ..completed("a") };
        assert!(!ends_agree(&active, &completed("a")));
    }

    #[test]
    fn parts_keep_their_order_in_json() {
        let phases = Phases(vec![("save".into(), 1.5), ("load".into(), 2.0), ("ack".into(), 0.5)]);
        let text = serde_json::to_string(&phases).unwrap();
        assert_eq!(text, r#"{"save":1.5,"load":2.0,"ack":0.5}"#);
    }
}
