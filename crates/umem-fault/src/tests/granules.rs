//! Huge pages: nothing of one is seen before all of it is there.

use super::*;
use std::collections::BTreeSet;
use umem_memory::{HugePages, MemoryKind, PageBitmap};

/// Pages in one of 2 MiB.
const EACH: u64 = 512;
const GRANULES: u64 = 4;

/// RAM of huge pages, in two blocks; `None`, and a word about it, where this host gives none.
fn huge() -> Option<(GuestRam, HugePages)> {
    let page = PageSize::HUGE_2M;
    let aside = match HugePages::set_aside(page, GRANULES) {
        Ok(aside) => aside,
        Err(error) => {
            skipped(&format!("umem-fault granules: no huge pages here: {error}"));
            return None;
        }
    };
    let spec = |name: &str, first: u64, granules: u64| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(BASE + first * page.bytes()),
        bytes: granules * page.bytes(),
    };
    let specs = vec![spec("low", 0, 1), spec("high", 1, GRANULES - 1)];
    let layout = RamLayout::new(PageSize::SMALL, specs).unwrap();
    let ram = GuestRam::new(layout, &Backend::HugeMemfd(page)).unwrap();
    assert_eq!((ram.kind(), ram.host_page()), (MemoryKind::Huge, page));
    Some((ram, aside))
}

/// Tells of a test that cannot run here, at the end of the whole run.
fn skipped(line: &str) {
    use std::io::Write as _;
    eprintln!("skipped: {line}");
    if let Some(log) = std::env::var_os("UMEM_SKIP_LOG") {
        let mut file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

fn granule(number: u64) -> PageRange {
    PageRange::new(PageIndex(number * EACH), EACH)
}

fn install(plane: &FaultPlane, range: PageRange) -> Installed {
    let bytes: Vec<u8> = range.pages().flat_map(content).collect();
    plane.install(range, &bytes).unwrap()
}

#[test]
fn nobody_sees_a_huge_page_before_it_is_whole() {
    let Some((ram, _aside)) = huge() else { return };
    for map_on_arrival in [true, false] {
        let placement = Placement::PageCache { map_on_arrival };
        let plane = FaultPlane::for_ram_placed(&ram, placement).unwrap();
        plane.start_reader().unwrap();
        let requests = notes(&plane);
        let touched = PageIndex(EACH + 77);
        thread::scope(|scope| {
            let in_kernel = scope.spawn(|| touch(&ram, touched));
            // All of it is asked for at once, what is needed first.
            let mut asked = requests.recv().unwrap();
            assert_eq!(asked[0], touched);
            asked.sort();
            assert_eq!(asked, granule(1).pages().collect::<Vec<_>>());
            let waiter = scope
                .spawn(|| plane.resolve(PageIndex(EACH + 3), FaultCause::Vcpu, &Interrupt::new()));
            // In pieces, the last first; a piece that comes twice counts once.
            for part in (1..8).rev() {
                let part = PageRange::new(PageIndex(EACH + part * 64), 64);
                assert_eq!(install(&plane, part).installed, 64);
                assert_eq!(install(&plane, part).duplicate, 64);
            }
            assert!(!plane.table().is_present(touched), "a part is not there yet");
            thread::sleep(Duration::from_millis(20));
            assert!(!in_kernel.is_finished() && !waiter.is_finished());
            install(&plane, PageRange::new(PageIndex(EACH), 63));
            assert!(!plane.table().is_present(touched), "one page is not there yet");
            plane.install_fill(PageRange::one(PageIndex(EACH + 63)), 0).unwrap();
            assert!(in_kernel.join().unwrap() == content(touched));
            assert_eq!(waiter.join().unwrap(), Waited::Present);
        });
        for page in granule(1).pages().filter(|page| page.0 != EACH + 63) {
            assert!(touch(&ram, page) == content(page), "{page}");
        }
        assert!(touch(&ram, PageIndex(EACH + 63)) == vec![0; PAGE as usize]);
        plane.close();
    }
}

#[test]
fn threads_find_what_came_whatever_its_order() {
    let Some((ram, _aside)) = huge() else { return };
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let requests = notes(&plane);
    plane.start_reader().unwrap();
    let total = GRANULES * EACH;
    thread::scope(|scope| {
        let (plane, requests) = (&plane, requests);
        let source = scope.spawn(move || {
            let mut left: BTreeSet<u64> = (0..total).collect();
            while !left.is_empty() {
                let asked = requests.try_recv().unwrap_or_default();
                let next = left.iter().next_back().copied().map(PageIndex);
                for page in asked.into_iter().chain(next) {
                    left.remove(&page.0);
                    install(plane, PageRange::one(page));
                }
            }
        });
        for thread in 0..3u64 {
            let ram = &ram;
            scope.spawn(move || {
                for at in 0..total {
                    let page = PageIndex((at * 331 + thread * 700) % total);
                    if thread == 0 {
                        let _ = plane.resolve(page, FaultCause::Vcpu, &Interrupt::new());
                    }
                    assert!(touch(ram, page) == content(page), "{page}");
                }
            });
        }
        source.join().unwrap();
    });
    plane.release().unwrap();
    assert_eq!(ram.populated(PageRange::new(PageIndex(0), total)).unwrap()[0].count, total);
}

#[test]
fn zeroes_take_no_huge_page_until_they_are_touched() {
    let Some((ram, _aside)) = huge() else { return };
    let plane = FaultPlane::for_ram(&ram).unwrap();
    plane.start_reader().unwrap();
    let all = PageRange::new(PageIndex(0), GRANULES * EACH);
    for range in [granule(0), PageRange::new(PageIndex(EACH), (GRANULES - 1) * EACH)] {
        plane.install_fill(range, 0).unwrap();
    }
    assert_eq!(ram.populated(all).unwrap(), []);
    assert!(touch(&ram, PageIndex(2 * EACH + 9)) == vec![0; PAGE as usize]);
    assert_eq!(ram.populated(all).unwrap(), [granule(2)]);
    plane.release().unwrap();
    assert!(touch(&ram, PageIndex(5)) == vec![0; PAGE as usize]);
}

#[test]
fn a_page_that_was_lost_takes_its_huge_page_along() {
    let Some((ram, _aside)) = huge() else { return };
    let plane = FaultPlane::for_ram(&ram).unwrap();
    plane.start_reader().unwrap();
    install(&plane, PageRange::new(PageIndex(0), 100));
    plane.install_unreadable(PageRange::one(PageIndex(100))).unwrap();
    assert_eq!(plane.table().counts().poisoned, 0, "the rest may come yet");
    install(&plane, PageRange::new(PageIndex(101), EACH - 101));
    assert_eq!(plane.table().counts().poisoned, EACH);
    let resolve = |page| plane.resolve(PageIndex(page), FaultCause::Vcpu, &Interrupt::new());
    assert_eq!((resolve(0), resolve(100)), (Waited::Poisoned, Waited::Poisoned));
    assert!(kernel_reads(&ram, PageIndex(7)).is_err(), "zeroes, or what nobody sent");
    install(&plane, granule(1));
    assert_eq!(resolve(EACH), Waited::Present);
}

#[test]
fn what_was_there_before_waits_for_what_is_void() {
    let Some((ram, _aside)) = huge() else { return };
    let total = GRANULES * EACH;
    for page in granule(0).pages().chain(granule(1).pages()) {
        ram.write_pages(PageRange::one(page), &content(page)).unwrap();
    }
    // Of the second a page is void, the third was never written and reads as zero.
    let placed = PageBitmap::new(total);
    for whole in [granule(0), granule(1), granule(2)] {
        placed.set(whole);
    }
    let void = PageIndex(EACH + 5);
    placed.clear(PageRange::one(void));
    let plane = FaultPlane::for_ram_keeping(&ram, &placed, Placement::Copy).unwrap();
    plane.start_reader().unwrap();
    let requests = notes(&plane);
    assert_eq!(plane.table().counts().present, 2 * EACH);
    assert!(touch(&ram, PageIndex(3)) == content(PageIndex(3)));
    assert!(touch(&ram, PageIndex(2 * EACH + 3)) == vec![0; PAGE as usize]);
    thread::scope(|scope| {
        let reader = scope.spawn(|| touch(&ram, PageIndex(EACH + 6)));
        assert_eq!(requests.recv().unwrap(), [void], "only what is missing of it");
        plane.install_fill(PageRange::one(void), 0).unwrap();
        assert!(reader.join().unwrap() == content(PageIndex(EACH + 6)));
    });
    assert!(touch(&ram, void) == vec![0; PAGE as usize], "not what was void");
    // Before the guest runs more may turn out to be void: in a huge page that is whole, and in one that is
    // not.
    let more = [PageRange::one(PageIndex(4)), PageRange::new(PageIndex(EACH - 1), 2)];
    assert_eq!(plane.withdraw_all(&more).unwrap(), 3);
    assert_eq!(plane.withdraw_all(&[PageRange::new(PageIndex(3), 2)]).unwrap(), 1);
    assert_eq!(plane.table().counts().present, EACH);
    for page in [3, 4, EACH - 1, EACH].map(PageIndex) {
        assert!(!plane.table().is_present(page));
        install(&plane, PageRange::one(page));
    }
    install(&plane, granule(3));
    plane.release().unwrap();
    for page in (0..2 * EACH).chain(3 * EACH..total).map(PageIndex).filter(|page| *page != void) {
        assert!(touch(&ram, page) == content(page), "{page}");
    }
}
