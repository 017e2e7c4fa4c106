//! A line for each figure of each run: what a spreadsheet or a plotting tool reads.

use super::Report;
use crate::stats::rounded;
use std::fmt::Write as _;

/// A field as RFC 4180 has it.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

/// The whole report; runs that do not count are not in it.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut text = String::from("scenario,group,x,contender,run,figure,value\n");
    for row in &report.scenarios {
        let x = row.scenario.x.map_or_else(String::new, |(_, x)| x.to_string());
        for who in &row.contenders {
            for (at, run) in who.runs.iter().enumerate() {
                let figures = run.figures().into_iter().flat_map(|all| all.iter());
                let figures = figures.map(|(figure, value)| (figure.to_owned(), value));
                let parts = run.moved().filter(|run| run.verified);
                let parts = parts.into_iter().flat_map(|run| &run.downtime_parts);
                let parts = parts.map(|(part, ms)| (format!("downtime: {part} ms"), rounded(*ms)));
                for (figure, value) in figures.chain(parts) {
                    let (name, group, who) =
                        (field(&row.scenario.name), field(row.scenario.group), field(who.name));
                    let (run, figure) = (at + 1, field(&figure));
                    let _ = writeln!(text, "{name},{group},{x},{who},{run},{figure},{value}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{csv, field};
    use crate::report::samples::report;

    #[test]
    fn each_line_has_as_many_fields_as_the_first() {
        let text = csv(&report());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "quick,quick,,umem,1,fault_p50_us,20");
        assert!(lines.iter().all(|line| line.split(',').count() == 7), "{text}");
        assert!(text.contains("\nquick,quick,,umem,2,downtime: stop ms,0.1\n"), "{text}");
        assert!(text.contains("vcpus-4,vcpus,4,umem,2,total_ms,300"), "{text}");
    }

    #[test]
    fn what_would_break_a_line_is_quoted() {
        assert_eq!(field("qemu precopy, multifd 2"), "\"qemu precopy, multifd 2\"");
        assert_eq!(field("say \"it\""), "\"say \"\"it\"\"\"");
        assert_eq!(field("plain"), "plain");
    }
}
