//! Loading.

use crate::vms::{PAGE, PAGES, Saved, count, has_content, wait_for};
use std::fs;
use umem_link::{LoadOptions, Prefault};

const WHOLE: LoadOptions = LoadOptions {
    postcopy: false,
    prefault: Prefault { adaptive: false, forward: 0, backward: 0, move_background: false },
    background: false,
};
const POSTCOPY: LoadOptions = LoadOptions { postcopy: true, background: true, ..WHOLE };
const ON_DEMAND: LoadOptions = LoadOptions { background: false, ..POSTCOPY };

/// A page of content that the guest never changed.
fn some_page(from: u64) -> u64 {
    (from..PAGES).find(|page| has_content(*page)).unwrap()
}

#[test]
fn a_guest_is_loaded_whole_before_it_runs() {
    let saved = Saved::new();
    let loaded = saved.load(WHOLE);
    loaded.assert_whole();
    assert!(loaded.vm.plane().is_none(), "no page service");
    assert_eq!(loaded.session.status().pages.precopy, PAGES);
    assert_eq!(*loaded.vm.phases.lock().unwrap(), ["active", "device", "completed"]);
}

#[test]
fn a_guest_runs_while_its_pages_come_from_the_file() {
    let saved = Saved::new();
    let loaded = saved.load(POSTCOPY);
    loaded.assert_whole();
    assert_eq!(*loaded.vm.phases.lock().unwrap(), ["device", "postcopy-active", "completed"]);
}

#[test]
fn pages_come_on_demand_alone() {
    let saved = Saved::new();
    let loaded = saved.load(ON_DEMAND);
    loaded.assert_whole();
    let status = loaded.session.status();
    assert_eq!((status.pages.demand, status.faults.count), (PAGES, PAGES));
}

#[test]
fn neighbours_come_along_with_a_demanded_page() {
    let saved = Saved::new();
    let prefault = Prefault { forward: 15, ..Prefault::default() };
    let loaded = saved.load_into(LoadOptions { prefault, ..ON_DEMAND }, |vm| vm.threads = 1);
    loaded.assert_whole();
    let pages = loaded.session.status().pages;
    assert!(pages.prefault > PAGES / 2, "{pages:?}");
}

#[test]
fn the_background_is_switched_on_later() {
    let saved = Saved::new();
    let loaded = saved.load_into(ON_DEMAND, |vm| vm.read_below = 10);
    wait_for("the guest's reads", || count(&loaded.vm.touched) == 10);
    let status = loaded.session.status();
    assert_eq!((&*status.phase, status.pages.remaining), ("postcopy-active", PAGES - 10));
    loaded.session.set_background(true);
    loaded.assert_whole();
    assert_eq!(loaded.session.status().pages.background, PAGES - 10);
}

#[test]
fn loading_the_state_may_need_pages() {
    let saved = Saved::new();
    let loaded = saved.load_into(ON_DEMAND, |vm| vm.load_needs = Some(some_page(400)));
    loaded.assert_whole();
}

#[test]
fn an_altered_page_pauses_the_guest_until_it_is_repaired() {
    for options in [POSTCOPY, ON_DEMAND] {
        let saved = Saved::new();
        let page = some_page(500);
        let at = Saved::offset(page) + 1234;
        saved.flip(at);
        let loaded = saved.load(options);
        wait_for("the report", || !loaded.vm.lost.lock().unwrap().is_empty());
        assert!(loaded.vm.is_paused());
        // Its owner lets it go on all the same: all pages but one can be had.
        loaded.vm.go_on();
        loaded.session.set_background(true);
        wait_for("the other pages", || loaded.session.status().pages.remaining == 1);
        let status = loaded.session.status();
        assert_eq!(status.phase, "postcopy-paused");
        let why = status.error.unwrap();
        let place = format!("page {page:#x} (offset {:#x})", Saved::offset(page));
        assert!(why.contains(&place) && why.contains("altered"), "{why}");
        let lost = loaded.vm.lost.lock().unwrap().clone();
        assert!(lost.iter().all(|lost| *lost == (page, why.clone())), "{lost:?}");

        // Not repaired: reported again.
        assert_eq!(loaded.session.retry(), 1);
        wait_for("the report", || loaded.vm.lost.lock().unwrap().len() > lost.len());
        saved.flip(at);
        assert_eq!(loaded.session.retry(), 1);
        wait_for("the guest's reads", || {
            // It may have been paused again by whoever touched the page last.
            loaded.vm.go_on();
            count(&loaded.vm.touched) == PAGES
        });
        loaded.assert_whole();
        assert_eq!(loaded.session.retry(), 0);
    }
}

#[test]
fn an_altered_page_refuses_a_whole_load_before_the_guest_runs() {
    let saved = Saved::new();
    let page = some_page(500);
    saved.flip(Saved::offset(page));
    let why = saved.load(WHOLE).failed();
    assert!(why.contains(&format!("page {page:#x}")), "{why}");
}

#[test]
fn an_altered_page_that_the_state_needs_refuses_the_load() {
    let saved = Saved::new();
    let page = some_page(400);
    saved.flip(Saved::offset(page));
    let loaded = saved.load_into(POSTCOPY, |vm| vm.load_needs = Some(page));
    let why = loaded.failed();
    assert!(why.contains(&format!("page {page:#x} (offset")), "{why}");
    assert!(loaded.vm.lost.lock().unwrap().is_empty(), "there is no guest to pause");
}

#[test]
fn an_altered_or_cut_file_is_refused_before_anything_is_done() {
    let saved = Saved::new();
    let length = fs::metadata(&saved.path).unwrap().len();
    let tail = Saved::offset(PAGES);
    for at in [0, 100, 4095, tail, tail + 200, length - 25, length - 1] {
        for options in [WHOLE, POSTCOPY] {
            saved.flip(at);
            let loaded = saved.load(options);
            let why = loaded.failed();
            assert!(why.contains(&saved.path.display().to_string()), "{why}");
            assert_eq!(count(&loaded.vm.admits), 0);
            saved.flip(at);
        }
    }
    saved.load(POSTCOPY).assert_whole();
    let file = fs::File::options().write(true).open(&saved.path).unwrap();
    file.set_len(length - 1).unwrap();
    assert!(saved.load(POSTCOPY).failed().contains("cut"));
}

#[test]
fn another_machine_is_refused_with_the_difference() {
    let saved = Saved::new();
    for options in [WHOLE, POSTCOPY] {
        let why = saved.load_into(options, |vm| vm.harts = 2).failed();
        assert!(why.contains("vCPUs"), "{why}");
    }
}

#[test]
fn a_guest_that_cannot_run_here_leaves_nothing_behind() {
    let saved = Saved::new();
    for options in [WHOLE, POSTCOPY] {
        assert_eq!(
            saved.load_into(options, |vm| vm.unrunnable = true).failed(),
            "the disk is locked"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_any_more_stops_the_background_and_is_repaired_in_place() {
    let saved = Saved::new();
    let whole = fs::read(&saved.path).unwrap();
    let loaded = saved.load_into(ON_DEMAND, |vm| vm.read_below = 10);
    wait_for("the guest's reads", || count(&loaded.vm.touched) == 10);
    fs::File::options().write(true).open(&saved.path).unwrap().set_len(PAGE).unwrap();
    loaded.session.set_background(true);
    wait_for("many losses", || loaded.vm.lost.lock().unwrap().len() >= 64);
    let status = loaded.session.status();
    assert!(status.error.unwrap().contains("pages cannot be had"));
    assert!(loaded.vm.lost.lock().unwrap().len() < 64 + 64, "it has stopped");
    fs::write(&saved.path, whole).unwrap();
    wait_for("repair", || {
        loaded.session.retry();
        loaded.session.ended()
    });
    loaded.vm.go_on();
    loaded.assert_whole();
}

#[test]
fn a_load_is_abandoned_while_the_guest_waits_for_a_page() {
    let saved = Saved::new();
    let page = some_page(500);
    saved.flip(Saved::offset(page));
    let loaded = saved.load(POSTCOPY);
    wait_for("the report", || loaded.vm.is_paused());
    loaded.session.abandon();
    loaded.wait_ended();
}
