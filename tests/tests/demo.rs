//! The demo, and pages that are damaged on purpose.
#![allow(missing_docs)]

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use umem_tests::moving::{accept, complete, guest, ready};
use umem_tests::{Lab, field, linux, program, skipped};

fn demo(arguments: &str) -> (Output, String) {
    let output = Command::new(program())
        .arg("demo")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("umem starts");
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (output, text)
}

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "more than one line: {text}");
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_damaged_page_makes_the_verdict_bad() {
    let lab = Lab::new();
    let mut destination = lab.vm("b", "-m 64M -postcopy -incoming tcp:127.0.0.1:0").start();
    let mut source = lab.vm("a", "-m 64M").bare(&guest(71)).start();
    ready(&source);
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p {uri}"));
    complete(&mut source, &mut destination);
    destination.verify();
    destination.serial.send(b"d");
    let verdict = destination.verdict();
    assert!(verdict.starts_with("verdict bad "), "{verdict}");
    assert_eq!(field(&verdict, "bad_pages"), Some(1), "{verdict}");
    assert!(field(&verdict, "first_bad").is_some(), "{verdict}");
}

#[test]
fn damage_before_the_move_is_found_after_it() {
    let lab = Lab::new();
    let mut destination = lab.vm("b", "-m 64M -postcopy -incoming tcp:127.0.0.1:0").start();
    let mut source = lab.vm("a", "-m 64M").bare(&guest(72)).start();
    ready(&source);
    source.serial.send(b"d");
    source.serial.wait_beats(20);
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p {uri}"));
    // What is moved is what was there: both ends agree.
    complete(&mut source, &mut destination);
    let verdict = destination.verdict();
    assert!(verdict.starts_with("verdict bad "), "{verdict}");
}

#[test]
fn the_demo_reports_one_line_of_json() {
    let (output, text) = demo("--json --memory 256M --dirty-rate 5000");
    let report = json(&text);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["verified"], &report["mode"]), (&Value::Bool(true), &"postcopy".into()));
    for name in ["downtime_ms", "total_ms", "heartbeat_gap_ms"] {
        assert!(report[name].as_f64() > Some(0.0), "{name}: {report:#}");
    }
    for name in ["count", "mean", "p50", "p90", "p99", "p999", "max"] {
        assert!(report["fault_us"][name].is_number(), "fault_us {name}: {report:#}");
    }
    for name in ["demand", "prefault", "background", "zero", "total"] {
        assert!(report["pages"][name].is_u64(), "pages {name}: {report:#}");
    }
    assert_eq!(report["pages"]["total"], 256 * 256, "{report:#}");
    let zero = report["pages"]["zero"].as_u64();
    assert!(zero > Some(256 * 256 / 5), "about 30 % was never touched: {report:#}");
    // 70 % of the memory cannot be compressed; the rest must not go as pages.
    let wire = report["wire_bytes"].as_u64().expect("a number") >> 20;
    assert!((150..230).contains(&wire), "{wire} MiB on the wire");
    let windows = report["rate_100ms"].as_array().expect("windows");
    assert!(windows.len() > 3, "{windows:?}");
    assert!(report["phases_ms"].as_object().is_some_and(|parts| !parts.is_empty()), "{report:#}");
}

#[test]
fn the_demo_counts_what_a_precopy_did() {
    let (output, text) = demo("--json --memory 96M --mode precopy --bandwidth 100 --connections 2");
    let report = json(&text);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["verified"], &report["mode"]), (&Value::Bool(true), &"precopy".into()));
    assert_eq!(report["pages"]["precopy"], 96 * 256, "{report:#}");
    assert_eq!(report["fault_us"]["count"], 0, "{report:#}");
    assert!(report["rounds"]["rounds"].as_u64() >= Some(2), "{report:#}");
    assert!(report["rounds"]["copies"].as_u64() > Some(96 * 256), "{report:#}");
    assert_eq!(report["rounds"]["discarded"], 0, "{report:#}");
    for name in ["dirty_pages_rate", "send_rate"] {
        assert!(report["rounds"][name].as_f64() > Some(0.0), "{name}: {report:#}");
    }
    assert!(report["downtime_ms"].as_f64() > Some(0.0), "{report:#}");
    assert_eq!(phases(&report), ["setup", "active", "device", "completed"]);
}

#[test]
fn the_demo_counts_what_a_hybrid_move_did() {
    let (output, text) = demo("--json --memory 96M --mode hybrid --rounds 2 --bandwidth 100");
    let report = json(&text);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["verified"], &report["mode"]), (&Value::Bool(true), &"hybrid".into()));
    assert!((1..=2).contains(&report["rounds"]["rounds"].as_u64().unwrap_or(0)), "{report:#}");
    let pages = |cause: &str| report["pages"][cause].as_u64().unwrap_or_default();
    let sum = pages("precopy") + pages("demand") + pages("prefault") + pages("background");
    assert_eq!(sum, 96 * 256, "{report:#}");
    let discarded = report["rounds"]["discarded"].as_u64().unwrap_or_default();
    assert!(discarded > 0 && pages("precopy") > discarded, "{report:#}");
    assert_eq!(phases(&report), ["setup", "active", "device", "postcopy-active", "completed"]);
}

/// Phases of the migration at the source.
fn phases(report: &Value) -> Vec<&str> {
    report["phases"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_demo_names_an_option_that_means_nothing_in_its_mode() {
    let (output, text) = demo("--mode precopy --forward 4");
    assert_eq!((output.status.code(), text.as_str()), (Some(2), ""));
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.contains("--forward") && words.contains("postcopy or hybrid"), "{words}");
}

#[test]
fn the_demo_without_json_ends_with_the_guests_verdict() {
    let (output, text) = demo("--memory 96M");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no terminal's codes: {text}");
    for word in ["downtime", "p99", "demand", "verif"] {
        assert!(text.to_lowercase().contains(word), "no '{word}' in: {text}");
    }
}

#[test]
fn the_demo_fails_when_a_page_is_damaged() {
    let (output, text) = demo("--inject-damage --json --memory 64M");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(json(&text)["verified"], false);
    let (output, text) = demo("--inject-damage --memory 64M");
    assert_eq!(output.status.code(), Some(1), "{text}");
}

#[test]
fn the_demo_moves_several_vcpus_and_both_guests_on_huge_pages() {
    let (output, text) = demo("--json --memory 256M --dirty-rate 4000 --vcpus 3");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report = json(&text);
    assert_eq!(report["verdict"]["workers"], 3);
    assert!(report["verdict"]["tokens"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["verdict"]["stale"], 0);
    let linux = linux("Image");
    let linux = linux.parent().expect("a folder").display().to_string();
    let kernel = format!("--linux --kernel {linux}/Image --initrd {linux}/initramfs.cpio");
    for guest in ["--vcpus 2", &kernel] {
        let arguments = format!("--json --memory 256M --fill 30 --hugepages 2M {guest}");
        let (output, text) = demo(&arguments);
        if !output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains("huge pages")
        {
            return skipped("demo --hugepages: this host sets none aside");
        }
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(json(&text)["verified"], true);
    }
}
