//! Whole moves.

use crate::proxy::{Proxy, Rules};
use crate::vms::{SourceMachine, Touch, read};
use crate::world::{Source, Way, World, fd, tcp, unix, wait_for};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use umem_fault::{FaultCause, Interrupt, Waited};
use umem_link::{DestinationOptions, Prefault, SourceOptions};
use umem_memory::{PageIndex, PageRange};

const PAGES: u64 = 512;

fn move_over(way: Way, threads: u64) {
    let world = World::new(way, PAGES, threads);
    let source = world.source(SourceOptions::default());
    world.assert_whole(&source);
    let phases = source.vm.phases.lock().unwrap().clone();
    assert_eq!(phases.last().map(String::as_str), Some("completed"), "{phases:?}");
    let faults = world.listener.status().faults;
    assert!(faults.max >= faults.p50, "{faults:?}");
}

#[test]
fn a_guest_with_one_thread_arrives_whole_over_tcp() {
    move_over(tcp(), 1);
}

#[test]
fn a_guest_with_sixteen_threads_arrives_whole_over_tcp() {
    move_over(tcp(), 16);
}

#[test]
fn a_guest_with_one_thread_arrives_whole_over_unix() {
    move_over(unix(), 1);
}

#[test]
fn a_guest_with_sixteen_threads_arrives_whole_over_unix() {
    move_over(unix(), 16);
}

#[test]
fn a_guest_with_one_thread_arrives_whole_over_one_descriptor() {
    move_over(fd(), 1);
}

#[test]
fn a_guest_with_sixteen_threads_arrives_whole_over_one_descriptor() {
    move_over(fd(), 16);
}

#[test]
fn three_bulk_connections_share_the_pages() {
    let world = World::new(tcp(), 4 * PAGES, 1);
    let source = world.source(SourceOptions { bulk_lanes: 3, ..SourceOptions::default() });
    world.assert_whole(&source);
}

#[test]
fn the_smallest_credits_slow_down_but_stop_nothing() {
    for credit_bytes in [0, 1, 100_000, 262_144, 300_000] {
        for way in [tcp(), fd()] {
            let options = DestinationOptions { credit_bytes, ..DestinationOptions::default() };
            let world = World::with(way, PAGES, 1, options, |vm| vm.touch_below = 0);
            let source = world.source(SourceOptions::default());
            world.assert_whole(&source);
        }
    }
}

#[test]
fn pages_of_one_byte_cost_next_to_nothing() {
    // Not TCP, whose count includes what the kernel sends again.
    let world = World::with(unix(), 8 * 128, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 0;
    });
    let source = world.source(SourceOptions::default());
    world.assert_whole(&source);
    let status = source.session.status();
    let content = 8 * 128 / 2 * 4096;
    assert_eq!(status.pages.fill, 8 * 128 / 2);
    assert_eq!(world.listener.status().pages.fill, 8 * 128 / 2);
    // Half the pages have content, whose checksums are 8 bytes each; all else must be small.
    assert!(status.wire_bytes > content && status.wire_bytes < content + 24 * 1024, "{status:?}");
}

#[test]
fn without_the_background_all_that_is_touched_comes_by_demand() {
    for way in [tcp(), unix(), fd()] {
        let world = World::new(way, PAGES, 16);
        let source = world.source(SourceOptions { background: false, ..SourceOptions::default() });
        world.assert_whole(&source);
        let pages = world.listener.status().pages;
        assert_eq!((pages.demand, pages.background), (PAGES, 0));
        wait_for("all latencies", || world.listener.status().faults.count >= PAGES);
        assert!(!source.session.status().background);
    }
}

#[test]
fn neighbours_of_demanded_pages_come_along() {
    for (forward, backward) in [(7, 0), (0, 7), (3, 4), (u64::MAX, 0)] {
        let world = World::new(tcp(), PAGES, 1);
        let prefault = Prefault { adaptive: false, forward, backward, move_background: true };
        let options = SourceOptions { prefault, background: false, ..SourceOptions::default() };
        let source = world.source(options);
        world.assert_whole(&source);
        let pages = world.listener.status().pages;
        if backward == 0 {
            // One thread goes up through two blocks; each demanded page brings the next ones.
            let expected = if forward == u64::MAX { 2 } else { PAGES / 8 + 1 };
            assert!(pages.demand <= expected, "{pages:?}");
            assert_eq!(pages.demand + pages.prefault, PAGES);
        }
    }
}

#[test]
fn a_guest_that_runs_through_its_memory_waits_for_few_of_its_pages() {
    let world = World::new(tcp(), PAGES, 1);
    let prefault = Prefault::ADAPTIVE;
    let source =
        world.source(SourceOptions { prefault, background: false, ..SourceOptions::default() });
    world.assert_whole(&source);
    let pages = world.listener.status().pages;
    // One thread goes up through two blocks: 2 pages, then 4, 8, 16, 32, and 64 each time.
    assert!(pages.demand < 20, "{pages:?}");
    assert_eq!(pages.demand + pages.prefault, PAGES);
}

#[test]
fn what_the_guest_needs_first_is_there_before_it_asks() {
    for way in [tcp(), unix(), fd()] {
        let world = World::with(way, PAGES, 1, DestinationOptions::default(), |vm| {
            vm.touch_below = 12;
        });
        // Some twice, in two blocks, and one that the guest does not have.
        let pages = [3, 2, 9, 3, 8, PAGES - 1, PAGES, 4, 5];
        let options = SourceOptions { background: false, ..SourceOptions::default() };
        let mut vm = SourceMachine::new(PAGES, &world.ledger);
        vm.working_set = pages.to_vec();
        let source = Source::start(world.target(), Arc::new(vm), options);
        wait_for("the touched pages", || world.vm.touched.load(Ordering::SeqCst) == 12);
        // A page is touched a moment before it is counted.
        let counts = || {
            let counts = world.listener.status().pages;
            (counts.demand, counts.prefault)
        };
        wait_for("all that came to be counted", || counts().0 + counts().1 == 12 - 6 + 7);
        assert_eq!(counts(), (12 - 6, 7));
        source.session.set_background(true);
        world.assert_whole(&source);
    }
}

#[test]
fn the_background_is_switched_in_flight() {
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 100;
    });
    let source = world.source(SourceOptions { background: false, ..SourceOptions::default() });
    wait_for("the touched pages", || world.vm.touched.load(Ordering::SeqCst) == 100);
    wait_for("them to be counted", || world.listener.status().pages.remaining == PAGES - 100);
    assert_eq!(world.listener.status().phase, "postcopy-active");
    source.session.set_background(true);
    source.session.set_background(false);
    source.session.set_background(true);
    world.assert_whole(&source);
    let pages = world.listener.status().pages;
    assert_eq!((pages.demand, pages.background), (100, PAGES - 100));
    let faults = world.listener.status().faults;
    assert_eq!(faults.count, 100, "{faults:?}");
}

#[test]
fn the_background_uses_several_connections() {
    let world = World::new(tcp(), PAGES, 4);
    let options = SourceOptions { bulk_lanes: 4, ..SourceOptions::default() };
    let source = world.source(options);
    world.assert_whole(&source);
}

#[test]
fn a_limited_background_crawls_until_the_limit_is_lifted() {
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 10;
    });
    // A byte a second: the first chunk goes, the next would take days.
    let source = world.source(SourceOptions { bandwidth: 1, ..SourceOptions::default() });
    wait_for("the touched pages", || world.vm.touched.load(Ordering::SeqCst) == 10);
    assert!(world.listener.status().pages.remaining > 0);
    source.session.set_bandwidth(0);
    world.assert_whole(&source);
}

#[test]
fn no_byte_of_memory_goes_before_the_handover() {
    let world = World::new(tcp(), PAGES, 4);
    let proxy = Proxy::start(world.port(), Rules { hold_handover: true, ..Rules::default() });
    let options = SourceOptions::default();
    let source = crate::world::Source::start(proxy.endpoint(), world.source_vm(), options);
    world.assert_whole(&source);
    assert_eq!(proxy.page_bytes_before_handover(), Some(0));
    assert!(proxy.page_bytes() > 4096 * PAGES / 4);
}

#[test]
fn every_page_is_asked_for_at_most_once_and_faults_share_requests() {
    let world = World::with(tcp(), PAGES, 16, DestinationOptions::default(), |vm| {
        vm.touch = Touch::Both;
    });
    let proxy = Proxy::start(world.port(), Rules::default());
    let options = SourceOptions { background: false, ..SourceOptions::default() };
    let source = crate::world::Source::start(proxy.endpoint(), world.source_vm(), options);
    world.assert_whole(&source);
    let requests = proxy.requests();
    let mut pages: Vec<u64> = requests.concat();
    assert!(requests.len() <= pages.len());
    pages.sort_unstable();
    assert_eq!(pages, (0..PAGES).collect::<Vec<_>>());
}

#[test]
fn a_guest_that_is_switched_off_needs_its_pages_no_more() {
    for way in [tcp(), unix(), fd()] {
        let world = World::with(way, PAGES, 1, DestinationOptions::default(), |vm| {
            vm.touch = Touch::Asking;
            vm.touch_below = 4;
        });
        let source = world.source(SourceOptions { background: false, ..SourceOptions::default() });
        wait_for("the guest", || world.vm.touched.load(Ordering::SeqCst) == 4);
        wait_for("the source", || source.session.status().phase == "postcopy-active");
        assert!(world.listener.give_up_memory("switched off", Duration::from_secs(20)));
        source.wait_ended();
        let (there, here) = (source.session.status(), world.listener.status());
        assert_eq!((&*there.phase, &*here.phase), ("completed", "completed"));
        assert_eq!((there.error, here.error), (None, None));
        assert!(!there.verified && !here.verified);
        assert_eq!(source.vm.released.load(Ordering::SeqCst), 1);
        assert!(world.listener.give_up_memory("again", Duration::ZERO));
    }
}

#[test]
fn a_paused_postcopy_sends_nothing_until_it_goes_on() {
    let world = World::with(tcp(), PAGES, 2, DestinationOptions::default(), |vm| {
        vm.touch_below = 64;
    });
    let source = world.source(SourceOptions { background: false, ..SourceOptions::default() });
    assert!(source.session.go_on().is_err());
    wait_for("the source", || source.session.status().phase == "postcopy-active");
    wait_for("the first pages", || world.vm.touched.load(Ordering::SeqCst) == 64);
    source.session.pause().unwrap();
    wait_for("the word", || source.session.status().phase == "postcopy-paused");
    let sent = source.session.status().pages;
    source.session.set_background(true);
    let plane = world.vm.plane().unwrap();
    let interrupt = Interrupt::new();
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| plane.resolve(PageIndex(100), FaultCause::Vcpu, &interrupt));
        wait_for("the request", || !world.listener.status().waiting_for.is_empty());
        // Nothing has gone out, and nobody takes the pause for the end.
        assert_eq!(source.session.status().pages, sent);
        assert!(!source.session.ended());
        source.session.go_on().unwrap();
        assert_eq!(toucher.join().unwrap(), Waited::Present);
    });
    world.assert_whole(&source);
    assert!(source.session.pause().is_err() && source.session.go_on().is_err());
}

/// Pages that the guest gives back at the destination go as zeroes; both ends agree on what went.
fn pages_given_back(way: Way) {
    const GONE: std::ops::Range<u64> = 100..300;
    let world = World::with(way, PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 0;
    });
    let source = world.source(SourceOptions { background: false, ..SourceOptions::default() });
    wait_for("the guest to run here", || world.vm.runs.load(Ordering::SeqCst) == 1);
    let plane = world.vm.plane().unwrap();
    let fetch = |page| plane.resolve(PageIndex(page), FaultCause::Vcpu, &Interrupt::new());
    // One of them is here before: it stays as it came.
    assert_eq!(fetch(99), Waited::Present);
    let gone = PageRange::new(PageIndex(GONE.start - 1), GONE.end - GONE.start + 1);
    assert_eq!(plane.give_up(gone), GONE.end - GONE.start);
    // Needed all the same, one comes at once, as zeroes or by the request behind the removal.
    assert_eq!(fetch(150), Waited::Present);
    source.session.set_background(true);
    world.assert_whole_but(&source, GONE);
    assert_eq!(source.session.status().pages.removed, GONE.end - GONE.start);
}

#[test]
fn pages_given_back_are_not_sent_over_tcp() {
    pages_given_back(tcp());
}

#[test]
fn pages_given_back_are_not_sent_over_one_descriptor() {
    pages_given_back(fd());
}

/// Given back while everything is on its way, and touched again: what comes is the page or zeroes, both
/// ends know which, and nothing comes twice.
#[test]
fn pages_given_back_at_any_moment_leave_both_ends_agreed() {
    for round in 0..8u64 {
        let world = World::with(tcp(), 8 * PAGES, 1, DestinationOptions::default(), |vm| {
            vm.touch_below = 0;
        });
        let source = world.source(SourceOptions { bulk_lanes: 2, ..SourceOptions::default() });
        wait_for("the guest to run here", || world.vm.runs.load(Ordering::SeqCst) == 1);
        if let Some(plane) = world.vm.plane() {
            let mut state = round * 77 + 1;
            for _ in 0..200 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let page = (state >> 33) % (8 * PAGES - 64);
                plane.give_up(PageRange::new(PageIndex(page), 1 + (state >> 20) % 64));
                let touched = PageIndex(page + (state >> 50) % 64);
                let _ = plane.resolve(touched, FaultCause::Vcpu, &Interrupt::new());
            }
        }
        source.wait_ended();
        wait_for("both to agree", || world.listener.status().verified);
        let (there, here) = (source.session.status(), world.listener.status());
        assert!(there.verified && there.digest == here.digest, "{there:?} {here:?}");
        for page in 0..8 * PAGES {
            let found = read(&world.vm.ram, page);
            let zero = found.iter().all(|byte| *byte == 0);
            assert!(zero || found == read(&source.vm.ram, page), "page {page}");
        }
    }
}
