//! What changes within a move, and moves on and on. tests/matrix.rs has the ways to move.
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
