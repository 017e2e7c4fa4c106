//! Strangers, wrong machines, and second thoughts.

use crate::vms::{Touch, Who};
use crate::world::{Source, World, fd, tcp, unix, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use umem_link::{DestinationOptions, Mode, SourceOptions};

const PAGES: u64 = 96;

fn options() -> DestinationOptions {
    DestinationOptions::default()
}

#[test]
fn nobody_listening_is_told_and_the_guest_goes_on() {
    let world = World::new(tcp(), PAGES, 1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    let source = Source::start(nowhere, world.source_vm(), SourceOptions::default());
    assert!(source.failed().contains("nobody listens"));
    assert_eq!(source.vm.stops.load(Ordering::SeqCst), 0);
}

#[test]
fn a_destination_that_does_not_take_this_mode_says_so() {
    for way in [tcp(), unix(), fd()] {
        let world = World::with(way, PAGES, 1, options(), |vm| vm.refuses = Some(Mode::POSTCOPY));
        let why = world.source(SourceOptions::default()).failed();
        assert!(why.contains("do not come in like this"), "{why}");
    }
}

#[test]
fn strangers_neither_join_nor_use_up_the_waiting() {
    let world = World::new(tcp(), PAGES, 4);
    let call = || TcpStream::connect(("127.0.0.1", world.port())).unwrap();
    for _ in 0..40 {
        drop(call());
    }
    // More than are heard at once, all silent, while a guest comes.
    let silent: Vec<_> = (0..40).map(|_| call()).collect();
    let mut noise = call();
    noise.write_all(&[0x5a; 4096]).unwrap();
    let mut web = call();
    web.write_all(b"GET / HTTP/1.1\r\nHost: a-host-with-a-long-name.example\r\n\r\n").unwrap();
    let source = world.source(SourceOptions::default());
    world.assert_whole(&source);
    let mut answer = Vec::new();
    let _ = web.read_to_end(&mut answer);
    assert!(answer.is_empty());
    drop(silent);
}

#[test]
fn a_connection_with_a_wrong_secret_does_not_join() {
    use umem_wire::{Features, Preface, REPLY_BYTES, Reply, Role, Secret, SessionId, Verdict};
    let world = World::new(tcp(), PAGES, 1);
    for role in [Role::Demand, Role::Bulk, Role::Inquiry] {
        let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
        let preface = Preface { role, features: Features::default(), session, secret };
        let mut socket = TcpStream::connect(("127.0.0.1", world.port())).unwrap();
        socket.write_all(&preface.encode()).unwrap();
        let mut reply = [0; REPLY_BYTES];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(Reply::decode(&reply).unwrap().verdict, Verdict::UnknownSession);
    }
    world.assert_whole(&world.source(SourceOptions::default()));
}

#[test]
fn a_second_guest_is_turned_away_while_one_comes() {
    let world = World::with(tcp(), PAGES, 1, options(), |vm| vm.touch_below = 0);
    let slow = SourceOptions { background: false, ..SourceOptions::default() };
    let first = world.source(slow);
    wait_for("the handover", || first.session.status().phase == "postcopy-active");
    let vm = crate::vms::SourceMachine::new(PAGES, &crate::vms::Ledger::new());
    let second = Source::start(world.target(), Arc::new(vm), SourceOptions::default());
    assert!(second.failed().contains("another guest"), "{:?}", second.session.status());
    first.session.set_background(true);
    world.assert_whole(&first);
}

#[test]
fn a_machine_that_differs_is_refused_with_the_numbers() {
    let world = World::new(tcp(), PAGES, 1);
    let mut vm = crate::vms::SourceMachine::new(PAGES, &world.ledger);
    vm.harts = 4;
    let source = Source::start(world.target(), Arc::new(vm), SourceOptions::default());
    let why = source.failed();
    assert!(why.contains("vCPUs (-smp) 4, this VM has 1"), "{why}");
    let vm = Arc::new(crate::vms::SourceMachine::new(PAGES * 2, &world.ledger));
    wait_for("a listener that is free", || {
        let source = Source::start(world.target(), vm.clone(), SourceOptions::default());
        let why = source.failed();
        assert!(why.contains("another guest") || why.contains("(786432 bytes)"), "{why}");
        why.contains("(393216 bytes)")
    });
    world.assert_whole(&world.move_when_free());
}

#[test]
fn a_guest_that_cannot_be_loaded_or_run_there_goes_on_here() {
    for way in [tcp, unix] {
        let world = World::new(way(), PAGES, 1);
        world.vm.unloadable.store(true, Ordering::SeqCst);
        let source = world.source(SourceOptions::default());
        let why = source.failed();
        assert!(why.contains("device 'console' has version 7"), "{why}");
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 1);
        world.vm.unloadable.store(false, Ordering::SeqCst);
        world.vm.unrunnable.store(true, Ordering::SeqCst);
        let source = world.move_when_free();
        let why = source.failed();
        assert!(why.contains("the disk is locked"), "{why}");
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 1);
        world.vm.unrunnable.store(false, Ordering::SeqCst);
        world.assert_whole(&world.move_when_free());
        assert_eq!(world.vm.abandons.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_guest_that_cannot_be_stopped_goes_on_and_is_not_taken_back() {
    let world = World::new(tcp(), PAGES, 1);
    let vm = world.source_vm();
    vm.unstoppable.store(true, Ordering::SeqCst);
    let source = Source::start(world.target(), vm, SourceOptions::default());
    let why = source.failed();
    assert!(why.contains("a disk does not answer"), "{why}");
    world.assert_whole(&world.move_when_free());
}

#[test]
fn a_state_of_many_pieces_arrives_whole() {
    for way in [tcp(), fd()] {
        let package: Vec<u8> = (0..3_000_000u32).map(|at| (at >> 5) as u8).collect();
        let world = World::with(way, PAGES, 1, options(), |vm| vm.expected = package.clone());
        let mut vm = crate::vms::SourceMachine::new(PAGES, &world.ledger);
        vm.package = package;
        let source = Source::start(world.target(), Arc::new(vm), SourceOptions::default());
        world.assert_whole(&source);
    }
}

#[test]
fn cancelled_at_any_moment_before_the_handover_the_guest_stays() {
    let mut cancelled = 0;
    for wait in [0, 1, 2, 3, 5, 8] {
        let world = World::new(tcp(), PAGES, 1);
        let source = world.source(SourceOptions::default());
        std::thread::sleep(Duration::from_millis(wait));
        match source.session.cancel() {
            Ok(()) => {
                assert_eq!(source.failed(), "cancelled");
                assert_eq!(source.session.status().phase, "cancelled");
                cancelled += 1;
                world.assert_whole(&world.move_when_free());
            }
            Err(_) => world.assert_whole(&source),
        }
    }
    assert!(cancelled > 0);
}

#[test]
fn a_silent_destination_can_be_cancelled() {
    // Takes the connection, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = World::new(tcp(), PAGES, 1);
    let silent = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    let source = Source::start(silent, world.source_vm(), SourceOptions::default());
    let _taken = listener.accept().unwrap();
    source.session.cancel().unwrap();
    let why = source.failed();
    assert_eq!(why, "cancelled");
}

#[test]
fn abandoned_at_any_moment_both_ends_let_go() {
    for wait in [0, 1, 2, 4, 8, 16] {
        for way in [tcp(), fd()] {
            let world = World::with(way, PAGES, 2, options(), |vm| vm.touch = Touch::Asking);
            let source = world.source(SourceOptions::default());
            std::thread::sleep(Duration::from_millis(wait));
            world.listener.abandon();
            source.session.abandon();
            if let Some(plane) = world.vm.plane() {
                plane.close();
            }
            world.vm.join();
            wait_for("the end of the listening", || world.listener.ended());
            assert_eq!(*world.ledger.breaches.lock().unwrap(), [""; 0]);
        }
    }
}

#[test]
fn a_guest_goes_on_here_after_every_failure_and_moves_at_last() {
    let world = World::new(unix(), PAGES, 16);
    for harts in [2, 3] {
        let mut vm = crate::vms::SourceMachine::new(PAGES, &world.ledger);
        vm.harts = harts;
        Source::start(world.target(), Arc::new(vm), SourceOptions::default()).failed();
        world.assert_runs(Who::Source);
    }
    world.assert_whole(&world.move_when_free());
}
