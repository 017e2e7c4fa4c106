//! A guest under KVM that keeps a disk and a source of random numbers busy: what is in their queues, the interrupts
//! that are on their way, and how these are routed move with it, in each mode.
#![allow(missing_docs)]

use std::path::PathBuf;
use umem_tests::moving::{accept, complete, ready};
use umem_tests::scratch::{self, Requests, bad_sectors};
use umem_tests::{Lab, Vm, kvm_or_skip};

/// Boot arguments, with where the machine has its first two devices.
const GUEST: &str = "rate=2000 fill=70 beat_us=2000 seed=51 disk=0xd0000000:16 rng=0xd0001000:17";

/// A guest that is busy with its devices, with its VM's options and its disk.
fn busy(lab: &Lab) -> (Vm, String, PathBuf) {
    let disk = scratch::make(lab);
    let machine = format!(
        "-accel kvm -m 128M -smp 2 -drive file={},format=raw -device virtio-rng-device",
        disk.display()
    );
    let vm = lab.vm("a", &machine).bare_x86(GUEST).start();
    ready(&vm);
    (vm, machine, disk)
}

/// There, back and there again: state that was loaded is saved and loaded once more.
fn moves(test: &str, listen: &str, command: &str) {
    if !kvm_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let (mut here, machine, disk) = busy(&lab);
    let mut seen = scratch::go_on(Requests::default(), || here.verdict());
    for name in ["b", "c", "d"] {
        let options = format!("{machine} {listen} -incoming tcp:127.0.0.1:0");
        let mut there = lab.vm(name, &options).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        complete(&mut here, &mut there);
        there.serial.wait_beats(20);
        seen = scratch::go_on(seen, || there.verdict());
        here = there;
    }
    // What was written at the first is still looked at where the guest is now.
    scratch::alter(&disk);
    assert!(bad_sectors(&here.verdict()) > 1);
    here.serial.send(b"q");
    assert!(here.wait_end().success());
}

#[test]
fn devices_under_kvm_move_by_postcopy() {
    moves("KVM: devices, postcopy", "-postcopy", "migrate -p");
}

#[test]
fn devices_under_kvm_move_by_precopy() {
    moves("KVM: devices, precopy", "", "migrate");
}

#[test]
fn devices_under_kvm_move_in_rounds_and_by_postcopy() {
    moves("KVM: devices, hybrid", "-postcopy", "migrate -p --precopy 2");
}

/// Stopped and gone on with, and reset: the guest finds its devices as at the start.
#[test]
fn devices_under_kvm_survive_stop_and_reset() {
    if !kvm_or_skip("KVM: devices, stop and reset") {
        return;
    }
    let lab = Lab::new();
    let (mut vm, ..) = busy(&lab);
    let mut seen = scratch::go_on(Requests::default(), || vm.verdict());
    for _ in 0..10 {
        accept(&mut vm, "stop");
        accept(&mut vm, "cont");
        vm.serial.wait_beats(5);
    }
    seen = scratch::go_on(seen, || vm.verdict());
    assert!(seen.disk > 0);
    let lines = vm.serial.lines();
    accept(&mut vm, "system_reset");
    vm.serial.wait_line(lines, "ready ");
    vm.serial.wait_beats(20);
    scratch::go_on(Requests::default(), || vm.verdict());
    vm.serial.send(b"q");
    assert!(vm.wait_end().success());
}
