//! Precopy and hybrid between two ends, with a guest that writes meanwhile.

use crate::caller::Caller;
use crate::vms::{SourceMachine, Who, Writer};
use crate::world::{Source, Way, World, fd, tcp, unix, wait_for};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::Duration;
use umem_link::{
    AutoConverge, Compression, DestinationOptions, Mode, Rounds, SourceOptions, Strategy, Switch,
};
use umem_wire::{
    Cause, PageKind, PagesBuilder, Role, RunFrame, ToDestination, ToSource, digest_term,
    encode_round_end,
};

pub(crate) const PAGES: u64 = 3 * 512;

fn rounds(most: Option<u32>, switch: Switch, finish: bool) -> Rounds {
    Rounds { most, downtime_limit: Duration::from_millis(300), switch, finish, throttle: None }
}

fn options(rounds: Rounds) -> SourceOptions {
    SourceOptions { strategy: Strategy { rounds: Some(rounds) }, ..SourceOptions::default() }
}

pub(crate) fn precopy() -> SourceOptions {
    options(rounds(None, Switch::Never, true))
}

pub(crate) fn hybrid(most: u32) -> SourceOptions {
    options(rounds(Some(most), Switch::ByItself, false))
}

/// A destination whose guest looks for what this source's guest has written at last.
pub(crate) fn pair(way: Way) -> (World, Arc<SourceMachine>) {
    let mut truth = None;
    let world = World::with(way, PAGES, 3, DestinationOptions::default(), |vm| {
        let source = Arc::new(SourceMachine::new(PAGES, &vm.ledger));
        vm.truth = Some(source.ram.clone());
        truth = Some(source);
    });
    (world, truth.unwrap())
}

fn start(world: &World, vm: &Arc<SourceMachine>, options: SourceOptions) -> Source {
    Source::start(world.target(), vm.clone(), options)
}

pub(crate) const BUSY: Writer = Writer { step: 7, pause: Duration::from_micros(50) };
pub(crate) const CALM: Writer = Writer { step: 101, pause: Duration::from_millis(3) };

#[test]
fn a_guest_moves_by_precopy_whole_and_without_page_service() {
    for way in [tcp(), unix(), fd()] {
        let (world, vm) = pair(way);
        vm.write(CALM);
        let source = start(&world, &vm, precopy());
        world.assert_whole(&source);
        assert!(world.vm.plane().is_none());
        let (there, here) = (source.session.status(), world.listener.status());
        assert_eq!((&*there.mode, &*here.mode), ("precopy", "precopy"));
        assert_eq!(there.pages.precopy, PAGES);
        let passes = there.rounds.unwrap().passes;
        assert!(passes >= 2, "{there:?}");
        assert_eq!(u64::from(passes), vm.rounds.load(Ordering::SeqCst));
        assert_eq!(here.rounds.unwrap().passes, passes);
        assert_eq!(there.rounds.unwrap().copies, here.rounds.unwrap().copies);
    }
}

#[test]
fn a_guest_that_writes_all_the_time_moves_by_hybrid() {
    for (way, bulk_lanes) in [(tcp(), 1), (tcp(), 3), (unix(), 2), (fd(), 1)] {
        let (world, vm) = pair(way);
        vm.write(BUSY);
        vm.write(CALM);
        // Slow enough that the guest writes during the rounds.
        let options = SourceOptions { bulk_lanes, rounds_bandwidth: 20 << 20, ..hybrid(3) };
        let source = start(&world, &vm, options);
        world.assert_whole(&source);
        let (there, here) = (source.session.status(), world.listener.status());
        assert_eq!((&*there.mode, &*here.mode), ("hybrid", "hybrid"));
        let rounds = there.rounds.unwrap();
        assert!(rounds.discarded > 0, "{there:?}");
        assert_eq!(here.rounds.unwrap().discarded, rounds.discarded);
        assert!(there.pages.precopy > 0 && there.pages.precopy < PAGES, "{there:?}");
        assert_eq!(there.pages.precopy, here.pages.precopy);
    }
}

#[test]
fn postcopy_begins_when_told_in_the_middle_of_a_round() {
    let (world, vm) = pair(tcp());
    vm.write(BUSY);
    // Would take minutes.
    let rounds = rounds(None, Switch::WhenTold, true);
    let source = start(&world, &vm, SourceOptions { rounds_bandwidth: 30_000, ..options(rounds) });
    wait_for("the first round", || world.listener.status().rounds.is_some_and(|r| r.copies > 0));
    source.session.start_postcopy().unwrap();
    // Again is no mistake, until nothing is under way.
    let _ = source.session.start_postcopy();
    world.assert_whole(&source);
    let status = source.session.status();
    assert_eq!(status.rounds.unwrap().passes, 1);
    assert!(status.pages.demand + status.pages.background > PAGES / 4, "{status:?}");
    assert!(source.session.start_postcopy().is_err());
}

#[test]
fn a_precopy_without_postcopy_cannot_be_told_to_switch() {
    let (world, vm) = pair(tcp());
    let source = start(&world, &vm, SourceOptions { rounds_bandwidth: 30_000, ..precopy() });
    wait_for("the first round", || vm.rounds.load(Ordering::SeqCst) == 1);
    let why = source.session.start_postcopy().unwrap_err();
    assert!(why.contains("without postcopy"), "{why}");
    source.session.set_rounds_bandwidth(0);
    world.assert_whole(&source);
}

#[test]
fn a_cancelled_round_leaves_the_guest_here_and_the_next_may_come() {
    let (world, vm) = pair(tcp());
    vm.write(BUSY);
    for (number, options) in [precopy(), hybrid(5), precopy()].into_iter().enumerate() {
        let options = SourceOptions { rounds_bandwidth: 1 << 20, ..options };
        let before = vm.rounds.load(Ordering::SeqCst);
        let source = loop {
            let source = start(&world, &vm, options);
            wait_for("a round", || {
                source.session.ended() || vm.rounds.load(Ordering::SeqCst) > before
            });
            if !source.session.ended() {
                break source;
            }
            assert!(source.failed().contains("another guest"));
        };
        source.session.cancel().unwrap();
        assert_eq!(source.failed(), "cancelled", "{number}");
        assert_eq!(vm.stops.load(Ordering::SeqCst), 0);
        wait_for("the end there", || world.vm.abandons.load(Ordering::SeqCst) == number as u64 + 1);
    }
    let source = loop {
        let source = start(&world, &vm, hybrid(2));
        source.wait_ended();
        let error = source.session.status().error;
        if !error.is_some_and(|error| error.contains("another guest")) {
            break source;
        }
    };
    world.assert_whole(&source);
}

#[test]
fn the_guest_is_slowed_down_step_by_step_and_let_go() {
    let (world, vm) = pair(tcp());
    vm.write(BUSY);
    let throttle = Some(AutoConverge { initial: 20, increment: 30, most: 60 });
    let rounds =
        Rounds { throttle, downtime_limit: Duration::ZERO, ..rounds(None, Switch::Never, true) };
    // Packed, the guest's writes would fit the link.
    let compression = Compression::Off;
    let options = SourceOptions { rounds_bandwidth: 8 << 20, compression, ..options(rounds) };
    let source = start(&world, &vm, options);
    wait_for("three steps", || vm.throttles.lock().unwrap().len() >= 3);
    assert_eq!(vm.throttles.lock().unwrap()[..3], [20, 50, 60]);
    // Told once the guest has been slowed down.
    wait_for("the last step", || source.session.status().rounds.unwrap().throttle == 60);
    // It goes as soon as so long a stop is allowed.
    source.session.set_downtime_limit(Duration::from_secs(60));
    world.assert_whole(&source);
    assert_eq!(vm.throttles.lock().unwrap().last(), Some(&0));
}

#[test]
fn a_guest_that_cannot_be_stopped_or_loaded_stays_after_its_rounds() {
    for options in [precopy(), hybrid(2)] {
        let (world, vm) = pair(tcp());
        vm.write(CALM);
        vm.unstoppable.store(true, Ordering::SeqCst);
        let source = start(&world, &vm, options);
        assert!(source.failed().contains("a disk does not answer"));
        vm.unstoppable.store(false, Ordering::SeqCst);
        wait_for("the end there", || world.vm.abandons.load(Ordering::SeqCst) == 1);
        world.vm.unloadable.store(true, Ordering::SeqCst);
        let source = loop {
            let source = start(&world, &vm, options);
            let why = source.failed();
            if !why.contains("another guest") {
                assert!(why.contains("version 7"), "{why}");
                break source;
            }
        };
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn what_memory_held_before_does_not_pass_for_a_page_of_zeroes() {
    let mut truth = None;
    let world = World::with(tcp(), PAGES, 3, DestinationOptions::default(), |vm| {
        let source = Arc::new(SourceMachine::new(PAGES, &vm.ledger));
        vm.truth = Some(source.ram.clone());
        // As a session leaves it whose memory could not be given back.
        for block in vm.ram.layout().blocks() {
            vm.ram.fill_pages(block.range(), 0xaa).unwrap();
        }
        truth = Some(source);
    });
    let source = start(&world, &truth.unwrap(), precopy());
    world.assert_whole(&source);
}

#[test]
fn a_page_that_fails_before_the_last_round_does_not_stay_behind_as_an_older_copy() {
    let by_itself = options(rounds(None, Switch::ByItself, true));
    for options in [precopy(), by_itself] {
        let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |_| ());
        let mut vm = SourceMachine::new(PAGES, &world.ledger);
        vm.fails = Some(3);
        let source = start(&world, &Arc::new(vm), options);
        let why = source.failed();
        assert!(why.contains("migrate -p"), "{why}");
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 1);
        world.assert_runs(Who::Source);
    }
}

/// A source by hand in a precopy; what it does must end its session, for this reason.
pub(crate) fn refused(mode: Mode, reason: &str, act: &dyn Fn(&World, &mut Caller)) {
    let world = World::new(tcp(), PAGES, 1);
    let mut caller = Caller::open(&world, 1);
    caller.announce(&world, mode);
    act(&world, &mut caller);
    let mut last = None;
    while let Some(message) = caller.hear() {
        last = Some(message);
    }
    wait_for("the end", || world.vm.abandons.load(Ordering::SeqCst) == 1);
    wait_for("the reason", || world.listener.status().error.is_some());
    let status = world.listener.status();
    let why = match last {
        Some(ToSource::Refused(why)) => why,
        _ => status.error.clone().unwrap_or_default(),
    };
    assert!(why.contains(reason), "{reason}: {why} {status:?}");
    assert_eq!(world.vm.runs.load(Ordering::SeqCst), 0);
}

fn run(start: u64, count: u64, byte: u8) -> Vec<u8> {
    RunFrame { start, count, byte, cause: Cause::Precopy }.encode()
}

fn all(byte: u8) -> Vec<u8> {
    [run(0, PAGES / 3, byte), run(PAGES / 3, PAGES - PAGES / 3, byte)].concat()
}

#[test]
fn rounds_that_cannot_be_end_the_session() {
    let bulk = |bytes: Vec<u8>| {
        move |_: &World, caller: &mut Caller| {
            let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
            bulk.write_all(&bytes).unwrap();
            while caller.hear().is_some() {}
        }
    };
    refused(Mode::PRECOPY, "round 1 is due", &bulk(encode_round_end(2)));
    refused(Mode::HYBRID, "round 2 is due", &bulk(encode_round_end(1).repeat(2)));
    refused(Mode::PRECOPY, "does not have", &bulk(run(PAGES, 1, 0)));
    let background = RunFrame { start: 0, count: 1, byte: 0, cause: Cause::Background };
    refused(Mode::PRECOPY, "wrong time", &bulk(background.encode()));
    let mut unreadable = PagesBuilder::new(0, Cause::Precopy, 4096);
    unreadable.push(PageKind::Unreadable);
    refused(Mode::PRECOPY, "wrong time", &bulk(unreadable.head()));
}

#[test]
fn pages_cannot_be_discarded_that_were_never_sent() {
    for start in [0, PAGES, u64::MAX] {
        refused(Mode::HYBRID, "not sent all", &|_, caller| {
            caller.say(&ToDestination::Discard { start, bits: vec![1] });
        });
    }
}

#[test]
fn no_round_comes_over_pages_that_are_void() {
    refused(Mode::HYBRID, "wrong time", &|world, caller| {
        let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
        bulk.write_all(&[run(0, 8, 3), encode_round_end(1)].concat()).unwrap();
        assert!(matches!(caller.hear(), Some(ToSource::RoundPlaced { round: 1, .. })));
        caller.say(&ToDestination::Discard { start: 0, bits: vec![0b11] });
        wait_for("the discard", || {
            world.listener.status().rounds.is_some_and(|rounds| rounds.discarded == 2)
        });
        bulk.write_all(&run(0, 8, 0)).unwrap();
        while caller.hear().is_some() {}
    });
}

#[test]
fn a_page_of_a_round_that_comes_while_page_service_begins_ends_the_session_and_hangs_nobody() {
    let gate = Arc::new(Barrier::new(2));
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.watched = Some(gate.clone());
    });
    let mut caller = Caller::open(&world, 1);
    caller.announce(&world, Mode::HYBRID);
    let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
    caller.say(&ToDestination::BeginPageService);
    gate.wait();
    bulk.write_all(&run(5, 1, 9)).unwrap();
    // Time for the page to do harm, if it can.
    std::thread::sleep(Duration::from_millis(100));
    gate.wait();
    while caller.hear().is_some() {}
    wait_for("the end", || world.vm.abandons.load(Ordering::SeqCst) == 1);
    wait_for("the reason", || world.listener.status().error.is_some());
    let why = world.listener.status().error.unwrap();
    assert!(why.contains("wrong time"), "{why}");
}

#[test]
fn a_guest_does_not_run_by_precopy_while_a_page_is_missing() {
    refused(Mode::PRECOPY, "1 pages are missing", &|world, caller| {
        let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
        let pages = [run(1, PAGES / 3 - 1, 3), run(PAGES / 3, PAGES - PAGES / 3, 0)].concat();
        bulk.write_all(&[pages, encode_round_end(1)].concat()).unwrap();
        assert!(matches!(caller.hear(), Some(ToSource::RoundPlaced { round: 1, .. })));
        caller.state_after(world, 1);
        assert!(matches!(caller.hear(), Some(ToSource::Refused(_))));
    });
}

/// A source by hand that has moved its guest by precopy, up to PREPARED.
fn prepared(world: &World) -> (Caller, std::net::TcpStream, std::net::TcpStream) {
    let mut caller = Caller::open(world, 1);
    caller.announce(world, Mode::PRECOPY);
    let (demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
    bulk.write_all(&[all(3), encode_round_end(1)].concat()).unwrap();
    let digest =
        (0..PAGES).fold(0u128, |sum, page| sum.wrapping_add(digest_term(page, PageKind::Fill(3))));
    assert_eq!(caller.hear(), Some(ToSource::RoundPlaced { round: 1, digest }));
    caller.state_after(world, 1);
    assert_eq!(caller.hear(), Some(ToSource::Prepared));
    (caller, demand, bulk)
}

#[test]
fn nothing_is_written_into_a_guest_that_came_by_precopy() {
    let world = World::with(tcp(), PAGES, 0, DestinationOptions::default(), |_| ());
    let (mut caller, demand, mut bulk) = prepared(&world);
    world.ledger.nobody();
    caller.say(&ToDestination::Handover { since_stop_ns: 1 });
    assert_eq!(caller.hear(), Some(ToSource::Running));
    assert!(matches!(caller.hear(), Some(ToSource::Complete { .. })));
    bulk.write_all(&all(9)).unwrap();
    // Its link is given up for it.
    assert_eq!(caller.hear(), None);
    for page in 0..PAGES {
        assert!(crate::vms::read(&world.vm.ram, page).iter().all(|byte| *byte == 3));
    }
    world.assert_runs(Who::Destination);
    drop(demand);
}
