//! Tables for people, in Markdown: they can be put into a document as they are.

use super::{Contended, Measured, Report, number};
use crate::limits::fault_goal_us;
use crate::run::FIGURES;
use crate::scenario::Scenario;
use crate::stats::Spread;
use serde_json::Value;
use std::fmt::Write as _;

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// A table; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text += &line(row);
        if at == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}

/// A median and, of several runs, the spread around it.
pub(super) fn spread(spread: Option<&Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(it) if it.runs < 2 || it.min == it.max => number(it.median),
        Some(it) => format!("{} ({}–{})", number(it.median), number(it.min), number(it.max)),
    }
}

/// The figures of one row: a line for each figure, a column for each contender, and umem by each other.
pub(super) fn figures(row: &Measured) -> Vec<Vec<String>> {
    let others: Vec<&Contended> =
        row.contenders.iter().filter(|who| !who.umem_by_this.is_empty()).collect();
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(row.contenders.iter().map(|who| who.name.to_owned()));
    rows[0].extend(others.iter().map(|who| format!("umem / {}", who.name)));
    for figure in FIGURES {
        if !row.contenders.iter().any(|who| who.figures.contains_key(figure.name)) {
            continue;
        }
        let mut cells = vec![figure.heading.to_owned()];
        cells.extend(row.contenders.iter().map(|who| spread(who.figures.get(figure.name))));
        cells.extend(others.iter().map(|who| spread(who.umem_by_this.get(figure.name))));
        rows.push(cells);
    }
    let mut verified = vec!["verified".to_owned()];
    verified.extend(
        row.contenders.iter().map(|who| format!("{}/{}", who.verified_runs, who.runs.len())),
    );
    verified.extend(others.iter().map(|_| String::new()));
    rows.push(verified);
    rows
}

/// What a row is, in one line.
pub(super) fn describe(row: &Scenario) -> String {
    let words = Scenario::HEADINGS.iter().zip(row.columns());
    let words: Vec<String> = words
        .filter(|(_, value)| !value.is_empty() && value != "-")
        .map(|(heading, value)| format!("{heading} {value}"))
        .collect();
    words.join(", ")
}

/// Parts of each contender's downtime, where they are told: medians, and the spread around them.
pub(super) fn parts(row: &Measured) -> Vec<(&'static str, String)> {
    let told = row.contenders.iter().filter(|who| !who.downtime_parts.is_empty());
    told.map(|who| {
        let parts = who.downtime_parts.iter();
        let parts: Vec<String> =
            parts.map(|(part, ms)| format!("{part} {}", spread(Some(ms)))).collect();
        (who.name, parts.join(", "))
    })
    .collect()
}

/// Runs that do not count, and who did not take part.
pub(super) fn remarks(row: &Measured) -> Vec<String> {
    let mut remarks = row.notes.clone();
    remarks.extend(row.left_out.iter().map(|why| format!("left out: {why}")));
    for who in &row.contenders {
        for (at, run) in who.runs.iter().enumerate() {
            let told = run.moved().map_or(&[][..], |run| &run.remarks).iter().cloned();
            let all = run.problem().into_iter().chain(told);
            remarks.extend(all.map(|why| format!("{}, run {}: {why}", who.name, at + 1)));
        }
    }
    remarks
}

/// One row, as it is printed when it was measured.
#[must_use]
pub fn text(row: &Measured) -> String {
    let mut text = format!("\n{}: {}\n\n", row.scenario.name, describe(&row.scenario));
    if !row.contenders.is_empty() {
        text += &table(&figures(row));
    }
    for (name, parts) in parts(row) {
        let _ = writeln!(text, "\ndowntime of {name}, ms: {parts}");
    }
    for remark in remarks(row) {
        let _ = writeln!(text, "\n{remark}");
    }
    text
}

/// What the host can do at best.
const LIMITS: [(&str, &str); 7] = [
    ("loopback TCP, MiB/s", "tcp_mib_s"),
    ("UFFDIO_COPY, 4 KiB, MiB/s", "copy_4k_mib_s"),
    ("UFFDIO_COPY, 64 KiB, MiB/s", "copy_64k_mib_s"),
    ("both together, MiB/s", "drain_mib_s"),
    ("round trip, 64 B to 4 KiB, p50 µs", "round_trip{}_p50_us"),
    ("round trip, p99 µs", "round_trip{}_p99_us"),
    ("fault under KVM answered in the same process, mean µs", "kvm_fault{}_us"),
];
/// By [`fault_goal_us`].
const GOAL: &str = "goal of a fault under KVM: 1.5 x (that + round trip p50), µs";

/// Rows of the raw limits' table. What two threads do together is told by where they run.
pub(super) fn limits(limits: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["", "cores of the kernel's choice", "both on one core", "each on its own"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    for (heading, name) in LIMITS {
        let mut row = vec![heading.to_owned()];
        row.extend(["", "_one_core", "_two_cores"].map(|place| match name {
            _ if !place.is_empty() && !name.contains("{}") => String::new(),
            _ => cell(limits[name.replace("{}", place)].as_f64()),
        }));
        rows.push(row);
    }
    let mut goal = vec![GOAL.to_owned(), cell(fault_goal_us(limits))];
    goal.resize(4, String::new());
    rows.push(goal);
    rows
}

impl Report {
    /// The raw limits, as they are printed first.
    #[must_use]
    pub fn limits_text(&self) -> String {
        table(&limits(&self.limits))
    }
}

/// The rows themselves, as `--list` shows them.
#[must_use]
pub fn list(rows: &[Scenario]) -> String {
    let mut lines = vec![vec!["scenario".to_owned()]];
    lines[0].extend(Scenario::HEADINGS.map(str::to_owned));
    lines[0].push("against".to_owned());
    for row in rows {
        let mut cells = vec![row.name.clone()];
        cells.extend(row.columns());
        let peers = row.as_move().map_or(&[][..], |it| &it.peers);
        cells.push(peers.iter().map(|peer| peer.name()).collect::<Vec<_>>().join("; "));
        lines.push(cells);
    }
    let width = |at: usize| {
        lines.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &lines {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::report;
    use crate::scenario::all;

    #[test]
    fn a_row_shows_medians_spreads_ratios_and_what_went_wrong() {
        let report = report();
        let shown = text(&report.scenarios[0]);
        assert!(shown.contains("| total ms | 200 (100–300) | 200 | 0.5 |"), "{shown}");
        assert!(shown.contains("| verified | 2/2 | 1/2 |  |"), "{shown}");
        assert!(
            shown.contains("qemu postcopy + preempt, run 2: the guest stands still"),
            "{shown}"
        );
        assert!(shown.contains("downtime of umem, ms: stop 0.1, save <&> 0.25"), "{shown}");
        assert!(text(&report.scenarios[1]).contains("left out: no luck"));
        assert!(text(&report.scenarios[2]).contains("qemu: none"));
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut report = report();
        report.limits["round_trip_one_core_p50_us"] = 5.0.into();
        let text = report.limits_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| loopback TCP, MiB/s | 1800 |  |  |", "{text}");
        assert!(lines.iter().any(|line| line.ends_with("4 KiB, p50 µs | – | 5 | – |")), "{text}");
        assert!(lines[9].starts_with("| goal") && lines[9].ends_with("| – |  |  |"), "{text}");
    }

    #[test]
    fn the_list_has_a_line_for_each_row() {
        let (rows, text) = (all(), list(&all()));
        assert_eq!(text.lines().count(), rows.len() + 1);
        let line = text.lines().find(|line| line.starts_with("link-1g-cubic ")).unwrap();
        assert!(
            line.contains("1000 Mbit/s, cubic") && line.contains("qemu postcopy + preempt"),
            "{line}"
        );
    }
}
