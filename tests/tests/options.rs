//! Options that cannot be: one clear line, and 2 as the process's status.
#![allow(missing_docs)]

use std::process::{Command, Output, Stdio};
use umem_tests::program;

fn umem(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().expect("umem starts")
}

fn refused(arguments: &str, words: &[&str]) {
    let all: Vec<&str> = std::iter::once("vm").chain(arguments.split_whitespace()).collect();
    let output = umem(&all);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    assert!(output.stdout.is_empty(), "{arguments}");
    for word in words {
        assert!(text.contains(word), "{arguments}: no '{word}' in: {text}");
    }
}

#[test]
fn an_option_that_is_unknown_or_lacks_its_value_is_named() {
    refused("-kernel k -frobnicate", &["-frobnicate"]);
    refused("--kernel k stray", &["stray"]);
    refused("-kernel", &["-kernel", "needs a value"]);
    refused("-kernel k -kernel l", &["-kernel", "twice"]);
    refused("-kernel k -m none", &["-m", "none"]);
    refused("-kernel k -m 0", &["-m"]);
    refused("-kernel k -m 99999999999999999999G", &["-m"]);
    refused("-kernel k -serial nowhere:1", &["-serial", "nowhere:1"]);
    refused("-kernel k -monitor carrier-pigeon", &["-monitor", "carrier-pigeon"]);
    refused("-kernel k -drive format=qcow2,file=x", &["-drive", "qcow2"]);
    refused("-kernel k -device virtio-gpu", &["-device", "virtio-gpu"]);
    refused("-machine sifive_u -kernel k", &["-machine", "sifive_u"]);
    refused("-incoming rdma:h:1", &["-incoming", "rdma"]);
    refused("-incoming tcp:0:x -postcopy", &["-incoming", "port"]);
    refused("-incoming defer -postcopy -postcopy-flags 7", &["-postcopy-flags", "7"]);
    refused("-incoming defer -postcopy -postcopy-fault luck", &["-postcopy-fault"]);
}

#[test]
fn options_that_contradict_each_other_are_named() {
    refused("-m 64M", &["-kernel", "-incoming"]);
    refused("-kernel k -postcopy", &["-postcopy", "-incoming"]);
    refused("-incoming defer -postcopy-flags 1", &["-postcopy-flags", "-postcopy"]);
    refused("-incoming defer -postcopy-fault uffd", &["-postcopy-fault", "-postcopy"]);
    refused("-incoming defer -append x", &["-append", "-kernel"]);
    refused("-incoming defer -initrd x", &["-initrd", "-kernel"]);
    refused("-kernel k -serial stdio -monitor stdio", &["stdio", "more than one"]);
}

#[test]
fn what_this_version_lacks_is_said_clearly() {
    refused("-kernel k -smp 65", &["-smp", "65 vCPUs", "1 to 64"]);
    refused("-kernel k -smp 0", &["-smp"]);
    refused("-kernel k -accel xen", &["'xen'", "kvm and tcg"]);
    refused("-kernel k -accel tcg -cpu host", &["-cpu", "accel=kvm"]);
}

#[test]
fn help_names_every_option_of_the_manual() {
    let output = umem(&["vm", "-help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for option in [
        "machine",
        "m",
        "smp",
        "cpu",
        "kernel",
        "initrd",
        "append",
        "serial",
        "nographic",
        "monitor",
        "incoming",
        "postcopy",
        "postcopy-flags",
        "S",
    ] {
        assert!(text.contains(&format!("  -{option}")), "-{option} is missing: {text}");
    }
}

#[test]
fn a_machine_that_cannot_start_says_why_in_one_line() {
    let missing: [&[&str]; 4] = [
        &["vm", "-kernel", "/nowhere/kernel"],
        &["vm", "-incoming", "tcp:192.0.2.1:1", "-postcopy"],
        &["vm", "-incoming", "fd:99", "-postcopy"],
        &["vm", "-incoming", "defer", "-drive", "file=/nowhere/disk"],
    ];
    for arguments in missing {
        let output = umem(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    }
}
