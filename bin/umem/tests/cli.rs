//! The program as its user meets it: real processes.
#![allow(missing_docs)]

use serde_json::Value;
use std::process::{Command, Output, Stdio};

fn umem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_umem"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("umem starts")
}

fn demo(arguments: &[&str]) -> (Option<i32>, Value) {
    let all = [&["demo", "--json", "--memory", "64M"], arguments].concat();
    let output = umem(&all);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "one line on standard output: {text}");
    (output.status.code(), serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn wrong_options_end_with_2_and_failures_with_1_each_in_one_line() {
    let cases: [(&[&str], i32, &str); 4] = [
        (&["vm", "-kernel", "k", "-postcopy"], 2, "-postcopy is for the destination"),
        (&["vm", "-incoming", "tcp:0:1", "-machine", "accel=xen"], 2, "no accelerator 'xen'"),
        (&["vm", "-kernel", "/nowhere", "-monitor", "none"], 1, "/nowhere"),
        (&["vm", "-incoming", "defer", "-qmp", "unix:/nowhere/q,server"], 1, "/nowhere/q"),
    ];
    for (arguments, status, part) in cases {
        let output = umem(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

/// Under KVM where it works, in each mode.
#[test]
fn the_demo_chooses_the_accelerator_and_moves_processors_with_their_state() {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    for mode in ["postcopy", "precopy", "hybrid"] {
        let (status, report) = demo(&["--vcpus", "2", "--mode", mode]);
        assert_eq!(status, Some(0), "{report}");
        assert_eq!(report["verified"], true, "{report}");
        assert_eq!(report["target"], if kvm { "x86_64" } else { "riscv64" });
        let processors = &report["verdict"]["processors"];
        assert_eq!(processors.is_object(), kvm, "{report}");
        if kvm {
            assert_eq!(processors["state_bad"], 0);
            assert!(processors["state_checks"].as_u64() > Some(0), "{processors}");
        }
    }
}

#[test]
fn the_demo_moves_a_guest_that_finds_all_its_memory() {
    for path in ["vcpu", "uffd"] {
        let (status, report) = demo(&["--accel", "tcg", "--seed", "7", "--fault-path", path]);
        assert_eq!(status, Some(0), "{report}");
        assert_eq!(report["verified"], true);
        assert_eq!(report["mode"], "postcopy");
        assert_eq!(report["pages"]["total"], 64 * 256);
        assert!(report["wire_bytes"].as_u64() > Some(40 << 20), "{}", report["wire_bytes"]);
        let windows = report["rate_100ms"].as_array().expect("windows");
        let switches = windows.iter().filter(|window| window["switch"] == true).count();
        assert_eq!(switches, 1, "{windows:?}");
        for key in ["p50", "p90", "p99", "p999", "max", "mean"] {
            assert!(report["fault_us"][key].is_f64(), "{key}");
        }
        for key in ["downtime_ms", "total_ms", "heartbeat_gap_ms"] {
            assert!(report[key].as_f64() > Some(0.0), "{key}");
        }
    }
}

#[test]
fn a_damaged_page_makes_the_demo_fail() {
    let (status, report) = demo(&["--inject-damage"]);
    assert_eq!((status, &report["verified"]), (Some(1), &Value::Bool(false)));
    assert_eq!(report["verdict"]["bad_pages"], 1);
}
