//! What `umem demo` says of its bare-metal guest.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use umem_bench::{stats, warm};

use super::Setup;
use crate::run;

const RATES: [u64; 2] = [2000, 20_000];

fn once(setup: &Setup, rate: u64) -> Result<Value> {
    warm::memory()?;
    let mut command = run::command(&setup.umem, ["demo", "--json", "--dirty-rate"]);
    let text = run::text(command.arg(rate.to_string()))?;
    let mut report: Value = serde_json::from_str(&text).context("the demo's JSON")?;
    if report["verified"] != true {
        bail!("the demo's guest found its memory damaged: {}", report["verdict"]);
    }
    // The rest is the figures again, as each end tells them, and can be had from the demo itself.
    for name in ["source", "destination"] {
        report[name] = Value::Null;
    }
    for (short, name) in
        [("fault_mean_us", "mean"), ("fault_p50_us", "p50"), ("fault_p99_us", "p99")]
    {
        report[short] = report["fault_us"][name].clone();
    }
    Ok(report)
}

/// Medians of what a reader asks first, and the reports whole.
pub(crate) fn measure(setup: &Setup) -> Result<Value> {
    let mut runs: [Vec<Value>; 2] = Default::default();
    for run in 1..=setup.runs {
        for (rate, runs) in RATES.into_iter().zip(&mut runs) {
            eprintln!("bench: demo, run {run} of {}, {rate} writes/s", setup.runs);
            runs.push(once(setup, rate)?);
        }
    }
    let rows = RATES.into_iter().zip(runs).map(|(rate, runs)| {
        let mut row = json!({ "rate": rate });
        for name in [
            "downtime_ms",
            "total_ms",
            "heartbeat_gap_switch_ms",
            "heartbeat_gap_ms",
            "fault_mean_us",
            "fault_p50_us",
            "fault_p99_us",
            "wire_bytes",
        ] {
            row[name] = stats::median_of(&runs, name);
        }
        row["runs"] = json!(runs);
        row
    });
    Ok(rows.collect())
}
