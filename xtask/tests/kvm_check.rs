//! `cargo xtask kvm-check` on what there is everywhere: the bare-metal guest, in small.
#![allow(missing_docs)]

use serde_json::Value;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs it with the program that is tested; its JSON and its Markdown. Its own folder must be empty afterwards.
fn kvm_check(folder: &Path, arguments: &[&str]) -> (Output, Value, String) {
    let (json, report) = (folder.join("found.json"), folder.join("report.md"));
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).expect("room for a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("kvm-check").args(arguments).arg("--json").arg(&json).arg("--report").arg(&report);
    if let Some(umem) = std::env::var_os("UMEM_BIN") {
        command.arg("--umem").arg(umem);
    }
    let output =
        command.env("TMPDIR", &temporary).stdin(Stdio::null()).output().expect("xtask starts");
    let left = fs::read_dir(&temporary).expect("the folder is ours").count();
    assert_eq!(left, 0, "files left; {output:?}");
    let text = fs::read(json).expect("the JSON was written");
    let found = serde_json::from_slice(&text).expect("it is JSON");
    (output, found, fs::read_to_string(report).expect("the report was written"))
}

fn skipped(line: &str) {
    eprintln!("skipped: {line}");
    if let Some(log) = std::env::var_os("UMEM_SKIP_LOG") {
        let mut log =
            File::options().append(true).create(true).open(log).expect("the log of skipped tests");
        writeln!(log, "{line}").expect("room in the log");
    }
}

fn kvm_works() -> bool {
    File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn result<'a>(found: &'a Value, name: &str) -> &'a str {
    let checks = found["checks"].as_array().expect("a list of checks");
    let check = checks.iter().find(|check| check["check"] == name);
    check.unwrap_or_else(|| panic!("no check '{name}': {found:#}"))["result"]
        .as_str()
        .expect("a word")
}

#[test]
fn everything_but_linux_is_checked_with_the_bare_metal_guest() {
    if !kvm_works() {
        return skipped("kvm-check with the test guest: no /dev/kvm that this user may open");
    }
    let folder = tempfile::tempdir().unwrap();
    let small = ["--guest", "test-guest", "--memory", "128M", "--vcpus", "2", "--reps", "1"];
    let (output, found, report) = kvm_check(folder.path(), &small);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}\n{found:#}");
    assert_eq!(found["all_passed"], true);
    for name in [
        "boot",
        "stop and cont",
        "postcopy",
        "precopy, back",
        "hybrid",
        "hybrid, back",
        "snapshot",
        "reset",
        "power-off",
        "on, background on, 1 of 1",
        "off, background on, 1 of 1",
        "on, background off, 1 of 1",
        "off, background off, 1 of 1",
    ] {
        assert_eq!(result(&found, name), "passed", "{name}");
    }
    for check in found["checks"].as_array().unwrap() {
        let pages = &check["figures"]["pages"];
        match check["check"].as_str().unwrap() {
            "postcopy" => assert!(pages["demand"].as_u64() > Some(0) && pages["precopy"] == 0),
            "precopy, back" => assert_eq!(pages["precopy"], pages["total"], "{check:#}"),
            "hybrid" => assert!(pages["precopy"].as_u64() > Some(0), "{check:#}"),
            _ => {}
        }
    }
    // Nine figures of one pair and of the medians, with and without background.
    assert_eq!(found["async_page_faults"]["rows"].as_array().unwrap().len(), 2 * 2 * 9);
    assert!(report.contains("| 2 vCPUs | hybrid, back | passed |"), "{report}");
    assert!(report.contains("| off | median | one write, p99, µs |"), "{report}");
}

#[test]
fn a_vm_that_does_not_start_is_a_failure_that_is_told() {
    if !kvm_works() {
        return skipped("kvm-check with a broken program: no /dev/kvm that this user may open");
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("umem");
    fs::write(&broken, "#!/bin/sh\necho out of luck >&2; exit 3\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&broken, mode).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["kvm-check", "--guest", "test-guest", "--memory", "64M", "--vcpus", "1"]);
    let output = command.arg("--umem").arg(&broken).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("| 1 vCPU | start | FAILED |"), "{report}");
    assert!(report.contains("out of luck"), "{report}");
    assert!(report.contains("no guest has moved by postcopy"), "{report}");
}
