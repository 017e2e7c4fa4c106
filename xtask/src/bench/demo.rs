//! What `umem demo` says of its bare-metal guest.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use umem_bench::{stats, warm};

use super::Setup;
use crate::run;

/// A way to run the demo: what a reader tells it by, and its options.
struct Variant {
    key: &'static str,
    value: Value,
    options: Vec<String>,
}

/// Writes a second.
fn rates() -> Vec<Variant> {
    let variant = |rate: u64| Variant {
        key: "rate",
        value: rate.into(),
        options: vec!["--dirty-rate".to_owned(), rate.to_string()],
    };
    [2000, 20_000].map(variant).into()
}

/// Pages that the ends' RAM is made of; small ones are joined to huge ones afterwards.
fn pages() -> Vec<Variant> {
    let variant = |pages: &'static str| {
        let mut options = ["--dirty-rate", "5000"].map(String::from).to_vec();
        if pages != "4K" {
            options.extend(["--hugepages".to_owned(), pages.to_owned()]);
        }
        Variant { key: "pages", value: pages.into(), options }
    };
    ["4K", "4K:2M", "2M"].map(variant).into()
}

fn once(setup: &Setup, variant: &Variant) -> Result<Value> {
    warm::memory()?;
    let mut command = run::command(&setup.umem, ["demo", "--json"]);
    let text = run::text(command.args(&variant.options))?;
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
    report["joined"] = report["huge_pages_joined"][0].clone();
    Ok(report)
}

/// At different rates of writing.
pub(crate) fn measure(setup: &Setup) -> Result<Value> {
    medians(setup, &rates())
}

/// On different pages.
pub(crate) fn measure_pages(setup: &Setup) -> Result<Value> {
    medians(setup, &pages())
}

/// Medians of what a reader asks first, and the reports whole.
fn medians(setup: &Setup, variants: &[Variant]) -> Result<Value> {
    let mut runs: Vec<Vec<Value>> = variants.iter().map(|_| Vec::new()).collect();
    for run in 1..=setup.runs {
        for (variant, runs) in variants.iter().zip(&mut runs) {
            let Variant { key, value, .. } = variant;
            eprintln!("bench: demo, run {run} of {}, {key} {value}", setup.runs);
            runs.push(once(setup, variant)?);
        }
    }
    let rows = variants.iter().zip(runs).map(|(variant, runs)| {
        let mut row = json!({ variant.key: variant.value });
        for name in [
            "downtime_ms",
            "total_ms",
            "heartbeat_gap_switch_ms",
            "heartbeat_gap_ms",
            "fault_mean_us",
            "fault_p50_us",
            "fault_p99_us",
            "joined",
            "wire_bytes",
        ] {
            row[name] = stats::median_of(&runs, name);
        }
        row["runs"] = json!(runs);
        row
    });
    Ok(rows.collect())
}
