//! The bare-metal guest moves between real processes, over every kind of address.
#![allow(missing_docs)]

use serde_json::json;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use umem_tests::moving::{accept, complete, guest, phases, ready, refuse};
use umem_tests::{Lab, Vm, skipped, until};

/// Before a move: who says what.
fn looks_before(source: &mut Vm, destination: &mut Vm) {
    assert_eq!(source.status(), "running");
    assert_eq!(source.text.command("info status"), "VM status: running\n");
    assert_eq!(source.text.command("info migrate"), "no migration yet\n");
    assert_eq!(destination.status(), "inmigrate");
    let refused = destination.text.command("cont");
    assert!(refused.contains("has not arrived yet"), "{refused}");
}

/// Waits for the end of a move and looks at both ends.
fn looks_after(source: &mut Vm, destination: &mut Vm) {
    complete(source, destination);
    assert_eq!(
        source.text.command("info status"),
        "VM status: paused (postmigrate)\n  the guest runs at the destination and needs nothing from here\n"
    );
    assert_eq!(destination.status(), "running");
    refuse(source, "system_reset", &["handed over"]);
    assert!(source.qmp.command("cont", json!({})).is_err());
    let text = destination.text.command("info migrate");
    assert!(text.contains("verified: yes, both ends agree"), "{text}");
}

/// The guest's clock goes on over the switch, by no more than the host saw, and the guest itself
/// never goes back.
fn clock_goes_on(source: &Vm, destination: &Vm) {
    destination.serial.wait_beats(20);
    let (before, after) = (source.serial.beats(), destination.serial.beats());
    let all: Vec<_> = before.iter().chain(&after).collect();
    for pair in all.windows(2) {
        assert!(pair[0].clock < pair[1].clock, "the clock goes back: {pair:?}");
        assert!(pair[0].writes <= pair[1].writes, "writes are lost: {pair:?}");
    }
    // Over the whole of both runs the guest's clock and ours agree, the move included. How late a
    // line is read here varies, on a busy host by much.
    let (Some(first), Some(last)) = (all.first(), all.last()) else { panic!("no heartbeats") };
    let guest = Duration::from_micros(last.clock - first.clock);
    let host = last.at - first.at;
    assert!(guest.abs_diff(host) < Duration::from_secs(5), "guest {guest:?}, host {host:?}");
}

fn stop_and_cont(vm: &mut Vm) {
    assert_eq!(vm.text.command("stop"), "");
    assert_eq!(vm.status(), "paused");
    // What it printed before may still be on its way here.
    until("a stopped guest to be silent", || {
        let beats = vm.serial.beats().len();
        std::thread::sleep(Duration::from_millis(100));
        (vm.serial.beats().len() == beats).then_some(())
    });
    assert_eq!(vm.text.command("cont"), "");
    assert_eq!(vm.status(), "running");
    vm.serial.wait_beats(20);
}

fn move_over(lab: &Lab, source: &mut Vm, destination: &mut Vm, uri: &str) {
    ready(source);
    looks_before(source, destination);
    lab.note(format!("migrate -p {uri}"));
    assert_eq!(source.text.command(&format!("migrate -p {uri}")), "");
    looks_after(source, destination);
    clock_goes_on(source, destination);
    stop_and_cont(destination);
    destination.verify();
}

#[test]
fn a_guest_moves_over_tcp() {
    let lab = Lab::new();
    let mut destination =
        lab.vm("b", "-m 128M -postcopy -machine accel=tcg -incoming tcp:127.0.0.1:0").start();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(11)).start();
    let uri = destination.address();
    move_over(&lab, &mut source, &mut destination, &uri);
}

#[test]
fn a_guest_moves_over_a_unix_socket() {
    let lab = Lab::new();
    let uri = format!("unix:{}", lab.path("m").display());
    let mut destination = lab.vm("b", "-m 128M -postcopy").option(["-incoming", &uri]).start();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(12)).start();
    move_over(&lab, &mut source, &mut destination, &uri);
    assert!(!lab.path("m").exists(), "the socket is removed when nobody is awaited any more");
}

#[test]
fn a_guest_moves_over_one_inherited_descriptor() {
    let lab = Lab::new();
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut destination =
        lab.vm("b", "-m 128M -postcopy -incoming fd:0").descriptor_0(theirs).start();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(13)).descriptor_0(ours).start();
    move_over(&lab, &mut source, &mut destination, "fd:0");
}

#[test]
fn a_guest_moves_to_a_vm_that_was_told_later_where_to_listen() {
    let lab = Lab::new();
    let mut destination = lab.vm("b", "-m 128M -postcopy -incoming defer").start();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(14)).start();
    assert_eq!(destination.text.command("info migrate"), "no migration yet\n");
    let wrong = destination.text.command("migrate_incoming tcp:nonsense");
    assert!(wrong.contains("the port is missing"), "{wrong}");
    assert_eq!(destination.text.command("migrate_incoming tcp:127.0.0.1:0"), "");
    let again = destination.text.command("migrate_incoming tcp:127.0.0.1:0");
    assert!(again.contains("listens already"), "{again}");
    let not_here = source.text.command("migrate_incoming tcp:127.0.0.1:0");
    assert!(not_here.contains("does not wait for a guest"), "{not_here}");
    let uri = destination.address();
    move_over(&lab, &mut source, &mut destination, &uri);
}

#[test]
fn both_ends_tell_the_course_of_a_move() {
    let lab = Lab::new();
    let mut destination = lab.vm("b", "-m 128M -postcopy -incoming tcp:127.0.0.1:0").start();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(15)).start();
    ready(&source);
    let uri = destination.address();
    // Without the background there is a long time within the move.
    assert_eq!(source.text.command(&format!("migrate -p -n {uri}")), "");
    let gone = source.wait_phase(&["postcopy-active"]);
    let come = destination.wait_phase(&["postcopy-active"]);
    destination.serial.wait_beats(20);
    for status in [&gone, &come] {
        assert_eq!(status["mode"], "postcopy");
        assert!(status["pages"]["remaining"].as_u64() > Some(1000), "{status:#}");
        assert_eq!(status["verified"], false);
    }
    assert!(destination.migration()["faults"]["count"].as_u64() > Some(0));
    assert_eq!((source.status(), destination.status()), ("postmigrate".into(), "running".into()));
    let text = source.text.command("info migrate");
    assert!(text.contains("Migration status: postcopy-active"), "{text}");
    assert!(text.contains("background: off"), "{text}");
    let text = destination.text.command("info migrate");
    assert!(text.contains("remaining") && text.contains("faults: "), "{text}");

    let background = json!({ "parameter": "postcopy-background", "value": "on" });
    source.qmp.command("x-umem-migrate-set-parameter", background).expect("on");
    looks_after(&mut source, &mut destination);
    destination.verify();
    for vm in [&mut source, &mut destination] {
        let phases = until("the last phase to be told", || {
            let phases = phases(vm);
            (phases.last().map(String::as_str) == Some("completed")).then_some(phases)
        });
        assert!(phases.contains(&"postcopy-active".to_owned()), "{phases:?}");
    }
}

#[test]
fn cpus_are_kept_from_sleeping_as_long_as_was_asked_for() {
    let device = Path::new("/dev/cpu_dma_latency");
    if let Err(error) = File::options().write(true).open(device) {
        return skipped(&format!("requests for CPUs that do not sleep: {error}"));
    }
    for word in ["on", "off", "auto"] {
        let lab = Lab::new();
        let mut there = lab.vm("b", "-m 64M -postcopy -incoming defer").start();
        let mut here = lab.vm("a", "-m 64M").bare(&guest(19)).start();
        ready(&here);
        for vm in [&mut here, &mut there] {
            accept(vm, &format!("migrate_set_parameter low-cpu-latency {word}"));
            assert!(!vm.has_open(device));
        }
        accept(&mut there, "migrate_incoming tcp:127.0.0.1:0");
        let uri = there.address();
        accept(&mut here, &format!("migrate -p -n {uri}"));
        here.wait_phase(&["postcopy-active"]);
        there.serial.wait_beats(5);
        match word {
            "auto" => until("the request to end by itself", || {
                (!here.has_open(device) && !there.has_open(device)).then_some(())
            }),
            word => {
                for vm in [&here, &there] {
                    assert_eq!(vm.has_open(device), word == "on", "{word}");
                }
            }
        }
        assert_eq!(here.phase(), "postcopy-active");
        accept(&mut here, "migrate_set_parameter postcopy-background on");
        complete(&mut here, &mut there);
        until("no request to be left", || {
            (!here.has_open(device) && !there.has_open(device)).then_some(())
        });
        there.verify();
    }
}

#[test]
fn a_vm_whose_guest_has_left_gives_its_memory_back_and_takes_another_in() {
    let lab = Lab::new();
    let mut there = lab.vm("b", "-m 128M -incoming tcp:127.0.0.1:0").start();
    let mut here = lab.vm("a", "-m 128M").bare(&guest(17)).start();
    for vm in [&mut here, &mut there] {
        accept(vm, "migrate_set_capability postcopy-ram on");
    }
    ready(&here);
    refuse(&mut here, "migrate_incoming tcp:127.0.0.1:0", &["it has one"]);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p -n {uri}"));
    here.wait_phase(&["postcopy-active"]);
    there.serial.wait_beats(20);
    refuse(&mut here, "migrate_incoming tcp:127.0.0.1:0", &["still needs this process"]);
    let full = here.memory_kib("VmRSS");
    accept(&mut here, "migrate_set_parameter postcopy-background on");
    complete(&mut here, &mut there);
    until("the memory to be given back", || {
        (here.memory_kib("VmRSS") + (64 << 10) < full).then_some(())
    });
    accept(&mut here, "migrate_incoming tcp:127.0.0.1:0");
    assert_eq!(here.status(), "inmigrate");
    refuse(&mut here, "cont", &["has not arrived yet"]);
    refuse(&mut here, "migrate_incoming tcp:127.0.0.1:0", &["listens already"]);
    let back = here.address();
    accept(&mut there, &format!("migrate {back}"));
    complete(&mut there, &mut here);
    here.serial.wait_beats(20);
    here.verify();
    // One that is reset where it arrived boots what this process was started with.
    let from = here.serial.lines();
    accept(&mut here, "system_reset");
    here.serial.wait_line(from, "ready ");
    here.verify();
}
