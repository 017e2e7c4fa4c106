//! Which charts a report has: of each row, and of each curve.

use super::plot::{Chart, Point, Series, Style};
use super::{Contended, Measured, Outcome, Report};
use crate::run::FIGURES;

/// Figures that are drawn against what differs in a group.
const CURVES: [&str; 12] = [
    "total_ms",
    "drain_ms",
    "drain_by_raw",
    "pause_ms",
    "gap_at_switch_ms",
    "stall_ms",
    "back_to_90_ms",
    "fault_mean_us",
    "fault_p99_us",
    "touch_p99_us",
    "tick_gap_ms",
    "faults_per_s",
];
/// Latencies by the share of faults or touches that do not exceed them.
const LADDERS: [(&str, [(&str, f64); 3]); 2] = [
    (
        "waits for pages, as the mover tells them",
        [("fault_p50_us", 50.0), ("fault_p99_us", 99.0), ("fault_max_us", 100.0)],
    ),
    (
        "random writes, as the guest timed them",
        [("touch_p50_us", 50.0), ("touch_p99_us", 99.0), ("touch_max_us", 100.0)],
    ),
];

fn chart(title: &str, x: &str, y: &str, series: Vec<Series>) -> Chart {
    let (title, x, y) = (title.to_owned(), x.to_owned(), y.to_owned());
    Chart { title, x, y, log_x: false, log_y: false, series }
}

/// One series for each contender that has points.
fn each(row: &Measured, style: Style, points: impl Fn(&Contended) -> Vec<Point>) -> Vec<Series> {
    let series = row.contenders.iter().map(|who| {
        let points = points(who);
        Series { name: who.name.to_owned(), style, points }
    });
    series.filter(|series| !series.points.is_empty()).collect()
}

/// Charts of one row: each contender's first run, or all runs where medians are drawn.
pub(super) fn of_row(row: &Measured) -> Vec<Chart> {
    let first = |who: &Contended| who.runs.iter().find_map(Outcome::moved).cloned();
    let beats = each(row, Style::Line, |who| {
        let beats = first(who).map_or_else(Vec::new, |run| run.beats);
        beats.into_iter().map(|(ms, _, writes)| (ms, writes as f64, None)).collect()
    });
    let pages = each(row, Style::Line, |who| {
        let pages = first(who).map_or_else(Vec::new, |run| run.pages);
        pages.into_iter().map(|(ms, left)| (ms, left as f64, None)).collect()
    });
    let mut charts = vec![
        chart(
            "the guest's writes around the switch",
            "ms from the last heartbeat at the source",
            "pages written",
            beats,
        ),
        chart("pages still to come", "ms from the command", "pages", pages),
    ];
    for (title, steps) in LADDERS {
        let ladder = each(row, Style::Dots, |who| {
            let step = |(figure, percent): &(&str, f64)| {
                let spread = who.figures.get(figure)?;
                Some((*percent, spread.median, Some((spread.min, spread.max))))
            };
            steps.iter().filter_map(step).collect()
        });
        charts.push(Chart { log_y: true, ..chart(title, "% that took no longer", "µs", ladder) });
    }
    let histogram = each(row, Style::Bars, |who| {
        let first = who.runs.iter().find_map(|run| match run {
            Outcome::Faulted(run) => Some(run.histogram.clone()),
            Outcome::Moved(_) | Outcome::Failed { .. } => None,
        });
        let buckets = first.unwrap_or_default();
        buckets.into_iter().map(|(us, count)| (us, count as f64, None)).collect()
    });
    let touches = chart("touches by the time that they took", "µs at most", "touches", histogram);
    charts.push(Chart { log_x: true, ..touches });
    charts
}

/// A chart for each figure of each group of rows that differ in one thing.
pub(super) fn curves(report: &Report) -> Vec<(&'static str, Vec<Chart>)> {
    let mut groups: Vec<&'static str> = Vec::new();
    for row in report.scenarios.iter().filter(|row| row.scenario.x.is_some()) {
        if !groups.contains(&row.scenario.group) {
            groups.push(row.scenario.group);
        }
    }
    groups.into_iter().map(|group| (group, curves_of(report, group))).collect()
}

fn curves_of(report: &Report, group: &str) -> Vec<Chart> {
    let rows: Vec<&Measured> =
        report.scenarios.iter().filter(|row| row.scenario.group == group).collect();
    let mut names: Vec<&'static str> = Vec::new();
    for who in rows.iter().flat_map(|row| &row.contenders) {
        if !names.contains(&who.name) {
            names.push(who.name);
        }
    }
    let x = rows.iter().find_map(|row| row.scenario.x).map_or("", |(what, _)| what);
    let drawn = FIGURES.iter().filter(|figure| CURVES.contains(&figure.name));
    drawn
        .filter_map(|figure| {
            let series: Vec<Series> = names
                .iter()
                .map(|name| Series {
                    name: (*name).to_owned(),
                    style: Style::Dots,
                    points: rows.iter().filter_map(|row| point(row, name, figure.name)).collect(),
                })
                .filter(|series| !series.points.is_empty())
                .collect();
            let wide = rows.iter().filter_map(|row| row.scenario.x).map(|(_, x)| x);
            // Sizes that double are as far apart as they are.
            let log_x = wide.clone().all(|x| x > 0.0) && wide.fold(0.0, f64::max) > 100.0;
            (!series.is_empty())
                .then(|| Chart { log_x, ..chart(figure.heading, x, figure.heading, series) })
        })
        .collect()
}

fn point(row: &Measured, name: &str, figure: &str) -> Option<Point> {
    let who = row.contenders.iter().find(|who| who.name == name)?;
    let spread = who.figures.get(figure)?;
    Some((row.scenario.x?.1, spread.median, Some((spread.min, spread.max))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::report;

    #[test]
    fn every_curve_is_of_a_figure() {
        for name in CURVES
            .iter()
            .chain(LADDERS.iter().flat_map(|(_, steps)| steps.iter().map(|(name, _)| name)))
        {
            assert!(FIGURES.iter().any(|figure| figure.name == *name), "{name}");
        }
    }

    #[test]
    fn rows_that_differ_in_one_thing_become_a_curve_with_all_their_points() {
        let report = report();
        let curves = curves(&report);
        let (group, charts) = &curves[0];
        assert_eq!((*group, curves.len()), ("vcpus", 1));
        let total = charts.iter().find(|chart| chart.title == "total ms").unwrap();
        let points: Vec<_> = total.series[0].points.iter().map(|(x, y, _)| (*x, *y)).collect();
        assert_eq!(points, [(1.0, 200.0), (2.0, 200.0), (4.0, 200.0)]);
        assert_eq!(total.x, "vCPUs");
    }

    #[test]
    fn a_row_has_a_timeline_of_each_contender() {
        let charts = of_row(&report().scenarios[0]);
        assert_eq!(charts[0].series.len(), 2);
        assert_eq!(charts[1].series[0].points.last(), Some(&(120.0, 0.0, None)));
        assert_eq!(charts[2].series[0].points.len(), 2, "there is no maximum");
    }
}
