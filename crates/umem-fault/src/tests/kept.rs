//! Pages that came before memory was watched, and pages that are taken away again.

use super::*;
use crate::Withdrawal;
use umem_memory::PageBitmap;

/// Large enough for a huge page, wherever it is mapped.
const MANY: u64 = 2048;

const CACHE: Placement = Placement::PageCache { map_on_arrival: true };
const LATE: Placement = Placement::PageCache { map_on_arrival: false };

/// What memory is made of, how pages are placed, and whether huge pages are asked for.
const KINDS: [(Backend, Placement, bool); 6] = [
    (Backend::Anonymous, Placement::Copy, false),
    (Backend::Anonymous, Placement::Copy, true),
    (Backend::Memfd, Placement::Copy, false),
    (Backend::Memfd, Placement::Copy, true),
    (Backend::Memfd, CACHE, true),
    (Backend::Memfd, LATE, false),
];

fn large(backend: &Backend, huge: bool) -> GuestRam {
    let spec = |name: &str, first: u64, pages: u64| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(BASE + first * PAGE),
        bytes: pages * PAGE,
    };
    let specs = vec![spec("low", 0, 100), spec("high", 100, MANY - 100)];
    let ram = GuestRam::new(RamLayout::new(PageSize::SMALL, specs).unwrap(), backend).unwrap();
    for block in ram.layout().blocks() {
        let start = ram.host_address(block.first_page).unwrap().as_ptr();
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: a mapping of ours; the advice changes no content. One too small is refused.
        unsafe { libc::madvise(start.cast(), block.bytes() as usize, advice) };
    }
    ram
}

fn old(page: PageIndex) -> Vec<u8> {
    content(PageIndex(page.0 + 10_000))
}

/// Whether a page is there from the start; and whether it is one of zeroes that nobody wrote.
fn is_placed(page: u64) -> bool {
    page.is_multiple_of(3) || (90..130).contains(&page)
}

fn is_zero(page: u64) -> bool {
    page.is_multiple_of(9) || (100..110).contains(&page)
}

fn before(page: u64) -> Vec<u8> {
    if is_zero(page) { vec![0; PAGE as usize] } else { old(PageIndex(page)) }
}

/// Memory as rounds leave it: pages that are placed, zeroes that were not, and content that is void.
fn filled(ram: &GuestRam) -> PageBitmap {
    let placed = PageBitmap::new(MANY);
    for page in 0..MANY {
        let range = PageRange::one(PageIndex(page));
        if is_placed(page) {
            placed.set(range);
        }
        match (is_placed(page), is_zero(page)) {
            (true, false) => ram.write_pages(range, &old(range.start)).unwrap(),
            // Sent with content once; zero since.
            (true, true) if page.is_multiple_of(2) => ram.fill_pages(range, 0).unwrap(),
            (true, true) => {}
            (false, _) if page % 5 < 3 => ram.fill_pages(range, 0xee).unwrap(),
            (false, _) => {}
        }
    }
    // Read, as by a check: the kernel may have mapped its zeroes.
    let _ = touch(ram, PageIndex(9));
    placed
}

/// Installs what is asked for, until nobody can ask any more; what it was.
fn serve(plane: &FaultPlane, requests: Receiver<Vec<PageIndex>>) -> Vec<PageIndex> {
    let mut asked = Vec::new();
    for page in requests.into_iter().flatten() {
        plane.install(PageRange::one(page), &content(page)).unwrap();
        asked.push(page);
    }
    asked.sort_unstable();
    asked
}

/// Touches every page while a source serves; which were asked for.
fn touch_all(
    plane: &FaultPlane,
    ram: &GuestRam,
    expected: impl Fn(u64) -> Vec<u8>,
) -> Vec<PageIndex> {
    let requests = notes(plane);
    thread::scope(|scope| {
        let source = scope.spawn(|| serve(plane, requests));
        for page in 0..MANY {
            assert!(touch(ram, PageIndex(page)) == expected(page), "page {page}");
        }
        drop(notes(plane));
        source.join().unwrap()
    })
}

fn indices(pages: impl Iterator<Item = u64>) -> Vec<PageIndex> {
    pages.map(PageIndex).collect()
}

#[test]
fn pages_that_were_placed_stay_and_all_others_are_missing() {
    for (backend, placement, huge) in KINDS {
        let ram = large(&backend, huge);
        let placed = filled(&ram);
        let plane = FaultPlane::for_ram_keeping(&ram, &placed, placement).unwrap();
        let counts = plane.table().counts();
        assert_eq!((counts.present, counts.missing()), (placed.count(), MANY - placed.count()));
        let held = ram.populated(PageRange::new(PageIndex(0), MANY)).unwrap();
        let strays = held.into_iter().flat_map(PageRange::pages).filter(|page| !placed.test(*page));
        assert_eq!(strays.collect::<Vec<_>>(), [], "{backend:?} {placement:?} {huge}");
        plane.start_reader().unwrap();
        let late = plane.install(PageRange::one(PageIndex(3)), &content(PageIndex(3))).unwrap();
        assert_eq!(late, Installed { installed: 0, duplicate: 1 }, "what is there stays");
        let asked = touch_all(&plane, &ram, |page| match is_placed(page) {
            true => before(page),
            false => content(PageIndex(page)),
        });
        let missing = indices((0..MANY).filter(|&page| !is_placed(page)));
        assert_eq!(asked, missing, "each is asked for once, and no other");
        assert_eq!(plane.table().counts().missing(), 0);
        plane.release().unwrap();
        assert!(touch(&ram, PageIndex(3)) == old(PageIndex(3)));
    }
}

#[test]
fn a_plane_of_no_page_or_of_all_is_one_too() {
    for all in [false, true] {
        let ram = large(&Backend::Anonymous, true);
        ram.write_pages(PageRange::one(PageIndex(7)), &old(PageIndex(7))).unwrap();
        let placed = PageBitmap::new(MANY);
        if all {
            placed.set(PageRange::new(PageIndex(0), MANY));
        }
        let plane = FaultPlane::for_ram_keeping(&ram, &placed, Placement::Copy).unwrap();
        assert_eq!(plane.table().counts().present, placed.count());
        if all {
            plane.release().unwrap();
            assert!(touch(&ram, PageIndex(7)) == old(PageIndex(7)));
            assert!(touch(&ram, PageIndex(8)) == vec![0; PAGE as usize]);
        } else {
            assert!(matches!(plane.release(), Err(FaultError::Missing(MANY))));
        }
    }
}

#[test]
fn a_system_call_finds_zeroes_that_were_placed_even_for_an_ordinary_user() {
    let ram = large(&Backend::Anonymous, false);
    let placed = filled(&ram);
    let uffd = Userfaultfd::open_user_mode_only().unwrap();
    let plane = FaultPlane::for_ram_keeping_with(&ram, uffd, &placed, Placement::Copy).unwrap();
    for page in [0, 9, 18, 27, 105, 3] {
        assert_eq!(kernel_reads(&ram, PageIndex(page)), Ok(before(page)[0]), "page {page}");
    }
    assert_eq!(kernel_reads(&ram, PageIndex(1)), Err(libc::EFAULT));
    drop(plane);
}

#[test]
fn a_bitmap_of_another_ram_is_refused() {
    let (ram, placed) = (large(&Backend::Anonymous, false), PageBitmap::new(MANY + 1));
    let error = FaultPlane::for_ram_keeping(&ram, &placed, Placement::Copy).unwrap_err();
    assert!(error.to_string().contains("2049 pages for RAM of 2048"), "{error}");
}

#[test]
fn pages_taken_away_are_missing_and_come_again() {
    for (backend, placement, huge) in KINDS {
        let ram = large(&backend, huge);
        let placed = filled(&ram);
        let plane = FaultPlane::for_ram_keeping(&ram, &placed, placement).unwrap();
        // Some come by the plane, and are taken away as well.
        let later = PageRange::new(PageIndex(1000), 60);
        let bytes: Vec<u8> = later.pages().flat_map(old).collect();
        let installed = plane.install(later, &bytes).unwrap().installed;
        let is_here = |page: u64| is_placed(page) || later.pages().any(|other| other.0 == page);
        let away = |page: u64| page.is_multiple_of(4) || (80..120).contains(&page);
        let ranges: Vec<_> = {
            let set = PageBitmap::new(MANY);
            indices((0..MANY).filter(|&page| away(page))).into_iter().for_each(|page| {
                set.set(PageRange::one(page));
            });
            set.runs().collect()
        };
        let here = (0..MANY).filter(|&page| is_here(page) && away(page)).count() as u64;
        let (one, rest) = ranges.split_first().unwrap();
        let taken = plane.withdraw(*one).unwrap() + plane.withdraw_all(rest).unwrap();
        assert_eq!(taken, here);
        let present = placed.count() + installed - here;
        let counts = plane.table().counts();
        assert_eq!((counts.present, counts.requested), (present, 0));
        assert_eq!(plane.withdraw_all(&ranges).unwrap(), 0, "they are gone already");
        plane.start_reader().unwrap();
        let asked =
            touch_all(&plane, &ram, |page| match (is_here(page) && !away(page), is_placed(page)) {
                (true, true) => before(page),
                (true, false) => old(PageIndex(page)),
                (false, _) => content(PageIndex(page)),
            });
        let missing = indices((0..MANY).filter(|&page| !is_here(page) || away(page)));
        assert_eq!(asked, missing, "{backend:?} {placement:?} {huge}");
        plane.release().unwrap();
    }
}

#[test]
fn pages_given_up_or_discarded_can_come_after_all() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend);
        let plane = FaultPlane::for_ram(&ram).unwrap();
        let (lost, discarded) = (PageIndex(4), PageIndex(6));
        plane.install_unreadable(PageRange::one(lost)).unwrap();
        assert!(plane.table().discard(discarded));
        assert_eq!(plane.withdraw(PageRange::new(PageIndex(0), 10)).unwrap(), 2);
        assert_eq!(plane.table().counts().poisoned, 0);
        for page in [lost, discarded] {
            assert_eq!(plane.table().state(page), PageState::Missing);
            let done = plane.install(PageRange::one(page), &content(page)).unwrap();
            assert_eq!(done.installed, 1);
            assert!(touch(&ram, page) == content(page), "{backend:?}");
        }
    }
}

#[test]
fn what_cannot_be_taken_away_is_refused() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let range = PageRange::new(PageIndex(10), 5);
    let bytes: Vec<u8> = range.pages().flat_map(content).collect();
    plane.install(range, &bytes).unwrap();
    assert_eq!(plane.table().begin_withdraw(PageIndex(12)), Withdrawal::Begun);
    let error = plane.withdraw(range).unwrap_err();
    assert!(matches!(error, FaultError::Busy { page } if page == PageIndex(12)), "{error}");
    for (page, state) in [
        (10, PageState::Missing),
        (11, PageState::Missing),
        (12, PageState::Installing),
        (13, PageState::Present),
    ] {
        assert_eq!(plane.table().state(PageIndex(page)), state);
    }
    assert!(touch(&ram, PageIndex(13)) == content(PageIndex(13)));
    let beyond = PageRange::new(PageIndex(PAGES - 1), 2);
    assert!(matches!(plane.withdraw(beyond), Err(FaultError::NoPages(_))));
    let fd = rustix::io::fcntl_dupfd_cloexec(plane.uffd().unwrap().as_fd(), 0).unwrap();
    let host_address = ram.host_address(PageIndex(0)).unwrap().as_ptr().addr() as u64;
    let region = ForeignRegion { host_address, pages: PageRange::new(PageIndex(0), 100) };
    let theirs =
        FaultPlane::from_received(fd, Features::WANTED, &[region], PageSize::SMALL).unwrap();
    assert!(matches!(theirs.withdraw(range), Err(FaultError::Foreign)));
    plane.close();
    assert!(matches!(plane.withdraw(range), Err(FaultError::Closed)));
}
