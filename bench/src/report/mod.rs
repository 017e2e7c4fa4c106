//! What a session found, as JSON, CSV, tables for people, and a page with plots.

mod csv;
mod html;
mod page;
mod plot;
mod text;

pub use csv::csv;
pub use html::html;
pub use text::{list, text};

use crate::run::{FIGURES, FaultRun, Figures, MoveRun};
use crate::scenario::Scenario;
use crate::stats::{Spread, pair_ratios, rounded};
use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Raised when a field of the JSON means something else.
const VERSION: u32 = 1;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    /// What it was measured on.
    pub host: Value,
    /// What was measured.
    pub programs: Value,
    /// Runs of each contender.
    pub reps: u32,
    /// What the host can do at best: rates in MiB/s, round trips in microseconds.
    pub limits: Value,
    /// Row by row.
    pub scenarios: Vec<Measured>,
    /// How much else went on in the end.
    pub load_average_at_end: Option<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            version: VERSION,
            host: Value::Null,
            programs: Value::Null,
            reps: 0,
            limits: Value::Null,
            scenarios: Vec::new(),
            load_average_at_end: None,
        }
    }
}

/// A row and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The row.
    pub scenario: Scenario,
    /// Why nothing was measured, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// Who did not take part, and why.
    pub notes: Vec<String>,
    /// Those who did.
    pub contenders: Vec<Contended>,
}

/// A contender's runs of one row.
#[derive(Debug, Clone, Serialize)]
pub struct Contended {
    /// Who.
    pub name: &'static str,
    /// Whether it is umem.
    pub ours: bool,
    /// Runs that ended with all of the guest's memory checked and right.
    pub verified_runs: usize,
    /// Figures over these.
    pub figures: BTreeMap<&'static str, Spread>,
    /// Parts of the downtime in milliseconds, in their order, where they are told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub downtime_parts: Vec<(String, Spread)>,
    /// umem's figures by these, of pairs that were measured one after the other.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub umem_by_this: BTreeMap<&'static str, Spread>,
    /// Each run.
    pub runs: Vec<Outcome>,
}

/// What one run came to.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// A guest was moved.
    Moved(Box<MoveRun>),
    /// Memory was touched.
    Faulted(FaultRun),
    /// It did not come to its end.
    Failed {
        /// Why.
        error: String,
    },
}

impl Outcome {
    /// Of a run; a failure is told at once.
    pub(crate) fn of(run: Result<Self>, name: &str) -> Self {
        run.unwrap_or_else(|error| {
            let error = format!("{error:#}");
            eprintln!("bench: {name}: {error}");
            Self::Failed { error }
        })
    }

    /// Figures that count: of a run whose memory was right.
    #[must_use]
    pub fn figures(&self) -> Option<&Figures> {
        match self {
            Self::Moved(run) => run.verified.then_some(&run.figures),
            Self::Faulted(run) => Some(&run.figures),
            Self::Failed { .. } => None,
        }
    }

    /// Why it does not count, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Moved(run) if !run.verified => {
                Some(format!("damaged memory: {} bad pages", run.verdict.bad_pages))
            }
            Self::Moved(_) | Self::Faulted(_) => None,
            Self::Failed { error } => Some(error.clone()),
        }
    }

    /// The move, if it was one.
    #[must_use]
    pub fn moved(&self) -> Option<&MoveRun> {
        match self {
            Self::Moved(run) => Some(run),
            Self::Faulted(_) | Self::Failed { .. } => None,
        }
    }
}

impl Contended {
    /// Its runs, and what they come to.
    #[must_use]
    pub fn new(name: &'static str, ours: bool, runs: Vec<Outcome>) -> Self {
        let good: Vec<&Figures> = runs.iter().filter_map(Outcome::figures).collect();
        let spread = |figure: &'static str| {
            let values: Vec<f64> = good.iter().filter_map(|run| run.get(figure)).collect();
            Some((figure, Spread::of(&values)?))
        };
        let figures = FIGURES.iter().filter_map(|figure| spread(figure.name)).collect();
        let verified_runs = good.len();
        let (umem_by_this, downtime_parts) = (BTreeMap::new(), downtime_parts(&runs));
        Self { name, ours, verified_runs, figures, downtime_parts, umem_by_this, runs }
    }

    /// The median of a figure.
    #[must_use]
    pub fn median(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure).map(|spread| spread.median)
    }

    fn values(&self, figure: &str) -> Vec<Option<f64>> {
        self.runs.iter().map(|run| run.figures()?.get(figure)).collect()
    }
}

/// Over all runs that count.
fn downtime_parts(runs: &[Outcome]) -> Vec<(String, Spread)> {
    let mut values: Vec<(String, Vec<f64>)> = Vec::new();
    let good = runs.iter().filter_map(Outcome::moved).filter(|run| run.verified);
    for (name, ms) in good.flat_map(|run| &run.downtime_parts) {
        match values.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(*ms),
            None => values.push((name.clone(), vec![*ms])),
        }
    }
    values.into_iter().filter_map(|(name, values)| Some((name, Spread::of(&values)?))).collect()
}

impl Measured {
    /// A row that was measured; ratios follow.
    #[must_use]
    pub fn new(scenario: Scenario, notes: Vec<String>, mut contenders: Vec<Contended>) -> Self {
        let is_move = scenario.as_move().is_some();
        let ours = contenders.iter().find(|one| one.ours && is_move).cloned();
        if let Some(ours) = ours {
            for theirs in contenders.iter_mut().filter(|one| !one.ours) {
                let ratio = |name: &'static str| {
                    let ratios = pair_ratios(&ours.values(name), &theirs.values(name));
                    Some((name, Spread::of(&ratios)?))
                };
                theirs.umem_by_this =
                    FIGURES.iter().filter_map(|figure| ratio(figure.name)).collect();
            }
        }
        Self { scenario, left_out: None, notes, contenders }
    }

    /// A row that was not.
    #[must_use]
    pub const fn left_out(scenario: Scenario, why: String) -> Self {
        Self { scenario, left_out: Some(why), notes: Vec::new(), contenders: Vec::new() }
    }
}

impl Report {
    /// What makes the command fail: runs of ours that failed, and damaged memory of anybody's.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for row in &self.scenarios {
            for who in &row.contenders {
                let counts = |run: &&Outcome| who.ours || matches!(run, Outcome::Moved(_));
                let problems = who.runs.iter().filter(counts).filter_map(Outcome::problem);
                failures.extend(
                    problems.map(|why| format!("{}, {}: {why}", row.scenario.name, who.name)),
                );
            }
        }
        failures
    }
}

/// A number for people.
pub(crate) fn number(value: f64) -> String {
    let value = rounded(value);
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::guest::Verdict;
    use crate::scenario::{Selection, select};

    /// A run with these figures.
    pub(crate) fn run(total_ms: f64, verified: bool) -> Outcome {
        let mut figures = Figures::default();
        figures.set("total_ms", total_ms);
        figures.set("fault_p50_us", 20.0);
        figures.set("fault_p99_us", 90.0);
        Outcome::Moved(Box::new(MoveRun {
            figures,
            verified,
            verdict: Verdict {
                ok: verified,
                bad_pages: u64::from(!verified),
                ..Verdict::default()
            },
            downtime_parts: vec![("stop".into(), 0.1), ("save <&>".into(), 0.25)],
            beats: (0..100)
                .map(|at| (f64::from(at) * 10.0 - 300.0, at > 30, at as u64 * 5))
                .collect(),
            pages: vec![(0.0, 1000), (50.0, 400), (120.0, 0)],
            warmed_bytes: 1 << 20,
            congestion: Some("bbr".into()),
            remarks: Vec::new(),
            own: Default::default(),
        }))
    }

    /// A report with two contenders of a row, one row of a curve without QEMU, and one that was left out.
    pub(crate) fn report() -> Report {
        let rows = select(Selection::Named(&["quick*".to_owned(), "vcpus".to_owned()])).unwrap();
        let ours = Contended::new("umem", true, vec![run(100.0, true), run(300.0, true)]);
        let failed = Outcome::Failed { error: "the guest stands still".into() };
        let theirs =
            Contended::new("qemu postcopy + preempt", false, vec![run(200.0, true), failed]);
        let both = Measured::new(rows[0].clone(), Vec::new(), vec![ours.clone(), theirs]);
        let out = Measured::left_out(rows[1].clone(), "no luck".into());
        let mut scenarios = vec![both, out];
        let curve = rows.iter().filter(|row| row.group == "vcpus");
        scenarios.extend(
            curve.map(|row| {
                Measured::new(row.clone(), vec!["qemu: none".into()], vec![ours.clone()])
            }),
        );
        let limits = serde_json::json!({ "tcp_mib_s": 1800.0, "drain_mib_s": null });
        Report { reps: 2, scenarios, limits, ..Report::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{report, run};
    use super::*;

    #[test]
    fn medians_are_of_verified_runs_and_ratios_of_pairs() {
        let report = report();
        let [ours, theirs] = &report.scenarios[0].contenders[..] else { panic!() };
        assert_eq!((ours.verified_runs, theirs.verified_runs), (2, 1));
        assert_eq!(ours.median("total_ms"), Some(200.0));
        let ratio = theirs.umem_by_this["total_ms"];
        assert_eq!((ratio.runs, ratio.median), (1, 0.5), "the second pair has no partner");
        assert!(ours.umem_by_this.is_empty());
    }

    #[test]
    fn failed_runs_of_ours_and_damaged_memory_of_anybody_are_failures() {
        let mut report = report();
        assert!(report.failures().is_empty(), "a run of QEMU's that failed is a figure");
        let bad = Contended::new("qemu postcopy", false, vec![run(1.0, false)]);
        let failed = Outcome::Failed { error: "out of luck".into() };
        let ours = Contended::new("umem", true, vec![failed, run(1.0, true)]);
        report.scenarios[0].contenders = vec![ours, bad];
        let failures = report.failures();
        assert_eq!(failures.len(), 2);
        assert!(failures[0].contains("umem: out of luck"), "{failures:?}");
        assert!(failures[1].contains("damaged memory: 1 bad page"), "{failures:?}");
    }

    #[test]
    fn the_json_has_what_readers_look_for() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["version"], VERSION);
        let row = &json["scenarios"][0];
        assert_eq!(row["scenario"]["work"]["what"], "move");
        assert_eq!(row["scenario"]["work"]["options"]["background"], true);
        assert_eq!(row["contenders"][0]["figures"]["total_ms"]["median"], 200.0);
        assert_eq!(row["contenders"][0]["runs"][0]["verified"], true);
        assert_eq!(row["contenders"][1]["runs"][1]["error"], "the guest stands still");
        assert_eq!(row["contenders"][0]["downtime_parts"][0][0], "stop");
        assert_eq!(row["contenders"][0]["downtime_parts"][0][1]["median"], 0.1);
        assert_eq!(json["scenarios"][1]["left_out"], "no luck");
    }
}
