//! The figures of a run, by name.

use crate::stats::rounded;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a figure is.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name in JSON and CSV.
    pub name: &'static str,
    /// Its heading in tables.
    pub heading: &'static str,
    /// What it says.
    pub about: &'static str,
}

const fn figure(name: &'static str, heading: &'static str, about: &'static str) -> Figure {
    Figure { name, heading, about }
}

/// All of them, in the order of tables. Of each less is better, but for those whose name says rate or percent.
pub const FIGURES: &[Figure] = &[
    figure("total_ms", "total ms", "from the command until both ends say that all is there"),
    figure("pause_ms", "pause ms", "from the source's STOP to the destination's RESUME event"),
    figure("downtime_ms", "own downtime ms", "without a running guest, as the mover tells it"),
    figure(
        "drain_ms",
        "drain ms",
        "from the guest's start at the destination until all its pages are there",
    ),
    figure(
        "raw_ms",
        "raw ms",
        "the same bytes over plain loopback TCP, placed by UFFDIO_COPY, beside the same guest",
    ),
    figure("drain_by_raw", "drain / raw", "the two before by each other"),
    figure(
        "gap_at_switch_ms",
        "gap at switch ms",
        "last heartbeat at the source to the first at the destination, period included",
    ),
    figure("longest_gap_ms", "longest gap ms", "between any two heartbeats of the move"),
    figure("stall_ms", "stall ms", "silences over 20 ms in the whole move, added up"),
    figure("stall_before_ms", "stall before ms", "the same in the two seconds before it"),
    figure(
        "back_to_90_ms",
        "back to 90 % ms",
        "from the last heartbeat at the source until writes go on at 90 % of their former rate",
    ),
    figure(
        "first_second_percent",
        "first second %",
        "writes in the second after the switch, of those it would have had",
    ),
    figure("rate_before", "writes/s before", "in the two seconds before the move"),
    figure("faults", "faults", "pages that the guest waited for, as the mover counts them"),
    figure("fault_mean_us", "fault mean µs", "from fault to page, as the mover tells it"),
    figure("fault_p50_us", "fault p50 µs", "the same"),
    figure("fault_p99_us", "fault p99 µs", "the same"),
    figure("fault_max_us", "fault max µs", "the same"),
    figure(
        "touch_p50_us",
        "touch p50 µs",
        "one random write, timed by the guest, present pages among them",
    ),
    figure("touch_p99_us", "touch p99 µs", "the same"),
    figure("touch_max_us", "touch max µs", "the same"),
    figure(
        "fault_goal_us",
        "fault goal µs",
        "1.5 x (a fault under KVM that one process answers + the network's round trip)",
    ),
    figure(
        "touch_p50_by_goal",
        "touch p50 / goal",
        "with the background off, when nearly each touch is a fault; 1 or less is met",
    ),
    figure(
        "fault_mean_by_goal",
        "fault mean / goal",
        "lenient: the goal has the way into the kernel and back, the mover's own count has not",
    ),
    figure(
        "guest_gap_ms",
        "guest's gap ms",
        "longest time between heartbeats by the guest's clock",
    ),
    figure(
        "blackout_ms",
        "blackout at switch ms",
        "longest time without a timer interrupt up to the first heartbeat at the destination, by the guest's clock (x86-64)",
    ),
    figure(
        "tick_gap_ms",
        "longest tick gap ms",
        "the same in the whole move and after it, the drain among it",
    ),
    figure("wire_mib", "wire MiB", "on all connections, as the mover counts them"),
    figure("wire_by_filled", "wire / filled", "the same by the memory that the guest filled"),
    figure("syscalls_per_page", "calls/page", "system calls of both ends, by pages filled (perf)"),
    figure(
        "switches_per_page",
        "switches/page",
        "context switches of both ends, by pages filled (perf)",
    ),
    figure(
        "page_faults_per_page",
        "kernel faults/page",
        "page faults of both ends in the kernel's count, by pages filled (perf)",
    ),
    figure(
        "cpu_us_per_page",
        "CPU µs/page",
        "of both ends, the running guest's own among it, by pages filled",
    ),
    figure(
        "stolen_ms",
        "stolen ms",
        "of all CPUs' time in the move, taken by the host's own host; it stalls whoever runs",
    ),
    figure("pages", "pages", "touched by the generator"),
    figure("accesses_ms", "accesses ms", "until all touches were done"),
    figure("asked_pages", "pages asked for", "that came because they were asked for"),
    figure("prefault_pages", "pages along", "that came along with those asked for"),
    figure("in_vain_pages", "pages in vain", "of these, never touched"),
    figure("faults_per_s", "faults/s", "that arrived in a second"),
    figure("pages_per_request", "pages/request", "faults that went in one message"),
];

/// Figures of one run.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<&'static str, f64>);

impl Figures {
    /// Sets one that is known.
    ///
    /// # Panics
    /// When there is no such figure in the table.
    pub fn set(&mut self, name: &'static str, value: impl Into<Option<f64>>) {
        assert!(FIGURES.iter().any(|figure| figure.name == name), "no figure is called {name}");
        if let Some(value) = value.into().filter(|value| value.is_finite()) {
            self.0.insert(name, rounded(value));
        }
    }

    /// What faults are to be compared with, in microseconds; `only_faults` if touches are nearly all faults.
    pub(crate) fn set_fault_goal(&mut self, goal_us: Option<f64>, only_faults: bool) {
        let Some(goal) = goal_us.filter(|_| self.get("fault_mean_us").is_some()) else { return };
        self.set("fault_goal_us", goal);
        self.set("fault_mean_by_goal", self.get("fault_mean_us").map(|mean| mean / goal));
        let touch = self.get("touch_p50_us").filter(|_| only_faults);
        self.set("touch_p50_by_goal", touch.map(|touch| touch / goal));
    }

    /// One, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Those that are known.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::{FIGURES, Figures};
    use std::collections::BTreeSet;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_a_heading() {
        let names: BTreeSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
        assert!(
            FIGURES.iter().all(|figure| !figure.heading.is_empty() && !figure.about.is_empty())
        );
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let mut figures = Figures::default();
        figures.set("total_ms", 12.3456);
        figures.set("drain_ms", None);
        figures.set("raw_ms", f64::NAN);
        assert_eq!(figures.iter().collect::<Vec<_>>(), [("total_ms", 12.35)]);
        assert_eq!(figures.get("drain_ms"), None);
    }

    #[test]
    fn faults_have_a_goal_and_touches_only_where_they_are_faults() {
        let mut figures = Figures::default();
        figures.set("touch_p50_us", 150.0);
        figures.set_fault_goal(Some(100.0), true);
        assert_eq!(figures.get("fault_goal_us"), None, "no faults");
        figures.set("fault_mean_us", 80.0);
        figures.set_fault_goal(None, true);
        assert_eq!(figures.get("fault_goal_us"), None, "no goal");
        figures.set_fault_goal(Some(100.0), false);
        assert_eq!(figures.get("fault_mean_by_goal"), Some(0.8));
        assert_eq!(figures.get("touch_p50_by_goal"), None);
        figures.set_fault_goal(Some(100.0), true);
        assert_eq!(figures.get("touch_p50_by_goal"), Some(1.5));
    }
}
