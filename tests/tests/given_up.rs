//! Guests that are reset or switched off while most of their memory is still at the source.
#![allow(missing_docs)]

use umem_tests::moving::{accept, guest, ready};
use umem_tests::{Lab, Vm};

/// A guest that has been handed over, most of whose pages are still at the source.
fn half_moved(lab: &Lab, seed: u32) -> (Vm, Vm) {
    let mut source = lab.vm("a", "-m 128M").bare(&guest(seed)).start();
    ready(&source);
    let listen = "-m 128M -postcopy -incoming tcp:127.0.0.1:0";
    let mut destination = lab.vm("b", listen).bare(&guest(seed + 1)).start();
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p -n {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    (source, destination)
}

fn is_not_needed(vm: &mut Vm) {
    let status = vm.wait_phase(&["completed"]);
    assert_eq!((&status["verified"], &status["error"]), (&false.into(), &().into()), "{status:#}");
}

#[test]
fn a_guest_that_is_reset_or_switched_off_frees_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination) = half_moved(&lab, 36);
    let from = destination.serial.lines();
    accept(&mut destination, "system_reset");
    destination.serial.wait_line(from, "ready ");
    is_not_needed(&mut source);
    is_not_needed(&mut destination);
    source.text.last_command("quit");
    source.wait_end();
    destination.verify();
    drop((source, destination));

    let (mut source, mut destination) = half_moved(&lab, 38);
    destination.serial.send(b"q");
    assert_eq!(destination.wait_end().code(), Some(0), "{}", destination.words());
    is_not_needed(&mut source);
}
