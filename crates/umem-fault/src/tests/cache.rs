//! Pages that come by way of the memory's file.

use super::*;
use crate::Placement;
use std::os::unix::fs::FileExt as _;

fn cached(map_on_arrival: bool) -> (GuestRam, Arc<FaultPlane>) {
    let ram = ram(&Backend::Memfd);
    let placement = Placement::PageCache { map_on_arrival };
    let plane = FaultPlane::for_ram_placed(&ram, placement).unwrap();
    (ram, plane)
}

/// Whether a page is mapped in this process: bit 63 of its entry (Linux documentation, pagemap).
fn is_mapped(ram: &GuestRam, page: PageIndex) -> bool {
    let address = ram.host_address(page).unwrap().as_ptr().addr() as u64;
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, address / PAGE * 8).unwrap();
    u64::from_ne_bytes(entry) >> 63 == 1
}

#[test]
fn pages_are_mapped_on_arrival_or_when_touched() {
    for map_on_arrival in [true, false] {
        let (ram, plane) = cached(map_on_arrival);
        plane.start_reader().unwrap();
        let range = PageRange::new(PageIndex(5), 20);
        let bytes: Vec<u8> = range.pages().flat_map(content).collect();
        assert_eq!(plane.install(range, &bytes).unwrap().installed, 20);
        for page in range.pages() {
            assert!(plane.table().is_present(page));
            assert_eq!(is_mapped(&ram, page), map_on_arrival);
            assert!(touch(&ram, page) == content(page));
            assert!(is_mapped(&ram, page));
        }
    }
}

#[test]
fn zeroes_cost_nothing_until_they_are_touched() {
    let (ram, plane) = cached(true);
    plane.start_reader().unwrap();
    let range = PageRange::new(PageIndex(0), 100);
    assert_eq!(plane.install_fill(range, 0).unwrap().installed, 100);
    assert_eq!(ram.populated(range).unwrap(), []);
    assert!(touch(&ram, PageIndex(7)) == vec![0; PAGE as usize]);
    plane.install_fill(PageRange::new(PageIndex(100), 2), 9).unwrap();
    assert!(touch(&ram, PageIndex(101)) == vec![9; PAGE as usize]);
}

#[test]
fn who_waits_for_a_page_finds_it_mapped() {
    let (ram, plane) = cached(false);
    plane.start_reader().unwrap();
    let requests = notes(&plane);
    let (touched, asked, zero) = (PageIndex(3), PageIndex(130), PageIndex(9));
    thread::scope(|scope| {
        let in_kernel = scope.spawn(|| touch(&ram, touched));
        assert_eq!(requests.recv().unwrap(), [touched]);
        let at_table = scope.spawn(|| {
            let pages = [asked, zero];
            assert_eq!(
                plane.resolve_all(&pages, FaultCause::Device, &Interrupt::new()),
                Waited::Present
            );
            pages.map(|page| is_mapped(&ram, page))
        });
        assert_eq!(requests.recv().unwrap(), [asked, zero]);
        for page in [touched, asked] {
            plane.install(PageRange::one(page), &content(page)).unwrap();
        }
        plane.install_fill(PageRange::one(zero), 0).unwrap();
        assert!(in_kernel.join().unwrap() == content(touched));
        assert_eq!(at_table.join().unwrap(), [true, true]);
    });
    // There but not mapped: a device that is about to hand it to the kernel has it mapped first.
    plane.install(PageRange::one(PageIndex(40)), &content(PageIndex(40))).unwrap();
    assert!(!is_mapped(&ram, PageIndex(40)));
    assert_eq!(
        plane.resolve(PageIndex(40), FaultCause::Device, &Interrupt::new()),
        Waited::Present
    );
    assert!(is_mapped(&ram, PageIndex(40)));
}

#[test]
fn a_released_plane_leaves_the_kernel_to_map_the_rest() {
    let (ram, plane) = cached(false);
    plane.start_reader().unwrap();
    for page in (0..PAGES).map(PageIndex) {
        plane.install(PageRange::one(page), &content(page)).unwrap();
    }
    plane.release().unwrap();
    for page in (0..PAGES).map(PageIndex) {
        assert!(touch(&ram, page) == content(page));
    }
}

#[test]
fn anonymous_memory_has_no_file_to_place_pages_in() {
    let placement = Placement::PageCache { map_on_arrival: true };
    let error = FaultPlane::for_ram_placed(&ram(&Backend::Anonymous), placement).unwrap_err();
    assert!(error.to_string().contains("memfd"), "{error}");
}
