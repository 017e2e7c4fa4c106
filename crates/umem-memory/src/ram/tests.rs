use super::*;
use crate::{PageSize, RamBlockSpec};

const PAGE: u64 = 4096;

fn ram(backend: &Backend, megabytes: u64) -> GuestRam {
    let spec = |name: &str, address, bytes| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes,
    };
    let specs = vec![spec("low", 0x8000_0000, 64 * PAGE), spec("high", 1 << 32, megabytes << 20)];
    GuestRam::new(RamLayout::new(PageSize::SMALL, specs).unwrap(), backend).unwrap()
}

fn all(ram: &GuestRam) -> PageRange {
    PageRange::new(PageIndex(0), ram.layout().total_pages())
}

/// Host memory behind the blocks, by the kernel's own count.
fn resident(ram: &GuestRam) -> u64 {
    ram.populated(all(ram)).unwrap().iter().map(|run| run.count).sum()
}

fn no_huge_pages(ram: &GuestRam) {
    // Whether a touch takes 4 KiB or 2 MiB is the host's choice; the tests count 4 KiB.
    ram.each("advise", Mapping::small_pages).unwrap();
}

#[test]
fn holes_of_a_terabyte_cost_nothing() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend, 1 << 20);
        no_huge_pages(&ram);
        assert_eq!(ram.populated(all(&ram)).unwrap(), []);
        ram.write_at(GuestAddress(0x8000_0000 + 63 * PAGE), &[1]).unwrap();
        ram.write_at(GuestAddress(1 << 32), &[2]).unwrap();
        ram.write_at(GuestAddress((1 << 32) + (1 << 40) - 1), &[3]).unwrap();
        let last = ram.layout().total_pages() - 1;
        let found = ram.populated(all(&ram)).unwrap();
        let expected = [PageRange::new(PageIndex(63), 2), PageRange::one(PageIndex(last))];
        assert_eq!(found, expected, "{backend:?}");
        let middle = PageRange::new(PageIndex(64), 1000);
        assert_eq!(ram.populated(middle).unwrap(), [PageRange::one(PageIndex(64))]);
        assert_eq!(resident(&ram), 3);
    }
}

#[test]
fn cleared_ram_reads_as_zero_and_holds_nothing() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend, 2);
        let address = GuestAddress((1 << 32) + 100);
        ram.write_at(address, &[7; 10_000]).unwrap();
        assert!(resident(&ram) > 0);
        ram.clear().unwrap();
        assert_eq!(resident(&ram), 0);
        let mut bytes = [1; 10_000];
        ram.read_at(address, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn frozen_ram_is_borrowed_block_by_block_and_protected() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend, 1);
        ram.write_at(GuestAddress(1 << 32), &[9; 4096]).unwrap();
        let frozen = FrozenRam::for_test(&ram);
        let first_high = PageIndex(64);
        let bytes = frozen.slice(PageRange::new(first_high, 2)).unwrap();
        assert!(bytes[..4096].iter().all(|&byte| byte == 9) && bytes[4096..] == [0; 4096]);
        assert_eq!(frozen.slice(PageRange::new(PageIndex(63), 2)), None);
        frozen.protect().unwrap();
        assert_eq!(access(&ram, first_high), "r--");
        frozen.unprotect().unwrap();
        assert_eq!(access(&ram, first_high), "rw-");
        ram.write_at(GuestAddress(1 << 32), &[8]).unwrap();
    }
}

fn pattern(pages: u64, seed: u64) -> Vec<u8> {
    (0..pages * PAGE / 8)
        .flat_map(|at| (at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

#[test]
fn pages_are_written_filled_and_copied_out() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend, 1);
        let (low, high) = (PageRange::new(PageIndex(61), 3), PageRange::new(PageIndex(64), 5));
        ram.write_pages(low, &pattern(3, 1)).unwrap();
        ram.write_pages(high, &pattern(5, 2)).unwrap();
        ram.fill_pages(PageRange::one(PageIndex(66)), 0xa5).unwrap();
        let mut bytes = vec![1; 5 * PAGE as usize];
        ram.copy_pages(high, &mut bytes).unwrap();
        let mut expected = pattern(5, 2);
        expected[2 * PAGE as usize..3 * PAGE as usize].fill(0xa5);
        assert!(bytes == expected);
        let mut bytes = vec![1; 3 * PAGE as usize];
        ram.copy_pages(low, &mut bytes).unwrap();
        assert!(bytes == pattern(3, 1));
        ram.read_at(GuestAddress(0x8000_0000 + 61 * PAGE), &mut bytes).unwrap();
        assert!(bytes == pattern(3, 1), "where the guest looks");
        assert!(ram.is_readable(low) && ram.is_readable(PageRange::new(PageIndex(64), 256)));
        assert!(!ram.is_readable(PageRange::new(PageIndex(63), 2)));
    }
}

#[test]
fn pages_of_no_one_block_or_of_another_length_are_refused() {
    let ram = ram(&Backend::Anonymous, 1);
    let mut bytes = vec![0; 2 * PAGE as usize];
    for range in [
        PageRange::new(PageIndex(63), 2),
        PageRange::new(PageIndex(64 + 255), 2),
        PageRange::new(PageIndex(5), 0),
        PageRange::new(PageIndex(u64::MAX), u64::MAX),
    ] {
        assert!(matches!(ram.copy_pages(range, &mut bytes), Err(RamError::NoRun { .. })));
        assert!(matches!(ram.write_pages(range, &bytes), Err(RamError::NoRun { .. })));
        assert!(matches!(ram.fill_pages(range, 1), Err(RamError::NoRun { .. })));
    }
    let range = PageRange::new(PageIndex(5), 3);
    assert!(matches!(ram.copy_pages(range, &mut bytes), Err(RamError::Length { .. })));
    assert!(matches!(ram.write_pages(range, &bytes), Err(RamError::Length { .. })));
    let beyond = PageRange::new(PageIndex(300), 100);
    assert!(matches!(ram.drop_pages(beyond), Err(RamError::NoRun { .. })));
}

#[test]
fn zeroes_hold_nothing_and_dropped_pages_leave_their_neighbours() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        for huge in [false, true] {
            let ram = ram(backend, 8);
            let advice = if huge { Mapping::huge_pages } else { Mapping::small_pages };
            ram.each("advise", advice).unwrap();
            ram.fill_pages(PageRange::new(PageIndex(0), 64), 0).unwrap();
            assert_eq!(ram.populated(all(&ram)).unwrap(), []);
            let pages = 8 * 256;
            let range = PageRange::new(PageIndex(64), pages);
            ram.write_pages(range, &pattern(pages, 3)).unwrap();
            // Every third page, and a run; more than one call takes.
            let dropped = |page: u64| page.is_multiple_of(3) || (100..1000).contains(&page);
            let set = crate::PageBitmap::new(ram.layout().total_pages());
            for page in (64..64 + pages).filter(|&page| dropped(page)) {
                set.set(PageRange::one(PageIndex(page)));
            }
            ram.drop_runs(set.runs()).unwrap();
            ram.fill_pages(PageRange::one(PageIndex(64 + 2000)), 0).unwrap();
            let held: Vec<_> = ram.populated(range).unwrap();
            let held: Vec<_> = held.into_iter().flat_map(PageRange::pages).collect();
            let kept = (64..64 + pages).filter(|&page| !dropped(page) && page != 64 + 2000);
            assert_eq!(held, kept.map(PageIndex).collect::<Vec<_>>(), "{backend:?} {huge}");
            let (expected, mut bytes) = (pattern(pages, 3), vec![1; PAGE as usize]);
            for page in 64..64 + pages {
                ram.copy_pages(PageRange::one(PageIndex(page)), &mut bytes).unwrap();
                if dropped(page) || page == 64 + 2000 {
                    assert!(bytes.iter().all(|&byte| byte == 0));
                } else {
                    let at = ((page - 64) * PAGE) as usize;
                    assert!(bytes == expected[at..at + PAGE as usize], "page {page}");
                }
            }
        }
    }
}

#[test]
fn a_run_that_reaches_over_blocks_is_dropped_in_both() {
    let ram = ram(&Backend::Anonymous, 1);
    let (low, high) = (PageRange::new(PageIndex(62), 2), PageRange::new(PageIndex(64), 2));
    for range in [low, high] {
        ram.write_pages(range, &pattern(2, 4)).unwrap();
    }
    ram.drop_runs([PageRange::new(PageIndex(63), 2)].into_iter()).unwrap();
    let expected = [PageRange::one(PageIndex(62)), PageRange::one(PageIndex(65))];
    assert_eq!(ram.populated(all(&ram)).unwrap(), expected);
}

#[test]
fn what_is_written_filled_or_dropped_is_noted_as_written() {
    use crate::DirtySource as _;
    let ram = ram(&Backend::Anonymous, 1);
    let writes = ram.host_writes();
    writes.start().unwrap();
    ram.write_pages(PageRange::new(PageIndex(3), 2), &pattern(2, 0)).unwrap();
    ram.fill_pages(PageRange::one(PageIndex(70)), 9).unwrap();
    ram.drop_pages(PageRange::new(PageIndex(100), 2)).unwrap();
    ram.copy_pages(PageRange::one(PageIndex(9)), &mut vec![0; PAGE as usize]).unwrap();
    let seen = crate::PageBitmap::new(ram.layout().total_pages());
    writes.collect(&seen).unwrap();
    let seen: Vec<_> = seen.runs().flat_map(PageRange::pages).collect();
    assert_eq!(seen, [3, 4, 70, 100, 101].map(PageIndex));
}

/// The rights that the kernel has for a page's mapping.
fn access(ram: &GuestRam, page: PageIndex) -> String {
    let address = ram.host_address(page).unwrap().as_ptr().addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let (end, _) = rest.split_once(' ').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    });
    line.unwrap().split(' ').nth(1).unwrap()[..3].to_string()
}

#[test]
fn what_is_not_ram_is_refused() {
    let ram = ram(&Backend::Anonymous, 1);
    let mut bytes = [0; 2];
    assert!(ram.read_at(GuestAddress(0x8000_0000 + 64 * PAGE - 1), &mut bytes).is_err());
    assert!(ram.write_at(GuestAddress(u64::MAX), &[1, 2]).is_err());
    assert!(ram.populated(PageRange::new(PageIndex(1), u64::MAX)).is_err());
    assert!(ram.populated(PageRange::new(PageIndex(300), 100)).is_err());
    assert_eq!(ram.host_address(PageIndex(ram.layout().total_pages())), None);
}

/// RAM of huge pages; `None`, and a word about it, where this host gives none.
fn huge(megabytes: u64) -> Option<(GuestRam, HugePages)> {
    use std::io::Write as _;
    let page = PageSize::HUGE_2M;
    let aside = match HugePages::set_aside(page, megabytes / 2) {
        Ok(aside) => aside,
        Err(error) => {
            eprintln!("skipped: {error}");
            if let Some(log) = std::env::var_os("UMEM_SKIP_LOG") {
                let mut file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
                writeln!(file, "umem-memory huge pages: {error}").unwrap();
            }
            return None;
        }
    };
    Some((GuestRam::new(one_block(megabytes << 20), &Backend::HugeMemfd(page)).unwrap(), aside))
}

fn one_block(bytes: u64) -> RamLayout {
    let spec = RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0x8000_0000), bytes };
    RamLayout::new(PageSize::SMALL, vec![spec]).unwrap()
}

#[test]
fn huge_pages_are_told_given_back_and_written_out_of_sight() {
    let Some((ram, _aside)) = huge(8) else { return };
    let huge = PageSize::HUGE_2M.bytes();
    assert_eq!(ram.host_page(), PageSize::HUGE_2M);
    assert_eq!(ram.granule_of(PageIndex(700)), PageRange::new(PageIndex(512), 512));
    assert_eq!(ram.populated(all(&ram)).unwrap(), []);
    ram.write_at(GuestAddress(0x8000_0000 + huge + 5), &[1]).unwrap();
    // Behind the guest's back: not mapped there, and told of all the same.
    let page = PageIndex(3 * 512 + 9);
    ram.put_in_file(PageRange::one(page), &[7; PAGE as usize]).unwrap();
    let found = ram.populated(all(&ram)).unwrap();
    let granule = |number: u64| PageRange::new(PageIndex(number * 512), 512);
    assert_eq!(found, [granule(1), granule(3)]);
    let mut byte = [0];
    ram.read_at(GuestAddress(0x8000_0000 + page.0 * PAGE + 1), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    // A part becomes zero, a whole one holds nothing any more.
    ram.drop_pages(PageRange::new(PageIndex(page.0), 3)).unwrap();
    ram.read_at(GuestAddress(0x8000_0000 + page.0 * PAGE + 1), &mut byte).unwrap();
    assert_eq!(byte, [0]);
    assert_eq!(ram.populated(all(&ram)).unwrap(), found);
    ram.drop_pages(PageRange::new(PageIndex(512), 2 * 512 + 9)).unwrap();
    assert_eq!(ram.populated(all(&ram)).unwrap(), [granule(3)]);
    ram.clear().unwrap();
    assert_eq!(ram.populated(all(&ram)).unwrap(), []);
    // Still set aside for this RAM: nobody else gets them.
    let (free, _) = crate::huge_pages(PageSize::HUGE_2M).unwrap();
    let others =
        GuestRam::new(one_block((free + 1) * huge), &Backend::HugeMemfd(PageSize::HUGE_2M));
    let error = others.unwrap_err().to_string();
    assert!(error.contains("nr_hugepages") && error.contains(&format!("{free} free")), "{error}");
}

#[test]
fn ram_that_is_no_whole_number_of_huge_pages_is_refused_with_one_that_is() {
    let layout = one_block((3 << 20) + 4096);
    let error = GuestRam::new(layout, &Backend::HugeMemfd(PageSize::HUGE_2M)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("3149824 bytes") && error.contains("use 4194304"), "{error}");
}

#[test]
fn a_file_without_a_name_or_with_one_is_ram() {
    let folder = std::env::temp_dir().join(format!("umem-memory-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let named = folder.join("ram");
    std::fs::write(&named, vec![9; 3 << 20]).unwrap();
    for path in [&folder, &named] {
        let backend = Backend::File(path.clone());
        let (kind, page) = backend.kind().unwrap();
        let ram = GuestRam::new(one_block(2 << 20), &backend).unwrap();
        assert_eq!((ram.kind(), ram.host_page()), (kind, page));
        let address = GuestAddress(0x8000_0000 + PAGE);
        let mut bytes = [1; 16];
        ram.read_at(address, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 16], "what it held is lost");
        ram.write_at(address, b"written").unwrap();
        assert!(ram.populated(all(&ram)).unwrap().iter().any(|run| run.count > 0));
        ram.clear().unwrap();
        ram.read_at(address, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 16]);
    }
    assert_eq!(std::fs::metadata(&named).unwrap().len(), 2 << 20);
    std::fs::remove_dir_all(&folder).unwrap();
}
