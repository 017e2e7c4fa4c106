use super::*;
use crate::{PageSize, RamBlockSpec};

const PAGE: u64 = 4096;

fn ram(backend: Backend, megabytes: u64) -> GuestRam {
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
    for backend in [Backend::Anonymous, Backend::Memfd] {
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
    for backend in [Backend::Anonymous, Backend::Memfd] {
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
    for backend in [Backend::Anonymous, Backend::Memfd] {
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
    let ram = ram(Backend::Anonymous, 1);
    let mut bytes = [0; 2];
    assert!(ram.read_at(GuestAddress(0x8000_0000 + 64 * PAGE - 1), &mut bytes).is_err());
    assert!(ram.write_at(GuestAddress(u64::MAX), &[1, 2]).is_err());
    assert!(ram.populated(PageRange::new(PageIndex(1), u64::MAX)).is_err());
    assert!(ram.populated(PageRange::new(PageIndex(300), 100)).is_err());
    assert_eq!(ram.host_address(PageIndex(ram.layout().total_pages())), None);
}
