//! The page table in every order that threads can run: the crate's own files, compiled with
//! loom's atomics and locks in place of the standard library's.
#![allow(dead_code, missing_docs, unreachable_pub)]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

    /// All pages at one spot: the worst case.
    pub(crate) const PARKING_SPOTS: usize = 1;
}

#[path = "../src/interrupt.rs"]
mod interrupt;
#[path = "../src/parking.rs"]
mod parking;
#[path = "../src/state.rs"]
mod state;
#[path = "../src/table.rs"]
mod table;

use interrupt::Interrupt;
use loom::thread;
use state::{Arrival, Claim, PageState, Waited, Withdrawal};
use std::sync::Arc;
use table::PageTable;
use umem_memory::{PageBitmap, PageIndex, PageRange};

const PAGE: PageIndex = PageIndex(1);

fn install(table: &PageTable, page: PageIndex) -> bool {
    let won = table.begin_install(page);
    if won {
        table.finish_install(page, Arrival::Present);
    }
    won
}

#[test]
fn of_many_that_need_a_page_one_asks_and_all_get_it() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        let needs = |table: Arc<PageTable>| {
            move || {
                let claim = table.claim(PAGE);
                if claim == Claim::Fetch {
                    assert!(install(&table, PAGE));
                }
                assert_eq!(table.wait(PAGE, &Interrupt::new()), Waited::Present);
                claim == Claim::Fetch
            }
        };
        let other = thread::spawn(needs(table.clone()));
        let here = needs(table.clone())();
        assert!(here != other.join().unwrap(), "exactly one asks");
        let counts = table.counts();
        assert_eq!((counts.present, counts.requested), (1, 0));
    });
}

#[test]
fn a_page_that_arrives_twice_is_installed_once_and_wakes_who_waits() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        assert_eq!(table.claim(PAGE), Claim::Fetch);
        let lanes = [(); 2].map(|()| {
            let table = table.clone();
            thread::spawn(move || install(&table, PAGE))
        });
        assert_eq!(table.wait(PAGE, &Interrupt::new()), Waited::Present);
        let wins = lanes.map(|lane| lane.join().unwrap());
        assert!(wins[0] != wins[1], "exactly one installs");
        assert_eq!(table.counts().present, 1);
    });
}

#[test]
fn an_interrupt_ends_a_wait_whenever_it_comes() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        assert_eq!(table.claim(PAGE), Claim::Fetch);
        let interrupt = Interrupt::new();
        let raise = interrupt.clone();
        let other = thread::spawn(move || raise.raise());
        assert_eq!(table.wait(PAGE, &interrupt), Waited::Interrupted);
        other.join().unwrap();
    });
}

#[test]
fn closing_ends_a_wait_whenever_it_comes() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        let other = table.clone();
        let other = thread::spawn(move || other.close());
        assert_eq!(table.wait(PAGE, &Interrupt::new()), Waited::Interrupted);
        other.join().unwrap();
    });
}

#[test]
fn an_install_given_up_can_be_asked_for_again() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        let fails = table.clone();
        let fails = thread::spawn(move || {
            if fails.begin_install(PAGE) {
                fails.abort_install(PAGE);
            }
        });
        let waits = table.clone();
        let waits = thread::spawn(move || {
            let _ = waits.claim(PAGE);
            assert_eq!(waits.wait(PAGE, &Interrupt::new()), Waited::Present);
        });
        fails.join().unwrap();
        // Whoever came first: what was aborted is on the list, what nobody asked for is missing.
        let listed = table.requested_pages() == [PAGE];
        assert!(listed || table.state(PAGE) == PageState::Missing);
        assert!(install(&table, PAGE));
        waits.join().unwrap();
        let counts = table.counts();
        assert_eq!((counts.present, counts.requested), (1, 0));
    });
}

#[test]
fn neighbours_in_one_word_do_not_disturb_each_other() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        let other = table.clone();
        let other = thread::spawn(move || {
            assert!(other.begin_install(PageIndex(0)));
            other.finish_install(PageIndex(0), Arrival::Poisoned);
        });
        assert_eq!(table.claim(PAGE), Claim::Fetch);
        assert!(install(&table, PAGE));
        other.join().unwrap();
        assert_eq!(table.state(PageIndex(0)), PageState::Poisoned);
        assert_eq!(table.state(PAGE), PageState::Present);
        assert_eq!(table.state(PageIndex(2)), PageState::Missing);
        let counts = table.counts();
        assert_eq!((counts.present, counts.poisoned, counts.missing()), (1, 1, 1));
    });
}

/// A table of three pages, of which the middle one is here.
fn one_present() -> PageTable {
    let present = PageBitmap::new(3);
    present.set(PageRange::one(PAGE));
    PageTable::with_present(&present)
}

fn withdraw(table: &PageTable) -> bool {
    let begun = table.begin_withdraw(PAGE) == Withdrawal::Begun;
    if begun {
        table.finish_withdraw(PAGE);
    }
    begun
}

#[test]
fn a_page_is_taken_away_once() {
    loom::model(|| {
        let table = Arc::new(one_present());
        let other = table.clone();
        let other = thread::spawn(move || withdraw(&other));
        let here = withdraw(&table);
        assert!(here != other.join().unwrap(), "exactly one takes it");
        assert_eq!(table.state(PAGE), PageState::Missing);
        assert_eq!((table.counts().present, table.counts().missing()), (0, 3));
    });
}

#[test]
fn a_page_is_taken_away_whatever_its_neighbours_do() {
    loom::model(|| {
        let table = Arc::new(one_present());
        let other = table.clone();
        let other = thread::spawn(move || install(&other, PageIndex(0)));
        assert!(withdraw(&table));
        assert!(other.join().unwrap());
        assert_eq!(table.state(PAGE), PageState::Missing);
        assert_eq!(table.state(PageIndex(0)), PageState::Present);
        let counts = table.counts();
        assert_eq!((counts.present, counts.requested, counts.missing()), (1, 0, 2));
    });
}

#[test]
fn a_page_that_comes_while_it_is_taken_away_is_whole_or_missing() {
    loom::model(|| {
        let table = Arc::new(one_present());
        let lane = table.clone();
        let lane = thread::spawn(move || install(&lane, PAGE));
        let withdrawal = table.begin_withdraw(PAGE);
        if withdrawal == Withdrawal::Begun {
            table.finish_withdraw(PAGE);
        }
        let came_again = lane.join().unwrap();
        assert_eq!(withdrawal, Withdrawal::Begun, "it was here, so no lane could be at it");
        let here = table.state(PAGE) == PageState::Present;
        assert_eq!(here, came_again);
        assert_eq!(table.counts().present, u64::from(here));
        assert!(here || table.state(PAGE) == PageState::Missing);
        if !here {
            assert_eq!(table.claim(PAGE), Claim::Fetch, "it can be asked for again");
        }
    });
}

#[test]
fn a_page_that_is_being_installed_is_not_taken_away() {
    loom::model(|| {
        let table = Arc::new(PageTable::new(3));
        let lane = table.clone();
        let lane = thread::spawn(move || install(&lane, PAGE));
        let withdrawal = table.begin_withdraw(PAGE);
        if withdrawal == Withdrawal::Begun {
            table.finish_withdraw(PAGE);
        }
        assert!(lane.join().unwrap());
        let here = table.state(PAGE) == PageState::Present;
        assert_eq!(here, withdrawal != Withdrawal::Begun);
        assert_eq!(table.counts().present, u64::from(here));
    });
}
