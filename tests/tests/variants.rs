//! Both ways to find missing pages, the ways to send them, and moves on and on.
#![allow(missing_docs)]

use serde_json::{Value, json};
use umem_tests::moving::{accept, complete, guest, ready};
use umem_tests::{Lab, Vm, until};

fn pair(lab: &Lab, seed: u32, options: &str) -> (Vm, Vm, String) {
    let listen = format!("-m 96M -postcopy -incoming tcp:127.0.0.1:0 {options}");
    let mut destination = lab.vm("b", &listen).start();
    let source = lab.vm("a", "-m 96M").bare(&guest(seed)).start();
    ready(&source);
    let uri = destination.address();
    (source, destination, uri)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Moves with the background; then the guest checks its memory.
fn whole(options: &str, seed: u32) -> (Value, Value) {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, seed, options);
    accept(&mut source, &format!("migrate -p {uri}"));
    let ends = complete(&mut source, &mut destination);
    destination.verify();
    ends
}

#[test]
fn faults_are_found_by_the_kernel() {
    let (_, come) = whole("-postcopy-fault uffd", 21);
    assert!(number(&come["faults"]["count"]) > 0, "{come:#}");
}

#[test]
fn faults_are_found_by_the_vcpu() {
    let (_, come) = whole("-postcopy-fault vcpu -postcopy-flags 1", 22);
    assert!(number(&come["faults"]["count"]) > 0, "{come:#}");
}

/// Only what the guest asks for goes, until it has asked for everything.
fn by_demand_alone(options: &str, seed: u32) {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, seed, options);
    accept(&mut source, &format!("migrate -p -n {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    destination.serial.wait_beats(50);
    let (gone, come) = (source.migration(), destination.migration());
    for status in [&gone, &come] {
        assert_eq!(status["pages"]["background"], 0, "{status:#}");
        assert_eq!(status["pages"]["prefault"], 0, "{status:#}");
        assert_eq!(status["phase"], "postcopy-active");
    }
    // The check asks for every page of the guest's pool, most of its RAM.
    destination.verify();
    let come = destination.migration();
    assert_eq!(come["pages"]["background"], 0, "{come:#}");
    assert!(number(&come["pages"]["demand"]) > 20_000, "{come:#}");
    let counted = number(&come["pages"]["demand"]) + number(&come["pages"]["remaining"]);
    assert_eq!(counted, number(&come["pages"]["total"]), "{come:#}");
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
    destination.verify();
}

#[test]
fn without_background_only_pages_that_are_asked_for_go_to_the_vcpu() {
    by_demand_alone("-postcopy-fault vcpu", 23);
}

#[test]
fn without_background_only_pages_that_are_asked_for_go_to_the_kernel() {
    by_demand_alone("-postcopy-fault uffd", 24);
}

#[test]
fn neighbours_of_a_page_asked_for_come_along() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 25, "");
    accept(&mut source, &format!("migrate -p -n {uri} 16 4"));
    destination.wait_phase(&["postcopy-active"]);
    destination.serial.wait_beats(20);
    destination.verify();
    let come = destination.migration();
    let (demand, prefault) = (number(&come["pages"]["demand"]), number(&come["pages"]["prefault"]));
    assert_eq!(come["pages"]["background"], 0, "{come:#}");
    assert!(prefault > demand, "{demand} asked for, {prefault} came along");
    // At most 20 neighbours a page.
    assert!(prefault <= 20 * demand, "{demand} asked for, {prefault} came along");
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
}

#[test]
fn the_background_goes_on_behind_the_page_last_asked_for() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 26, "");
    accept(&mut source, &format!("migrate -p -m {uri} 8"));
    let (_, come) = complete(&mut source, &mut destination);
    assert!(number(&come["pages"]["background"]) > 0, "{come:#}");
    destination.verify();
}

#[test]
fn the_background_is_switched_off_and_on_within_a_move() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 27, "");
    // For the next move, before it; then within it.
    accept(&mut source, "migrate_set_parameter postcopy-background off");
    accept(&mut source, &format!("migrate -p {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    destination.serial.wait_beats(50);
    assert_eq!(source.migration()["background"], false);
    assert_eq!(destination.migration()["pages"]["background"], 0);
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    until("the background to send", || {
        (number(&destination.migration()["pages"]["background"]) > 0).then_some(())
    });
    source
        .qmp
        .command(
            "x-umem-migrate-set-parameter",
            json!({ "parameter": "postcopy-background", "value": "off" }),
        )
        .expect("off");
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
    destination.verify();
}

#[test]
fn a_guest_moves_on_and_on_and_back() {
    let lab = Lab::new();
    let mut here = lab.vm("a", "-m 64M").bare(&guest(28)).start();
    ready(&here);
    let mut last_clock = 0;
    // Back on the first one's name: a process is never used twice.
    for (name, fault) in [("b", "uffd"), ("c", "vcpu"), ("d", "uffd"), ("a", "vcpu")] {
        let options = "-m 64M -postcopy -incoming tcp:127.0.0.1:0 -postcopy-fault";
        let there = lab.vm(name, &format!("{options} {fault}"));
        let mut there = there.start();
        let uri = there.address();
        accept(&mut here, &format!("migrate -p {uri}"));
        complete(&mut here, &mut there);
        there.serial.wait_beats(20);
        let clock = there.serial.beats().first().map(|beat| beat.clock).unwrap_or_default();
        assert!(clock > last_clock, "the guest's clock went back: {last_clock} to {clock}");
        last_clock = clock;
        // The destination needs nobody.
        here.kill();
        here = there;
    }
    here.verify();
    here.serial.send(b"q");
    here.serial.wait_line(0, "bye");
    until("the guest to power off", || (!here.is_alive()).then_some(()));
}

#[test]
fn a_stopped_guest_arrives_stopped() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 29, "");
    accept(&mut source, "stop");
    accept(&mut source, &format!("migrate -p {uri}"));
    complete(&mut source, &mut destination);
    assert_eq!(destination.status(), "paused");
    assert!(destination.serial.beats().is_empty());
    accept(&mut destination, "cont");
    destination.serial.wait_beats(20);
    destination.verify();
}

#[test]
fn stop_and_cont_work_within_a_move() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 30, "");
    accept(&mut source, &format!("migrate -p -n {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    accept(&mut destination, "stop");
    assert_eq!(destination.status(), "paused");
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
    accept(&mut destination, "cont");
    destination.serial.wait_beats(20);
    destination.verify();
}
