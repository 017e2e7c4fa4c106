//! One end by hand, which does not keep to the protocol.

use crate::caller::{Caller, read_frame, until};
use crate::vms::{Touch, Who, content};
use crate::world::{Source, World, tcp, wait_for};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::Duration;
use umem_link::{BULK_LANES, DestinationOptions, SourceOptions};
use umem_wire::{
    Cause, Features, Ownership, PREFACE_BYTES, PageKind, PagesBuilder, Preface, Reply, Role,
    RunFrame, ToDestination, ToSource, Verdict, encode_credit, encode_request, page_hash,
};

const PAGES: u64 = 96;

#[test]
fn a_source_that_breaks_the_order_before_the_handover_loses_its_session_only() {
    let world = World::new(tcp(), PAGES, 1);
    let mut number = 0;
    let mut refused = |act: &dyn Fn(&mut Caller)| {
        number += 1;
        let mut caller = Caller::open(&world, number);
        act(&mut caller);
        while caller.hear().is_some() {}
        let asked = Caller::connect(world.port(), caller.session, Role::Inquiry);
        let (mut socket, verdict) = asked;
        assert_eq!(verdict, Verdict::Accepted);
        socket.write_all(&ToDestination::WhoRuns.encode()).unwrap();
        let (kind, body) = read_frame(&mut socket).unwrap();
        let answer = ToSource::decode(kind, &body).unwrap();
        assert_eq!(answer, ToSource::Owner(Ownership::NeverGotIt));
    };
    refused(&|caller| caller.say(&ToDestination::Handover { since_stop_ns: 0 }));
    refused(&|caller| caller.say(&ToDestination::DigestAgreed));
    refused(&|caller| caller.say(&ToDestination::WhoRuns));
    refused(&|caller| caller.say(&ToDestination::StateLength { bytes: 9, after_round: 0 }));
    refused(&|caller| caller.say(&ToDestination::Cancel("no".into())));
    refused(&|caller| caller.control.write_all(&[0xff; 64]).unwrap());
    refused(&|caller| caller.control.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap());
    refused(&|caller| {
        caller.describe(&world);
        caller.say(&ToDestination::StatePiece(vec![1]));
    });
    refused(&|caller| {
        caller.describe(&world);
        caller.say(&ToDestination::StateLength { bytes: u64::MAX, after_round: 0 });
    });
    refused(&|caller| {
        caller.describe(&world);
        caller.say(&ToDestination::StateLength { bytes: 2, after_round: 0 });
        caller.say(&ToDestination::StatePiece(vec![1; 3]));
    });
    refused(&|caller| {
        caller.describe(&world);
        let mut demand = caller.lane(Role::Demand);
        demand.write_all(&[7; 100]).unwrap();
    });
    refused(&|caller| {
        caller.describe(&world);
        let _demand = caller.lane(Role::Demand);
        caller.say(&ToDestination::StateLength { bytes: 2, after_round: 0 });
        caller.say(&ToDestination::StatePiece(vec![1; 2]));
    });
    assert_eq!(world.vm.runs.load(Ordering::SeqCst), 0);
    world.assert_runs(Who::Source);
    world.assert_whole(&world.move_when_free());
}

#[test]
fn an_inquiry_before_the_handover_makes_its_answer_true() {
    let world = World::new(tcp(), PAGES, 1);
    let mut caller = Caller::open(&world, 1);
    caller.describe(&world);
    let _lanes = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
    caller.state(&world);
    assert_eq!(caller.hear(), Some(ToSource::Prepared));
    let (mut inquiry, _) = Caller::connect(world.port(), caller.session, Role::Inquiry);
    inquiry.write_all(&ToDestination::WhoRuns.encode()).unwrap();
    let (kind, body) = read_frame(&mut inquiry).unwrap();
    let answer = ToSource::decode(kind, &body).unwrap();
    assert_eq!(answer, ToSource::Owner(Ownership::NeverGotIt));
    caller.say(&ToDestination::Handover { since_stop_ns: 0 });
    assert_eq!(caller.hear(), None);
    world.assert_whole(&world.move_when_free());
    assert_eq!(world.vm.runs.load(Ordering::SeqCst), 1);
}

#[test]
fn state_is_not_loaded_before_pages_can_be_asked_for() {
    let world = World::new(tcp(), PAGES, 1);
    let mut caller = Caller::open(&world, 1);
    caller.describe(&world);
    caller.state(&world);
    caller.control.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(caller.hear(), None, "there is no demand connection yet");
    caller.control.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _demand = caller.lane(Role::Demand);
    assert_eq!(caller.hear(), Some(ToSource::Prepared));
}

#[test]
fn more_connections_than_announced_are_closed() {
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch = Touch::Asking;
    });
    let mut caller = Caller::open(&world, 1);
    let lanes = caller.hand_over(&world);
    for role in [Role::Demand, Role::Bulk] {
        let mut more = caller.lane(role);
        assert_eq!(read_frame(&mut more), None);
    }
    assert_eq!(world.listener.status().phase, "postcopy-active");
    drop(lanes);
}

/// What a source sends as pages that must not be taken.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    let pages = |start, hash: u64, at: u64| {
        let mut frame = PagesBuilder::new(start, Cause::Demand, 4096);
        frame.push(PageKind::Content(hash));
        let mut bytes = frame.head();
        bytes.extend(content(at));
        bytes
    };
    let run = |start, count| RunFrame { start, count, byte: 0, cause: Cause::Background }.encode();
    let mut long = pages(0, 0, 0);
    long.truncate(500);
    vec![
        ("does not have", run(0, PAGES + 1)),
        ("does not have", run(PAGES, 1)),
        ("does not have", run(u64::MAX, 2)),
        ("does not have", run(1, u64::MAX)),
        // Across the end of a block.
        ("does not have", run(PAGES / 3 - 1, 2)),
        ("does not have", run(0, 0)),
        ("does not have", pages(PAGES, page_hash(PAGES, &content(0)), 0)),
        ("does not have", pages(u64::MAX, page_hash(u64::MAX, &content(0)), 0)),
        // The content of another page.
        ("altered", pages(0, page_hash(1, &content(1)), 1)),
        ("middle of a frame", long),
        ("has no meaning", vec![9, 0, 0, 0, 0, 0, 0, 0]),
        ("are allowed", vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]),
    ]
}

#[test]
fn pages_that_cannot_be_are_refused_and_the_guest_keeps_what_it_has() {
    for (reason, bytes) in bad_frames() {
        for on_demand in [true, false] {
            let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
                vm.touch = Touch::Asking;
            });
            let mut caller = Caller::open(&world, 1);
            let (mut demand, mut bulk) = caller.hand_over(&world);
            let lane = if on_demand { &mut demand } else { &mut bulk };
            lane.write_all(&bytes).unwrap();
            if reason == "middle of a frame" {
                lane.shutdown(std::net::Shutdown::Write).unwrap();
            }
            assert_eq!(caller.hear(), None);
            wait_for("the end", || world.listener.status().phase == "postcopy-paused");
            let status = world.listener.status();
            let error = status.error.unwrap();
            assert!(error.contains(reason), "{reason}: {error}");
            assert!(!status.verified);
            assert_eq!(status.pages.remaining, PAGES);
            assert_eq!(world.vm.plane().unwrap().table().counts().present, 0);
        }
    }
}

#[test]
fn a_wrong_digest_is_not_agreed() {
    let world =
        World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| vm.touch_below = 0);
    let mut caller = Caller::open(&world, 1);
    let (_demand, mut bulk) = caller.hand_over(&world);
    for (start, count) in [(0, PAGES / 3), (PAGES / 3, PAGES - PAGES / 3)] {
        let run = RunFrame { start, count, byte: 3, cause: Cause::Background };
        bulk.write_all(&run.encode()).unwrap();
    }
    let Some(ToSource::Complete { digest }) = caller.hear() else { panic!("not complete") };
    caller.say(&ToDestination::DigestDiffers { digest: digest ^ 1 });
    assert_eq!(caller.hear(), None);
    wait_for("the end", || world.listener.status().phase == "postcopy-paused");
    let status = world.listener.status();
    assert!(!status.verified && status.error.unwrap().contains("must not be trusted"));
    assert_eq!(world.vm.completes.load(Ordering::SeqCst), 1);
}

#[test]
fn a_link_lost_when_all_pages_are_here_stops_nothing() {
    let gate = Arc::new(Barrier::new(2));
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 0;
        vm.gate = Some(gate.clone());
    });
    let mut caller = Caller::open(&world, 1);
    caller.describe(&world);
    let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
    caller.state(&world);
    assert_eq!(caller.hear(), Some(ToSource::Prepared));
    world.ledger.nobody();
    caller.say(&ToDestination::Handover { since_stop_ns: 1 });
    // The guest is being started. The link is lost, and all pages come, before it runs.
    gate.wait();
    drop(caller);
    for (start, count) in [(0, PAGES / 3), (PAGES / 3, PAGES - PAGES / 3)] {
        let run = RunFrame { start, count, byte: 3, cause: Cause::Background };
        bulk.write_all(&run.encode()).unwrap();
    }
    wait_for("all pages", || world.listener.status().pages.remaining == 0);
    gate.wait();
    wait_for("the loss", || world.listener.status().error.is_some());
    wait_for("completion", || world.vm.completes.load(Ordering::SeqCst) == 1);
    assert!(!world.listener.status().verified);
    assert_eq!(world.vm.plane().unwrap().table().counts().missing(), 0);
    world.assert_runs(Who::Destination);
}

/// A destination by hand, which goes along up to a point.
fn destination(
    steps: Vec<ToSource>,
    then: fn(&mut [TcpStream]),
) -> (u16, std::thread::JoinHandle<Vec<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let accept = || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut preface = [0; PREFACE_BYTES];
            socket.read_exact(&mut preface).unwrap();
            assert!(Preface::decode(&preface).is_ok());
            let reply = Reply { verdict: Verdict::Accepted, features: Features::default() };
            socket.write_all(&reply.encode()).unwrap();
            socket
        };
        let mut sockets = vec![accept()];
        for step in steps {
            // Whatever the source said first is not looked at.
            sockets[0].write_all(&step.encode()).unwrap();
            if matches!(step, ToSource::Ready { .. }) {
                let lanes = 1 + usize::from(BULK_LANES);
                sockets.extend(std::iter::repeat_with(accept).take(lanes));
                until(&mut sockets[0], &ToDestination::BeginPageService);
                sockets[0].write_all(&ToSource::PageServiceReady.encode()).unwrap();
                // PREPARED must not come before the guest stands still.
                until(&mut sockets[0], &ToDestination::StatePiece(Vec::new()));
            } else {
                until(&mut sockets[0], &ToDestination::Handover { since_stop_ns: 0 });
            }
        }
        then(&mut sockets);
        sockets
    });
    (port, thread)
}

#[test]
fn a_destination_that_falls_silent_before_the_handover_can_be_left() {
    let ready = ToSource::Ready { credit_bytes: 1 << 20 };
    for steps in [vec![], vec![ready.clone()]] {
        let count = steps.len();
        let world = World::new(tcp(), PAGES, 1);
        let (port, thread) = destination(steps, |_| ());
        let peer = format!("tcp:127.0.0.1:{port}").parse().unwrap();
        let source = Source::start(peer, world.source_vm(), SourceOptions::default());
        let sockets = thread.join().unwrap();
        source.session.cancel().unwrap();
        assert_eq!(source.failed(), "cancelled");
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), count as u64);
        drop(sockets);
    }
}

#[test]
fn what_a_destination_may_not_say_leaves_the_guest_here() {
    let ready = ToSource::Ready { credit_bytes: 1 << 20 };
    let bad: [fn(&mut [TcpStream]); 7] = [
        |sockets| sockets[0].write_all(&ToSource::Running.encode()).unwrap(),
        |sockets| sockets[0].write_all(&ToSource::Complete { digest: 0 }.encode()).unwrap(),
        |sockets| sockets[0].write_all(&ToSource::Owner(Ownership::Running).encode()).unwrap(),
        |sockets| sockets[0].write_all(&[0xff; 32]).unwrap(),
        |sockets| sockets[1].write_all(&encode_request(&[PAGES])).unwrap(),
        |sockets| sockets[1].write_all(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap(),
        |sockets| sockets[1].shutdown(std::net::Shutdown::Both).unwrap(),
    ];
    for then in bad {
        let world = World::new(tcp(), PAGES, 1);
        let (port, thread) = destination(vec![ready.clone()], then);
        let peer = format!("tcp:127.0.0.1:{port}").parse().unwrap();
        let source = Source::start(peer, world.source_vm(), SourceOptions::default());
        let sockets = thread.join().unwrap();
        let why = source.failed();
        assert!(!why.is_empty());
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 1, "{why}");
        drop(sockets);
    }
}

#[test]
fn what_a_destination_may_not_say_after_the_handover_keeps_the_pages() {
    // So little that the source waits for more.
    let steps = vec![ToSource::Ready { credit_bytes: 1 << 16 }, ToSource::Prepared];
    let bad: [fn(&mut [TcpStream]); 5] = [
        |sockets| sockets[0].write_all(&ToSource::Complete { digest: 7 }.encode()).unwrap(),
        |sockets| sockets[0].write_all(&ToSource::Prepared.encode()).unwrap(),
        |sockets| sockets[1].write_all(&encode_request(&[u64::MAX])).unwrap(),
        |sockets| sockets[2].write_all(&encode_credit(1 << 40)).unwrap(),
        |sockets| sockets[2].shutdown(std::net::Shutdown::Both).unwrap(),
    ];
    for (number, bad) in bad.into_iter().enumerate() {
        let world = World::new(tcp(), 4096, 1);
        let (port, thread) = destination(steps.clone(), |sockets| {
            sockets[0].write_all(&ToSource::Running.encode()).unwrap();
        });
        let peer = format!("tcp:127.0.0.1:{port}").parse().unwrap();
        let source = Source::start(peer, world.source_vm(), SourceOptions::default());
        let mut sockets = thread.join().unwrap();
        bad(&mut sockets);
        wait_for(&format!("the end of {number}"), || source.session.ended());
        let status = source.session.status();
        assert_eq!(status.phase, "postcopy-paused", "{number}: {status:?}");
        assert!(!status.verified && status.error.is_some());
        assert_eq!(source.vm.released.load(Ordering::SeqCst), 0);
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 0);
        assert_eq!(source.vm.handed_over.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_destination_that_reads_nothing_after_the_handover_does_not_hold_the_process() {
    let steps = vec![ToSource::Ready { credit_bytes: u32::MAX }, ToSource::Prepared];
    let world = World::new(tcp(), 8192, 1);
    let (port, thread) = destination(steps, |sockets| {
        sockets[0].write_all(&ToSource::Running.encode()).unwrap();
        // All pages at once, and again, and no answer is read.
        let all: Vec<u64> = (0..512).collect();
        sockets[1].write_all(&encode_request(&all).repeat(8)).unwrap();
    });
    let peer = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    let source = Source::start(peer, world.source_vm(), SourceOptions::default());
    let sockets = thread.join().unwrap();
    wait_for("the handover", || source.session.status().phase == "postcopy-active");
    assert!(source.session.cancel().is_err());
    source.session.abandon();
    source.wait_ended();
    drop(sockets);
}

#[test]
fn a_source_that_falls_silent_does_not_hold_the_process() {
    for steps in 0..4 {
        let world = World::with(tcp(), PAGES, 4, DestinationOptions::default(), |vm| {
            vm.touch = Touch::Both;
        });
        let mut caller = Caller::open(&world, 1);
        let mut lanes = None;
        match steps {
            0 => {}
            1 => caller.describe(&world),
            2 => {
                caller.describe(&world);
                lanes = Some((caller.lane(Role::Demand), caller.lane(Role::Bulk)));
                caller.state(&world);
                assert_eq!(caller.hear(), Some(ToSource::Prepared));
            }
            _ => lanes = Some(caller.hand_over(&world)),
        }
        let status = world.listener.status();
        assert!(!status.verified);
        world.listener.abandon();
        world.vm.join();
        wait_for("the end", || world.listener.ended());
        drop(lanes);
    }
}
