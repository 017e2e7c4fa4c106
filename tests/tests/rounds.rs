//! What goes wrong, or is decided, while rounds of precopy go on: until the handover the guest runs at
//! the source, and both ends are ready for the next move.
#![allow(missing_docs)]

use rustix::process::Signal;
use serde_json::Value;
use umem_tests::moving::{accept, complete, error, guest, phases, ready, refuse, stays};
use umem_tests::{Cut, Lab, Proxy, Vm, until};

const WITHOUT: &str = "-m 64M -incoming tcp:127.0.0.1:0";
const WITH: &str = "-m 64M -postcopy -incoming tcp:127.0.0.1:0";
/// So slow that the first round takes 5 s and more: 44 MiB cannot be compressed.
const SLOW: &str = "migrate_set_parameter max-bandwidth 8M";
const FAST: &str = "migrate_set_parameter max-bandwidth 0";

fn source(lab: &Lab, name: &str, seed: u32) -> Vm {
    let source = lab.vm(name, "-m 64M").bare(&guest(seed)).start();
    ready(&source);
    source
}

fn pair(lab: &Lab, seed: u32, options: &str) -> (Vm, Vm, String) {
    let mut destination = lab.vm("b", options).start();
    let source = source(lab, "a", seed);
    let uri = destination.address();
    (source, destination, uri)
}

/// Begins a move and waits until a round is well under way, and has long to go.
fn in_a_round(source: &mut Vm, command: &str) {
    accept(source, SLOW);
    accept(source, command);
    until("pages to go in a round", || {
        let status = source.wait_phase(&["setup", "active"]);
        let copies = status["rounds"]["copies"].as_u64();
        (status["phase"] == "active" && copies > Some(100)).then_some(())
    });
}

/// The guest is at the source as if nothing had been; then it moves after all, by precopy.
fn then_moves(source: &mut Vm, destination: &mut Vm, uri: &str) {
    stays(source);
    let throttle = source.migration()["rounds"]["throttle"].as_u64();
    assert!(throttle.unwrap_or(0) == 0, "the guest is slowed down still: {throttle:?} %");
    accept(source, FAST);
    accept(source, &format!("migrate {uri}"));
    complete(source, destination);
    destination.serial.wait_beats(20);
    destination.verify();
}

fn waits_again(destination: &mut Vm) {
    until("the destination to wait for the next guest", || {
        (destination.status() == "inmigrate").then_some(())
    });
    assert!(destination.serial.beats().is_empty(), "it never ran");
}

#[test]
fn a_precopy_cancelled_in_a_round_leaves_the_guest_and_the_destination_takes_the_next() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 101, WITHOUT);
    for _ in 0..3 {
        in_a_round(&mut source, &format!("migrate {uri}"));
        refuse(&mut source, &format!("migrate {uri}"), &["under way"]);
        assert_eq!(source.status(), "running");
        accept(&mut source, "migrate_cancel");
        source.wait_phase(&["cancelled"]);
        waits_again(&mut destination);
        // Which it hears first is chance: that it was cancelled, or that a connection ended.
        error(&mut destination, &[]);
    }
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_hybrid_move_cancelled_in_a_round_leaves_the_guest_and_the_destination_takes_the_next() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 102, WITH);
    in_a_round(&mut source, &format!("migrate -p --precopy 3 {uri}"));
    accept(&mut source, "migrate_cancel");
    source.wait_phase(&["cancelled"]);
    waits_again(&mut destination);
    stays(&mut source);
    accept(&mut source, FAST);
    accept(&mut source, &format!("migrate -p --precopy 3 {uri}"));
    complete(&mut source, &mut destination);
    destination.verify();
}

#[test]
fn a_destination_that_dies_in_a_round_leaves_the_guest_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 103, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    destination.kill();
    source.wait_phase(&["failed"]);
    error(&mut source, &[]);
    stays(&mut source);
    let mut another = lab.vm("c", WITHOUT).start();
    let uri = another.address();
    then_moves(&mut source, &mut another, &uri);
}

#[test]
fn a_source_that_dies_in_a_round_leaves_the_destination_waiting_for_the_next() {
    let lab = Lab::new();
    let (mut dying, mut destination, uri) = pair(&lab, 104, WITHOUT);
    in_a_round(&mut dying, &format!("migrate {uri}"));
    dying.kill();
    let mut source = source(&lab, "c", 105);
    // What came of the first guest must not be taken for the second's.
    error(&mut destination, &[]);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_destination_that_says_nothing_in_a_round_does_not_keep_the_move_from_being_cancelled() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 106, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    destination.signal(Signal::STOP);
    // Until nothing more fits into the connection's buffers.
    accept(&mut source, FAST);
    source.serial.wait_beats(200);
    assert_eq!(source.phase(), "active");
    accept(&mut source, "migrate_cancel");
    source.wait_phase(&["cancelled"]);
    stays(&mut source);
    destination.signal(Signal::CONT);
    waits_again(&mut destination);
    error(&mut destination, &[]);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_link_that_breaks_in_a_round_leaves_the_guest_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 107, WITHOUT);
    let proxy = Proxy::start(&uri, Cut::Never, false);
    let places = [56, 600, 10_000, 1 << 20, 20 << 20, 44 << 20];
    for place in places.map(Cut::ToDestination).into_iter().chain([60, 200].map(Cut::ToSource)) {
        lab.note(format!("{place:?}"));
        proxy.heal(place);
        accept(&mut source, &format!("migrate {}", proxy.uri()));
        source.wait_phase(&["failed"]);
        error(&mut source, &[]);
        stays(&mut source);
        waits_again(&mut destination);
        until("the destination to listen again", || {
            ["failed", "listening"].contains(&destination.phase().as_str()).then_some(())
        });
    }
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_destination_that_nobody_reaches_fails_a_precopy_at_once() {
    let lab = Lab::new();
    let mut source = source(&lab, "a", 108);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("tcp:{}", listener.local_addr().expect("an address"));
    drop(listener);
    accept(&mut source, &format!("migrate {uri}"));
    source.wait_phase(&["failed"]);
    error(&mut source, &["nobody listens on", &uri, "start the destination"]);
    let mut destination = lab.vm("b", WITHOUT).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn each_kind_of_destination_refuses_what_it_does_not_take() {
    let lab = Lab::new();
    let mut source = source(&lab, "a", 109);
    let mut with = lab.vm("b", WITH).start();
    let mut without = lab.vm("c", WITHOUT).start();
    let (to_with, to_without) = (with.address(), without.address());
    let mut refuses = |command: String, destination: &mut Vm, words: &str| {
        accept(&mut source, &command);
        source.wait_phase(&["failed"]);
        error(&mut source, &[words]);
        error(destination, &["-postcopy"]);
        stays(&mut source);
        waits_again(destination);
    };
    refuses(format!("migrate {to_with}"), &mut with, "by postcopy only (-postcopy)");
    refuses(format!("migrate -p {to_without}"), &mut without, "start it with -postcopy");
    refuses(
        format!("migrate -p --precopy 1 {to_without}"),
        &mut without,
        "start it with -postcopy",
    );
    then_moves(&mut source, &mut without, &to_without);
    // And on by postcopy, to the one that takes it.
    accept(&mut without, &format!("migrate -p {to_with}"));
    complete(&mut without, &mut with);
    with.verify();
}

/// Both ends of a move that went over to postcopy in its first round.
fn went_over(gone: &Value, come: &Value) {
    assert_eq!((&gone["mode"], &come["mode"]), (&"hybrid".into(), &"hybrid".into()));
    assert_eq!(gone["rounds"]["passes"], 1, "{gone:#}");
    let pages = |cause: &str| come["pages"][cause].as_u64().unwrap_or_default();
    assert!(pages("precopy") > 0 && pages("background") > 0, "{come:#}");
    // The round was cut short: most pages came after the switch.
    assert!(pages("precopy") < pages("total"), "{come:#}");
}

#[test]
fn postcopy_is_started_in_a_round_of_a_precopy_with_the_capability() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 110, WITH);
    accept(&mut source, "migrate_set_capability postcopy-ram on");
    accept(&mut source, "migrate_set_parameter postcopy-switch manual");
    refuse(&mut source, "migrate_start_postcopy", &["no migration"]);
    in_a_round(&mut source, &format!("migrate {uri}"));
    accept(&mut source, "migrate_start_postcopy");
    let (gone, come) = complete(&mut source, &mut destination);
    went_over(&gone, &come);
    assert!(phases(&mut source).contains(&"postcopy-active".to_owned()));
    destination.verify();
}

#[test]
fn postcopy_is_started_in_a_round_of_a_hybrid_move_that_has_many_to_go() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 111, WITH);
    in_a_round(&mut source, &format!("migrate -p --precopy 9 {uri}"));
    accept(&mut source, "migrate_start_postcopy");
    let (gone, come) = complete(&mut source, &mut destination);
    went_over(&gone, &come);
    destination.verify();
}

#[test]
fn postcopy_is_not_started_in_a_precopy_that_may_not() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 112, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    refuse(&mut source, "migrate_start_postcopy", &["postcopy-ram"]);
    accept(&mut source, FAST);
    let (gone, _) = complete(&mut source, &mut destination);
    assert_eq!(gone["mode"], "precopy");
    destination.verify();
}

/// A guest that writes more pages than the limit on bandwidth lets go: no round ends near 0.
fn too_fast(lab: &Lab, seed: u32) -> (Vm, Vm, String) {
    let mut destination = lab.vm("b", "-m 32M -incoming tcp:127.0.0.1:0").start();
    let arguments = format!("rate=50000 fill=70 beat_us=2000 seed={seed}");
    let mut source = lab.vm("a", "-m 32M").bare(&arguments).start();
    ready(&source);
    accept(&mut source, "migrate_set_parameter max-bandwidth 24M");
    // Packed, its pages would fit.
    accept(&mut source, "migrate_set_parameter multifd-compression none");
    accept(&mut source, "migrate_set_parameter xor-delta off");
    accept(&mut source, "migrate_set_parameter downtime-limit 10");
    let uri = destination.address();
    (source, destination, uri)
}

fn wait_rounds(source: &mut Vm, rounds: u64) {
    until(format!("{rounds} rounds"), || {
        let status = source.wait_phase(&["setup", "active"]);
        (status["rounds"]["passes"].as_u64() >= Some(rounds)).then_some(())
    });
}

#[test]
fn a_precopy_that_does_not_converge_goes_on_until_the_limit_is_raised() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = too_fast(&lab, 113);
    accept(&mut source, &format!("migrate {uri}"));
    wait_rounds(&mut source, 4);
    let status = source.migration();
    assert!(status["rounds"]["expected-downtime-ms"].as_f64() > Some(10.0), "{status:#}");
    assert!(status["rounds"]["dirty-pages-rate"].as_f64() > Some(0.0), "{status:#}");
    assert_eq!(source.status(), "running");
    accept(&mut source, "migrate_set_parameter downtime-limit 60000");
    let (gone, _) = complete(&mut source, &mut destination);
    assert_eq!(gone["mode"], "precopy");
    destination.verify();
}

#[test]
fn a_precopy_that_does_not_converge_goes_on_until_it_is_cancelled() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = too_fast(&lab, 114);
    accept(&mut source, &format!("migrate {uri}"));
    wait_rounds(&mut source, 4);
    accept(&mut source, "migrate_cancel");
    source.wait_phase(&["cancelled"]);
    accept(&mut source, "migrate_set_parameter downtime-limit 60000");
    waits_again(&mut destination);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn auto_converge_lets_the_same_precopy_end() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = too_fast(&lab, 115);
    accept(&mut source, "migrate_set_capability auto-converge on");
    accept(&mut source, "migrate_set_parameter cpu-throttle-initial 99");
    // Still far below what the guest writes; above what it can in a hundredth of the time.
    accept(&mut source, "migrate_set_parameter max-bandwidth 96M");
    accept(&mut source, "migrate_set_parameter downtime-limit 50");
    accept(&mut source, &format!("migrate {uri}"));
    let mut most = 0;
    until("the end", || {
        let status = source.wait_phase(&["setup", "active", "device", "completed"]);
        most = most.max(status["rounds"]["throttle"].as_u64().unwrap_or_default());
        (status["phase"] == "completed").then_some(())
    });
    assert_eq!(most, 99);
    let (gone, _) = complete(&mut source, &mut destination);
    assert_eq!(gone["rounds"]["throttle"], 0, "{gone:#}");
    assert!(gone["rounds"]["passes"].as_u64() > Some(3), "{gone:#}");
    destination.verify();
}

#[test]
fn a_throttled_guest_is_let_go_when_the_move_is_cancelled() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = too_fast(&lab, 116);
    accept(&mut source, "migrate_set_capability auto-converge on");
    // Far from enough.
    accept(&mut source, "migrate_set_parameter cpu-throttle-initial 10");
    accept(&mut source, "migrate_set_parameter max-cpu-throttle 10");
    accept(&mut source, &format!("migrate {uri}"));
    until("the guest to be slowed down", || {
        let status = source.wait_phase(&["setup", "active"]);
        (status["rounds"]["throttle"] == 10).then_some(())
    });
    accept(&mut source, "migrate_cancel");
    source.wait_phase(&["cancelled"]);
    accept(&mut source, "migrate_set_parameter downtime-limit 60000");
    waits_again(&mut destination);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_guest_that_is_reset_in_a_round_moves_as_it_is_then() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 117, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    let lines = source.serial.lines();
    accept(&mut source, "system_reset");
    // It fills its memory anew, all of which the rounds must see.
    source.serial.wait_line(lines, "ready ");
    accept(&mut source, FAST);
    complete(&mut source, &mut destination);
    destination.serial.wait_beats(20);
    destination.verify();
}

#[test]
fn a_guest_that_powers_off_in_a_round_is_off_and_the_destination_takes_the_next() {
    let lab = Lab::new();
    let (mut first, mut destination, uri) = pair(&lab, 118, WITHOUT);
    in_a_round(&mut first, &format!("migrate {uri}"));
    first.serial.send(b"q");
    assert_eq!(first.wait_end().code(), Some(0), "{}", first.words());
    waits_again(&mut destination);
    error(&mut destination, &[]);
    let mut source = source(&lab, "c", 119);
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_guest_that_is_stopped_in_a_round_arrives_stopped() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 120, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    accept(&mut source, "stop");
    assert_eq!(source.status(), "paused");
    accept(&mut source, FAST);
    complete(&mut source, &mut destination);
    assert_eq!(destination.status(), "paused");
    assert!(destination.serial.beats().is_empty());
    accept(&mut destination, "cont");
    destination.serial.wait_beats(20);
    destination.verify();
}

#[test]
fn a_destination_that_is_interrupted_in_a_round_leaves_the_guest_at_the_source() {
    let lab = Lab::new();
    let (mut source, mut destination, uri) = pair(&lab, 121, WITHOUT);
    in_a_round(&mut source, &format!("migrate {uri}"));
    destination.signal(Signal::INT);
    assert_eq!(destination.wait_end().code(), Some(0), "{}", destination.words());
    source.wait_phase(&["failed"]);
    stays(&mut source);
    // And a source that is told to end in a round ends.
    let mut another = lab.vm("c", WITHOUT).start();
    let uri = another.address();
    in_a_round(&mut source, &format!("migrate {uri}"));
    source.text.last_command("quit");
    assert_eq!(source.wait_end().code(), Some(0), "{}", source.words());
    waits_again(&mut another);
}
