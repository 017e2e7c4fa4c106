//! Everything works without privileges: userfaultfd for user mode only.
#![allow(missing_docs)]

use umem_tests::Lab;
use umem_tests::moving::{accept, complete, guest, ready};

fn moves(seed: u32, fault: &str) {
    let lab = Lab::new();
    let options = format!("-m 64M -postcopy -incoming tcp:127.0.0.1:0 -postcopy-fault {fault}");
    let mut destination = lab.vm("b", &options).ordinary_user().start();
    let mut source = lab.vm("a", "-m 64M").bare(&guest(seed)).ordinary_user().start();
    for vm in [&source, &destination] {
        assert!(vm.user().is_some_and(|user| user != 0), "runs as {:?}", vm.user());
    }
    ready(&source);
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p -n {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    // Console output and commands need pages that are not there.
    destination.serial.wait_beats(100);
    accept(&mut destination, "stop");
    accept(&mut destination, "cont");
    destination.verify();
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
    destination.verify();
}

#[test]
fn a_guest_of_an_ordinary_user_moves_with_faults_found_by_the_vcpu() {
    moves(91, "vcpu");
}

#[test]
fn a_guest_of_an_ordinary_user_moves_with_faults_found_by_the_kernel() {
    moves(92, "uffd");
}
