//! Links that break, everywhere.

use crate::proxy::{Proxy, Rules};
use crate::vms::{Touch, Who};
use crate::world::{Source, World, tcp, wait_for};
use std::sync::atomic::Ordering;
use std::time::Duration;
use umem_link::{BULK_LANES, DestinationOptions, Operator, SourceOptions};
use umem_memory::PageIndex;

const PAGES: u64 = 96;

fn world(start_takes: Duration) -> World {
    World::with(tcp(), PAGES, 2, DestinationOptions::default(), |vm| {
        vm.touch = Touch::Asking;
        vm.start_takes = start_takes;
    })
}

/// Moves a guest through a proxy that cuts; whatever comes of it, exactly one end runs the guest.
/// If it stayed, the next attempt succeeds at the same listener. Whether it stayed.
fn cut_once(rules: Rules, start_takes: Duration, again: bool) -> bool {
    let world = world(start_takes);
    let proxy = Proxy::start(world.port(), rules);
    let source = Source::start(proxy.endpoint(), world.source_vm(), SourceOptions::default());
    source.wait_ended();
    match world.ledger.who() {
        Who::Source => {
            let why = source.failed();
            assert!(!why.is_empty());
            assert_eq!(world.vm.runs.load(Ordering::SeqCst), 0, "{rules:?}");
            if again {
                world.assert_whole(&world.move_when_free());
            }
            true
        }
        Who::Destination => {
            world.assert_runs(Who::Destination);
            let status = source.session.status();
            assert!(["postcopy-paused", "completed"].contains(&&*status.phase), "{status:?}");
            assert_eq!(source.vm.handed_over.load(Ordering::SeqCst), 1, "{rules:?}");
            assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 0, "{rules:?}");
            false
        }
        Who::Nobody => panic!("nobody runs the guest after {rules:?}"),
    }
}

/// Bytes there and back of a move in which nothing is sent after the handover: up to where cuts are
/// of interest.
fn quiet_length() -> (u64, u64) {
    let world =
        World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| vm.touch_below = 0);
    let proxy = Proxy::start(world.port(), Rules::default());
    let options = SourceOptions { background: false, ..SourceOptions::default() };
    let source = Source::start(proxy.endpoint(), world.source_vm(), options);
    wait_for("the handover", || source.session.status().phase == "postcopy-active");
    proxy.passed()
}

#[test]
fn a_link_cut_on_the_way_there_leaves_one_owner() {
    let (there, _) = quiet_length();
    let near = there.saturating_sub(18)..there + 3;
    let cuts = (0..there).step_by(23).chain(near).collect::<Vec<_>>();
    let mut stayed = Vec::new();
    for cut in &cuts {
        let rules = Rules { cut_there: Some(*cut), ..Rules::default() };
        stayed.push(cut_once(rules, Duration::ZERO, cut % 4 == 0));
    }
    // Before the last byte of HANDOVER the guest cannot have gone; behind it, it has.
    for (cut, stayed) in cuts.iter().zip(stayed) {
        assert_eq!(stayed, *cut < there, "cut after {cut} of {there}");
    }
}

#[test]
fn a_link_cut_on_the_way_back_leaves_one_owner() {
    let (_, back) = quiet_length();
    for cut in (0..back - 20).step_by(9).chain(back - 20..back + 2) {
        let rules = Rules { cut_back: Some(cut), ..Rules::default() };
        cut_once(rules, Duration::ZERO, cut % 4 == 0);
    }
}

#[test]
fn a_link_cut_while_the_guest_is_being_started_is_settled_by_asking() {
    let world = world(Duration::from_millis(100));
    // Replies to the connections of control, demand and bulk; READY, PAGE-SERVICE-READY and PREPARED.
    let cut = (2 + u64::from(BULK_LANES)) * 24 + 12 + 8 + 8;
    let rules = Rules { cut_back: Some(cut), deaf: true, ..Rules::default() };
    let proxy = Proxy::start(world.port(), rules);
    let source = Source::start(proxy.endpoint(), world.source_vm(), SourceOptions::default());
    wait_for("a question", || proxy.inquiries() > 1);
    let status = source.session.status();
    assert_eq!(status.phase, "handover-unknown", "{status:?}");
    assert!(source.session.cancel().unwrap_err().contains("handover has begun"));
    assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 0);
    proxy.let_ask();
    source.wait_ended();
    world.assert_runs(Who::Destination);
    assert_eq!(source.session.status().phase, "postcopy-paused");
}

#[test]
fn the_operator_decides_when_nobody_answers() {
    for operator in [Operator::TakeBack, Operator::GiveUp] {
        let (there, _) = quiet_length();
        let world = world(Duration::ZERO);
        let rules = Rules { cut_there: Some(there - 1), deaf: true, ..Rules::default() };
        let proxy = Proxy::start(world.port(), rules);
        let source = Source::start(proxy.endpoint(), world.source_vm(), SourceOptions::default());
        wait_for("a question", || proxy.inquiries() > 0);
        source.session.resolve(operator).unwrap();
        source.wait_ended();
        let phase = source.session.status().phase;
        match operator {
            Operator::TakeBack => {
                world.assert_runs(Who::Source);
                assert_eq!(phase, "failed");
            }
            Operator::GiveUp => {
                assert_eq!((world.ledger.who(), &*phase), (Who::Nobody, "postcopy-paused"));
            }
        }
        assert!(source.session.resolve(operator).is_err());
    }
}

#[test]
fn a_link_cut_after_the_handover_keeps_what_is_there_at_both_ends() {
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch = Touch::Asking;
        vm.touch_below = 10;
    });
    let proxy = Proxy::start(world.port(), Rules::default());
    let options = SourceOptions { background: false, ..SourceOptions::default() };
    let source = Source::start(proxy.endpoint(), world.source_vm(), options);
    wait_for("the touched pages", || world.vm.touched.load(Ordering::SeqCst) == 10);
    wait_for("the source's knowledge", || source.session.status().phase == "postcopy-active");
    proxy.cut();
    source.wait_ended();
    wait_for("the destination's end", || world.listener.status().phase == "postcopy-paused");
    let (there, here) = (source.session.status(), world.listener.status());
    assert_eq!(there.phase, "postcopy-paused");
    assert!(!there.verified && !here.verified);
    assert!(there.error.is_some() && here.error.is_some());
    assert_eq!(source.vm.released.load(Ordering::SeqCst), 0);
    world.assert_runs(Who::Destination);
    assert_eq!((here.pages.remaining, here.pages.total), (PAGES - 10, PAGES));
    assert!((0..10).all(|page| world.vm.is_present(page)));
    // Nobody else may bring another guest now.
    let other = world.source(SourceOptions::default());
    other.wait_ended();
    assert!(other.session.status().error.unwrap().contains("another guest, or has one"));
}

#[test]
fn an_altered_page_is_never_installed_and_named() {
    // Preface, frame's head, its fixed part, one byte of kinds, one checksum; then content.
    let first_content = 56 + 8 + 16 + 1 + 8;
    for byte in [first_content, first_content + 1000, first_content - 3] {
        let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
            vm.touch = Touch::Asking;
        });
        let rules = Rules { alter_demand: Some(byte), ..Rules::default() };
        let proxy = Proxy::start(world.port(), rules);
        let options = SourceOptions { background: false, ..SourceOptions::default() };
        let source = Source::start(proxy.endpoint(), world.source_vm(), options);
        source.wait_ended();
        wait_for("the destination's end", || world.listener.status().phase == "postcopy-paused");
        let (there, here) = (source.session.status(), world.listener.status());
        let error = here.error.unwrap();
        assert!(error.contains("page 0x0 was altered on its way"), "{error}");
        assert!(!there.verified && !here.verified);
        assert_eq!(world.vm.touched.load(Ordering::SeqCst), 0);
        let plane = world.vm.plane().unwrap();
        assert_eq!(plane.table().counts().present, 0);
        assert!(!plane.table().is_present(PageIndex(0)));
        world.assert_runs(Who::Destination);
    }
}

#[test]
fn an_altered_page_of_the_background_is_refused_with_its_frame() {
    let world = World::with(tcp(), PAGES, 1, DestinationOptions::default(), |vm| {
        vm.touch_below = 0;
    });
    let rules = Rules { alter_bulk: Some(60_000), ..Rules::default() };
    let proxy = Proxy::start(world.port(), rules);
    let source = Source::start(proxy.endpoint(), world.source_vm(), SourceOptions::default());
    source.wait_ended();
    wait_for("the destination's end", || world.listener.status().phase == "postcopy-paused");
    let status = world.listener.status();
    assert!(status.error.unwrap().contains("was altered on its way"));
    assert!(!status.verified && !source.session.status().verified);
    assert!(status.pages.remaining > 0);
    world.assert_runs(Who::Destination);
}
