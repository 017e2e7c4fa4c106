//! `umem bench` as a program: a report that can be read, and words for what is missing.
#![allow(missing_docs)]

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use umem_tests::{Lab, program};

fn bench(arguments: &[&str], lab: &Lab) -> Output {
    Command::new(program())
        .arg("bench")
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir(lab.folder())
        // No QEMU and no perf, whatever this host has.
        .env("PATH", lab.folder())
        .env_remove("UMEM_QEMU_SYSTEM")
        .env_remove("UMEM_QEMU_X86")
        .output()
        .expect("umem starts")
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn median(row: &Value, figure: &str) -> Option<f64> {
    row["contenders"][0]["figures"][figure]["median"].as_f64()
}

#[test]
fn the_quick_bench_writes_a_whole_report_and_says_what_is_missing() {
    let lab = Lab::new();
    let output = bench(
        &["--quick", "--against", "qemu", "--json", "a.json", "--csv", "a.csv", "--html", "a.html"],
        &lab,
    );
    let (said, errors) = words(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{errors}");
    assert!(errors.contains("perf"), "{errors}");
    let json = std::fs::read_to_string(lab.path("a.json")).expect("the report");
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&report["version"], &report["reps"]), (&1.into(), &1.into()));
    assert!(report["host"]["tcp_congestion_control"].is_string(), "{}", report["host"]);
    assert!(report["limits"]["tcp_mib_s"].as_f64() > Some(0.0), "{}", report["limits"]);
    let rows = report["scenarios"].as_array().expect("rows");
    let row = |name: &str| {
        let found = rows.iter().find(|row| row["scenario"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {rows:?}"))
    };
    let quick = row("quick");
    assert!(quick["notes"][0].as_str().is_some_and(|why| why.contains("qemu-system-misc")));
    assert_eq!(quick["contenders"][0]["verified_runs"], 1);
    for figure in ["total_ms", "drain_ms", "raw_ms", "drain_by_raw", "gap_at_switch_ms", "pause_ms"]
    {
        assert!(
            median(quick, figure) > Some(0.0),
            "{figure}: {}",
            quick["contenders"][0]["figures"]
        );
    }
    assert!(median(quick, "wire_by_filled") > Some(0.9), "what is filled cannot be compressed");
    let run = &quick["contenders"][0]["runs"][0];
    for curve in ["beats", "pages", "downtime_parts"] {
        assert!(run[curve].as_array().is_some_and(|points| points.len() > 1), "{curve}: {run}");
    }
    // With the background off, what the guest touches is all that moves while it is watched.
    let still = row("quick-no-background");
    assert!(median(still, "total_ms").is_none() && median(still, "faults") > Some(1000.0));
    assert!(median(still, "wire_by_filled") < Some(0.9));
    let precopy = row("quick-precopy");
    assert!(median(precopy, "drain_ms").is_none() && median(precopy, "faults") == Some(0.0));
    let faults = row("faults-4");
    assert_eq!(median(faults, "pages"), Some(16_384.0));
    assert!(
        !faults["contenders"][0]["runs"][0]["histogram"].as_array().expect("buckets").is_empty()
    );
    let csv = std::fs::read_to_string(lab.path("a.csv")).expect("the figures");
    assert!(csv.lines().any(|line| line.starts_with("quick,quick,,umem,1,total_ms,")), "{csv}");
    let html = std::fs::read_to_string(lab.path("a.html")).expect("the page");
    assert!(html.contains("<svg") && html.ends_with("</html>\n") && !html.contains("<script"));
    assert!(said.contains("| verified | 1/1 |"), "{said}");
}

#[test]
fn the_bench_lists_its_scenarios_and_names_those_near_a_wrong_one() {
    let lab = Lab::new();
    let output = bench(&["--list"], &lab);
    let (said, _) = words(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(said.lines().count() > 40 && said.contains("link-1g-cubic"), "{said}");
    let output = bench(&["--scenario", "vcpus-3"], &lab);
    let (said, errors) = words(&output);
    assert_eq!((output.status.code(), said.as_str()), (Some(2), ""));
    assert!(errors.contains("vcpus-3") && errors.contains("vcpus-4"), "{errors}");
}

#[test]
fn a_scenario_without_its_guest_is_left_out_with_the_way_to_get_it() {
    let lab = Lab::new();
    let output = Command::new(program())
        .args(["bench", "--quick", "--scenario", "linux-1g"])
        .current_dir(lab.folder())
        .env("UMEM_LINUX", lab.path("nothing"))
        .output()
        .expect("umem starts");
    let (said, errors) = words(&output);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(said.contains("left out: ") && said.contains("cargo xtask guest linux"), "{said}");
}
