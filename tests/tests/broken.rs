//! Links that break and processes that die, before, in and after the handover. Exactly one end has
//! the guest, each says what it knows, and no monitor hangs.
#![allow(missing_docs)]

use rustix::process::Signal;
use umem_tests::matrix::SENT_AHEAD;
use umem_tests::moving::{accept, complete, error, guest, ready, refuse, stays};
use umem_tests::{Cut, Lab, Proxy, Recorded, Role, Vm, until};

const LISTEN: &str = "-m 64M -postcopy -incoming tcp:127.0.0.1:0";

fn pair(lab: &Lab, seed: u32, options: &str) -> (Vm, Vm, String) {
    let mut destination = lab.vm("b", &format!("{LISTEN} {options}")).start();
    let source = lab.vm("a", "-m 64M").bare(&guest(seed)).start();
    ready(&source);
    let uri = destination.address();
    (source, destination, uri)
}

/// The move that works after all.
fn then_moves(source: &mut Vm, destination: &mut Vm, uri: &str) {
    stays(source);
    accept(source, &format!("migrate -p {uri}"));
    complete(source, destination);
    destination.serial.wait_beats(20);
    destination.verify();
}

/// Has the guest move and leaves most of its pages behind.
fn leave_pages(source: &mut Vm, destination: &mut Vm, uri: &str) {
    accept(source, &format!("migrate -p -n {uri}"));
    source.wait_phase(&["postcopy-active"]);
    destination.wait_phase(&["postcopy-active"]);
    destination.serial.wait_beats(20);
}

/// Has the guest touch everything, so that it comes to wait for a page that never arrives.
fn wait_for_a_page(destination: &mut Vm) {
    destination.serial.send(b"v");
    until("the guest to wait for a page", || {
        let waiting = destination.migration()["waiting-for"].clone();
        waiting.as_array().is_some_and(|pages| !pages.is_empty()).then_some(())
    });
}

/// Cuts a move after so many bytes of one direction; whether the guest stayed.
fn cut(lab: &Lab, source: &mut Vm, destination: &mut Vm, proxy: &Proxy, cut: Cut) -> bool {
    lab.note(format!("{cut:?}"));
    proxy.heal(cut);
    accept(source, &format!("migrate -p -n {}", proxy.uri()));
    until("the cut, or the move", || {
        (proxy.is_broken() || source.phase() == "postcopy-active").then_some(())
    });
    // The source may have to ask who has the guest.
    proxy.heal(Cut::Never);
    let ends = ["failed", "postcopy-paused", "postcopy-active", "completed"];
    let end = source.wait_phase(&ends);
    let stayed = end["phase"] == "failed";
    if stayed {
        error(source, &[]);
        stays(source);
        // Exactly one: it may have been asked, but it never ran.
        assert_eq!(destination.status(), "inmigrate");
        assert!(destination.serial.beats().is_empty());
        until("the destination to wait again", || {
            let phase = destination.phase();
            ["failed", "listening"].contains(&phase.as_str()).then_some(())
        });
    } else {
        assert_eq!(source.status(), "postmigrate");
        refuse(source, "cont", &["handed over"]);
        until("the guest to run", || (destination.status() == "running").then_some(()));
    }
    stayed
}

/// Where HANDOVER begins and ends on the control connection, and the total of all connections' bytes
/// to the destination when it had passed whole.
fn handover(records: &[Recorded]) -> (usize, usize, u64) {
    let control =
        records.iter().find(|record| record.role() == Some(Role::Control)).expect("control");
    let mut place = 56;
    loop {
        let head = control.to_destination.get(place..place + 8).expect("a frame's head");
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let end = place + 8 + length;
        if head[0] == 4 {
            let passed = control.order.iter().find(|(_, bytes)| *bytes >= end).expect("its bytes");
            return (place, end, passed.0);
        }
        place = end;
    }
}

#[test]
fn no_page_goes_before_the_handover_but_those_that_the_guest_needs_first() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 51, "");
    let proxy = Proxy::start(&uri, Cut::Never, true);
    accept(&mut source, &format!("migrate -p {}", proxy.uri()));
    complete(&mut source, &mut destination);
    let records = proxy.records();
    let (place, _, total) = handover(&records);
    assert!(place < 32 << 10, "{place} bytes on the control connection before the handover");
    for wanted in [Role::Demand, Role::Bulk] {
        let mut lanes = records.iter().filter(|record| record.role() == Some(wanted)).peekable();
        assert!(lanes.peek().is_some(), "no {wanted:?} connection");
        for lane in lanes {
            let before = lane.order.iter().take_while(|(at, _)| *at <= total).last();
            let before = before.map_or(0, |(_, bytes)| *bytes);
            // Each page with its table and a head of its own.
            let ahead = SENT_AHEAD as usize * (4096 + 64);
            let most = 56 + if wanted == Role::Demand { ahead } else { 0 };
            assert!(
                (56..=most).contains(&before),
                "{wanted:?}: {before} bytes before the handover"
            );
        }
    }
    // The same count finds the pages after it.
    let after = records.iter().filter(|record| record.role() == Some(Role::Bulk));
    let pages: usize = after.map(|record| record.to_destination.len()).sum();
    assert!(pages > 40 << 20, "{pages} bytes of pages");
}

#[test]
fn a_link_that_breaks_before_the_handover_leaves_the_guest_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 41, "");
    let proxy = Proxy::start(&uri, Cut::Never, false);
    let forth =
        [0, 1, 8, 55, 56, 60, 64, 100, 150, 200, 300, 400, 600, 1000].map(Cut::ToDestination);
    let back = [0, 1, 23, 24, 30, 36].map(Cut::ToSource);
    for place in forth.into_iter().chain(back) {
        let stayed = cut(&lab, &mut source, &mut destination, &proxy, place);
        assert!(stayed, "the guest was handed over at {place:?}");
    }
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_link_that_breaks_in_the_handover_leaves_exactly_one_guest() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 52, "");
    let proxy = Proxy::start(&uri, Cut::Never, true);
    accept(&mut source, &format!("migrate -p -n {}", proxy.uri()));
    source.wait_phase(&["postcopy-active"]);
    let records = proxy.records();
    let (_, end, _) = handover(&records);
    assert_eq!(records[0].role(), Some(Role::Control));
    let (end, replies) = (end as u64, records[0].to_source);
    lab.note(format!("the handover ends after {end} bytes, {replies} came back"));
    drop((source, destination));

    // The saved state's length varies by some bytes from run to run: the places are tried around it.
    let forth = (0..20).map(|step| Cut::ControlToDestination(end - 40 + 4 * step));
    let back = (0..8).map(|step| Cut::ControlToSource((replies + 8 * step).saturating_sub(56)));
    let (mut left, mut stayed) = (0, 0);
    (source, destination, _) = pair(&lab, 53, "");
    let mut proxy = Proxy::start(&destination.address(), Cut::Never, false);
    for place in forth.chain(back) {
        if cut(&lab, &mut source, &mut destination, &proxy, place) {
            stayed += 1;
        } else {
            left += 1;
            drop((source, destination));
            (source, destination, _) = pair(&lab, 53, "");
            proxy = Proxy::start(&destination.address(), Cut::Never, false);
        }
    }
    assert!(
        left > 0 && stayed > 0,
        "no place in the handover was met: {left} left, {stayed} stayed"
    );
    let uri = proxy.uri();
    proxy.heal(Cut::Never);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_destination_that_dies_before_the_handover_leaves_the_guest_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 54, "");
    // It is there but says nothing, so that the move hangs in its beginning.
    destination.signal(Signal::STOP);
    accept(&mut source, &format!("migrate -p {uri}"));
    source.wait_phase(&["setup"]);
    destination.kill();
    source.wait_phase(&["failed"]);
    error(&mut source, &[]);
    stays(&mut source);
    let mut another = lab.vm("c", LISTEN).start();
    let uri = another.address();
    then_moves(&mut source, &mut another, &uri);
}

#[test]
fn a_source_that_dies_before_the_handover_leaves_the_destination_waiting() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 55, "");
    let proxy = Proxy::start(&uri, Cut::ToDestination(400), false);
    accept(&mut source, &format!("migrate -p {}", proxy.uri()));
    source.kill();
    let mut another = lab.vm("c", "-m 64M").bare(&guest(56)).start();
    ready(&another);
    // The first one's end may not have been noticed yet.
    until("the destination to be free", || {
        accept(&mut another, &format!("migrate -p {uri}"));
        let status = another.wait_phase(&["completed", "failed"]);
        (status["phase"] == "completed").then_some(())
    });
    complete(&mut another, &mut destination);
    destination.verify();
}

#[test]
fn a_destination_that_dies_after_the_handover_leaves_the_pages_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 57, "");
    leave_pages(&mut source, &mut destination, &uri);
    destination.kill();
    let status = source.wait_phase(&["postcopy-paused"]);
    let remaining = status["pages"]["remaining"].as_u64().unwrap_or_default();
    assert!(remaining > 1000, "{status:#}");
    error(&mut source, &[]);
    assert_eq!(source.status(), "postmigrate");
    let text = source.text.command("info status");
    assert!(text.contains("page"), "says nothing of the pages: {text}");
    refuse(&mut source, "cont", &["handed over"]);
    refuse(&mut source, &format!("migrate -p {uri}"), &["handed over"]);
    let kib = source.memory_kib("VmRSS");
    assert!(kib > 40 << 10, "{kib} KiB");
    accept(&mut source, "stop");
    source.text.last_command("quit");
    assert_eq!(source.wait_end().code(), Some(0));
}

#[test]
fn a_source_that_dies_after_all_pages_arrived_is_not_missed() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 58, "");
    accept(&mut source, &format!("migrate -p {uri}"));
    complete(&mut source, &mut destination);
    source.kill();
    destination.serial.wait_beats(50);
    destination.verify();
    assert_eq!(destination.status(), "running");
    accept(&mut destination, "stop");
    accept(&mut destination, "cont");
    destination.serial.wait_beats(20);
}

/// The source dies with most pages: the destination goes on as far as it can, and its monitor all
/// the way.
fn source_dies(seed: u32, options: &str) {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, seed, options);
    leave_pages(&mut source, &mut destination, &uri);
    source.kill();
    let status = destination.wait_phase(&["postcopy-paused"]);
    assert!(status["pages"]["remaining"].as_u64() > Some(1000), "{status:#}");
    error(&mut destination, &[]);
    wait_for_a_page(&mut destination);
    assert_eq!(destination.status(), "running");
    let text = destination.text.command("info migrate");
    assert!(text.contains("waiting for pages: "), "{text}");
    let refused = destination.text.command("migrate -p tcp:127.0.0.1:9");
    let remaining = destination.migration()["pages"]["remaining"].to_string();
    assert!(refused.contains(&remaining), "{remaining} pages are missing, but: {refused}");
    if options.contains("vcpu") {
        for command in ["info status", "info cpus"] {
            let text = destination.text.command(command);
            assert!(text.contains("page"), "{command}: {text}");
        }
        accept(&mut destination, "stop");
        assert_eq!(destination.status(), "paused");
    } else {
        // A thread that waits in the kernel stops when it has its page.
        refuse(&mut destination, "stop", &["vCPU 0 waits for page 0x", "as soon as it can"]);
    }
    accept(&mut destination, "cont");
    assert_eq!(destination.status(), "running");
    destination.text.command("info registers");
    destination.text.last_command("quit");
    assert_eq!(destination.wait_end().code(), Some(0));
}

#[test]
fn a_source_that_dies_with_pages_stops_only_what_needs_them_found_by_the_vcpu() {
    source_dies(59, "-postcopy-fault vcpu");
}

#[test]
fn a_source_that_dies_with_pages_stops_only_what_needs_them_found_by_the_kernel() {
    source_dies(60, "-postcopy-fault uffd");
}

#[test]
fn an_interrupt_ends_a_vm_at_any_moment() {
    let lab = Lab::new();
    // Waiting for a guest; running one.
    let (mut source, mut destination, _) = pair(&lab, 61, "");
    for vm in [&mut source, &mut destination] {
        vm.signal(Signal::INT);
        assert_eq!(vm.wait_end().code(), Some(0), "{}", vm.words());
    }
    for (seed, fault) in [(62, "vcpu"), (63, "uffd")] {
        // In a move, while the guest waits for a page.
        let lab = Lab::new();
        let (mut source, mut destination, uri) =
            pair(&lab, seed, &format!("-postcopy-fault {fault}"));
        leave_pages(&mut source, &mut destination, &uri);
        source.signal(Signal::INT);
        assert_eq!(source.wait_end().code(), Some(0), "{}", source.words());
        destination.wait_phase(&["postcopy-paused"]);
        wait_for_a_page(&mut destination);
        destination.signal(Signal::INT);
        assert_eq!(destination.wait_end().code(), Some(0), "{}", destination.words());
    }
}

#[test]
fn a_destination_that_is_interrupted_in_a_move_leaves_the_pages_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 64, "");
    leave_pages(&mut source, &mut destination, &uri);
    destination.signal(Signal::INT);
    assert_eq!(destination.wait_end().code(), Some(0), "{}", destination.words());
    source.wait_phase(&["postcopy-paused"]);
    assert_eq!(source.status(), "postmigrate");
    refuse(&mut source, "cont", &["handed over"]);
    refuse(&mut source, &format!("migrate -r {uri}"), &["is lost", "cannot be made again"]);
}
