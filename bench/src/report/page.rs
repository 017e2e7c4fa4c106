//! Which charts a report has: of each row, and of each curve.

use super::plot::{Chart, Point, Series, Style};
use super::{Contended, Measured, Outcome, Report};
use crate::run::FIGURES;

/// Figures that are drawn against what differs in a group.
const CURVES: [&str; 18] = [
    "total_ms",
    "drain_ms",
    "drain_by_raw",
    "pause_ms",
    "gap_at_switch_ms",
    "stall_ms",
    "back_to_90_ms",
    "first_second_percent",
    "fault_mean_us",
    "fault_p99_us",
    "touch_p99_us",
    "blackout_ms",
    "tick_gap_ms",
    "faults_per_s",
    "pages_per_request",
    "syscalls_per_page",
    "switches_per_page",
    "cpu_us_per_page",
];
/// Groups whose rows give one thing for another: which figure is drawn against which.
const TRADES: [(&str, &str, &str); 1] = [("bandwidth", "drain_ms", "fault_mean_us")];
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
    let wide = rows.iter().filter_map(|row| row.scenario.x).map(|(_, x)| x);
    // Sizes that double are as far apart as they are.
    let log_x = wide.clone().all(|x| x > 0.0) && wide.fold(0.0, f64::max) > 100.0;
    let series = |points: &dyn Fn(&Contended, f64) -> Option<Point>| -> Vec<Series> {
        let series = names.iter().map(|name| Series {
            name: (*name).to_owned(),
            style: Style::Dots,
            points: rows
                .iter()
                .filter_map(|row| {
                    let who = row.contenders.iter().find(|who| who.name == *name)?;
                    points(who, row.scenario.x?.1)
                })
                .collect(),
        });
        series.filter(|series| !series.points.is_empty()).collect()
    };
    let drawn = FIGURES.iter().filter(|figure| CURVES.contains(&figure.name)).map(|figure| {
        let points = series(&|who, x| {
            let spread = who.figures.get(figure.name)?;
            Some((x, spread.median, Some((spread.min, spread.max))))
        });
        Chart { log_x, ..chart(figure.heading, x, figure.heading, points) }
    });
    let traded = TRADES.iter().filter(|(name, ..)| *name == group).map(|(_, of, against)| {
        let points = series(&|who, _| {
            let spread = who.figures.get(against)?;
            Some((who.median(of)?, spread.median, Some((spread.min, spread.max))))
        });
        let title = format!("{} by {}, a point for each {x}", heading(against), heading(of));
        chart(&title, heading(of), heading(against), points)
    });
    traded.chain(drawn).filter(|chart| !chart.series.is_empty()).collect()
}

/// A figure's name for people.
fn heading(name: &str) -> &'static str {
    FIGURES.iter().find(|figure| figure.name == name).map_or("", |figure| figure.heading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, report};
    use crate::run::Figures;
    use crate::scenario::{Selection, select};

    #[test]
    fn every_curve_is_of_a_figure() {
        for name in CURVES
            .iter()
            .chain(TRADES.iter().flat_map(|(_, of, against)| [of, against]))
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
    fn what_the_background_costs_those_who_wait_is_one_curve_of_each_contender() {
        let rows = select(Selection::Named(&["bandwidth".to_owned()])).unwrap();
        let scenarios = (1..).zip(&rows).map(|(at, row)| {
            let run = |slower: f64| {
                let mut figures = Figures::default();
                figures.set("drain_ms", slower * 1000.0 / f64::from(at));
                figures.set("fault_mean_us", slower * 100.0 * f64::from(at));
                let Outcome::Moved(mut run) = samples::run(1.0, true) else { panic!() };
                run.figures = figures;
                vec![Outcome::Moved(run)]
            };
            let (ours, theirs) = (run(1.0), run(2.0));
            let both = [("umem", true, ours), ("qemu postcopy + preempt", false, theirs)];
            let both = both.map(|(name, ours, runs)| Contended::new(name, ours, runs));
            Measured::new(row.clone(), Vec::new(), both.into())
        });
        let report = Report { scenarios: scenarios.collect(), ..Report::default() };
        let chart = &curves(&report)[0].1[0];
        assert_eq!((chart.x.as_str(), chart.y.as_str()), ("drain ms", "fault mean µs"));
        let points = |series: &Series| -> Vec<_> {
            series.points.iter().map(|(x, y, _)| (*x, *y)).collect()
        };
        assert_eq!(chart.series.len(), 2);
        assert_eq!(points(&chart.series[0])[..2], [(1000.0, 100.0), (500.0, 200.0)]);
        assert_eq!(points(&chart.series[1])[..2], [(2000.0, 200.0), (1000.0, 400.0)]);
        assert_eq!(points(&chart.series[0]).len(), rows.len());
    }

    #[test]
    fn every_curve_that_the_documents_speak_of_has_its_points() {
        let groups =
            ["bandwidth", "memory", "connections", "round-trip", "faults", "kvm-vcpus", "vcpus"];
        for group in groups {
            let rows = select(Selection::Named(&[group.to_owned()])).unwrap();
            let ours = Contended::new("umem", true, vec![samples::run(1.0, true)]);
            let measured =
                rows.iter().map(|row| Measured::new(row.clone(), vec![], vec![ours.clone()]));
            let report = Report { scenarios: measured.collect(), ..Report::default() };
            let curves = curves(&report);
            let total = curves[0].1.iter().find(|chart| chart.title == "total ms").unwrap();
            assert_eq!(total.series[0].points.len(), rows.len(), "{group}");
        }
    }

    #[test]
    fn a_row_has_a_timeline_of_each_contender() {
        let charts = of_row(&report().scenarios[0]);
        assert_eq!(charts[0].series.len(), 2);
        assert_eq!(charts[1].series[0].points.last(), Some(&(120.0, 0.0, None)));
        assert_eq!(charts[2].series[0].points.len(), 2, "there is no maximum");
    }
}
