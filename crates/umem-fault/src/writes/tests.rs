#![allow(unsafe_code)]
use super::*;
use rustix::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use umem_memory::{Backend, DirtyLog, GuestAddress, RamBlockSpec, RamLayout};

const PAGE: u64 = 4096;
const BASE: u64 = 0x8000_0000;
const PAGES: u64 = 64;

fn ram(backend: &Backend) -> GuestRam {
    let spec = |name: &str, address| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: PAGES / 2 * PAGE,
    };
    let specs = vec![spec("low", BASE), spec("high", 1 << 32)];
    GuestRam::new(RamLayout::new(PageSize::SMALL, specs).unwrap(), backend).unwrap()
}

fn place(ram: &GuestRam, page: u64, offset: u64) -> *mut u8 {
    ram.host_address(PageIndex(page)).unwrap().as_ptr().wrapping_add(offset as usize)
}

/// As guest code in this process stores: nothing is told of it.
fn poke(ram: &GuestRam, page: u64, offset: u64, value: u64) {
    let at = place(ram, page, offset).cast::<u64>();
    // SAFETY: aligned and within a page of RAM, which is only touched volatile.
    unsafe { at.write_volatile(value) };
}

/// As the kernel stores for a system call.
fn kernel_poke(ram: &GuestRam, page: u64, offset: u64, file: &impl AsRawFd) {
    let at = place(ram, page, offset);
    // SAFETY: 8 bytes within a page of RAM, which is only touched volatile.
    let read = unsafe { libc::pread(file.as_raw_fd(), at.cast(), 8, offset as i64) };
    assert_eq!(read, 8);
}

fn collected(source: &dyn DirtySource) -> Vec<u64> {
    let into = PageBitmap::new(PAGES);
    assert_eq!(source.collect(&into).unwrap(), into.count());
    (0..PAGES).filter(|&page| into.test(PageIndex(page))).collect()
}

/// Starts it; false, and the reason said, where the kernel cannot do it.
fn started(source: &dyn DirtySource) -> bool {
    let result = source.start();
    if let Err(DirtyError::Unsupported { what, .. }) = &result {
        eprintln!("skipped: no {what} here");
        return false;
    }
    result.unwrap();
    true
}

fn pattern() -> File {
    let file =
        File::from(rustix::fs::memfd_create("pattern", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    let bytes: Vec<u8> = (0..PAGE).map(|at| (at % 251) as u8 + 1).collect();
    std::io::Write::write_all(&mut &file, &bytes).unwrap();
    file
}

#[test]
fn writes_by_threads_and_by_the_kernel_are_found_again_and_again() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend);
        poke(&ram, 3, 0, 1);
        let writes = MappingWrites::of_ram(&ram).unwrap();
        assert!(matches!(writes.collect(&PageBitmap::new(PAGES)), Err(DirtyError::Off(_))));
        if !started(&writes) {
            return;
        }
        assert!(matches!(writes.start(), Err(DirtyError::On(_))));
        assert_eq!(collected(&writes), [0u64; 0], "{backend:?}: before the start");
        for round in 0..3 {
            poke(&ram, 3, 8, round);
            poke(&ram, 40, 8, round);
            kernel_poke(&ram, PAGES - 1, 16, &pattern());
            let mut bytes = [0; 8];
            ram.read_at(GuestAddress(BASE + 7 * PAGE), &mut bytes).unwrap();
            assert_eq!(collected(&writes), [3, 40, PAGES - 1], "{backend:?}");
            assert_eq!(collected(&writes), [0u64; 0], "{backend:?}");
        }
        writes.stop();
        poke(&ram, 5, 0, 1);
        writes.start().unwrap();
        assert_eq!(collected(&writes), [0u64; 0], "{backend:?}: while it was off");
        poke(&ram, 5, 0, 2);
        assert_eq!(collected(&writes), [5]);
    }
}

#[test]
fn huge_pages_are_tracked_in_small_ones_once_written() {
    let spec =
        RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(BASE), bytes: 8 << 20 };
    let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
    let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
    (0..2048).for_each(|page| poke(&ram, page, 0, 1));
    let writes = MappingWrites::of_ram(&ram).unwrap();
    if !started(&writes) {
        return;
    }
    poke(&ram, 700, 0, 2);
    let into = PageBitmap::new(2048);
    writes.collect(&into).unwrap();
    assert!(into.test(PageIndex(700)) && into.count() <= 512, "{}", into.count());
}

#[test]
fn memory_that_another_userfaultfd_has_is_refused_with_the_reason() {
    let ram = ram(&Backend::Anonymous);
    let other = Userfaultfd::open().unwrap();
    let address = ram.host_address(PageIndex(0)).unwrap().as_ptr().addr() as u64;
    other.register(address, PAGE).unwrap();
    let writes = MappingWrites::of_ram(&ram).unwrap();
    if let Err(DirtyError::Unsupported { .. }) = writes.start() {
        return;
    }
    let error = writes.start().unwrap_err().to_string();
    assert!(error.contains("wait until all are there"), "{error}");
    drop(other);
    writes.start().unwrap();
}

#[test]
fn a_kernel_without_it_is_told_with_the_way_out() {
    let ram = ram(&Backend::Anonymous);
    let regions: Vec<ForeignRegion> = ram
        .layout()
        .blocks()
        .iter()
        .map(|block| ForeignRegion {
            host_address: ram.host_address(block.first_page).unwrap().as_ptr().addr() as u64,
            pages: block.range(),
        })
        .collect();
    let uffd = Userfaultfd::open().unwrap();
    let fd = uffd.as_fd().try_clone_to_owned().unwrap();
    let old = Userfaultfd::from_received(fd, Features::MISSING_SHMEM);
    let pagemap = || File::open("/proc/self/pagemap").unwrap();
    let writes = MappingWrites::of_process(old, &regions, PageSize::SMALL, pagemap()).unwrap();
    for _ in 0..2 {
        let error = writes.start().unwrap_err();
        assert!(error.to_string().contains("Linux 6.7"), "{error}");
    }
    // The same regions with what the descriptor can really do.
    let features = uffd.features();
    let received = Userfaultfd::from_received(uffd.as_fd().try_clone_to_owned().unwrap(), features);
    let writes = MappingWrites::of_process(received, &regions, PageSize::SMALL, pagemap()).unwrap();
    for _ in 0..2 {
        if !started(&writes) {
            return;
        }
        poke(&ram, 9, 0, 1);
        assert_eq!(collected(&writes), [9]);
        writes.stop();
    }
}

fn step(state: &mut u64) -> (u64, u64) {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40 & (PAGES - 1), *state >> 50 & 0xff8)
}

/// Threads write, by themselves and through the kernel, against a collector that copies what is
/// reported. In the end the copy is the RAM.
fn mirror_becomes_ram(backend: &Backend, united: bool, late: bool) {
    let ram = ram(backend);
    let writes = Arc::new(MappingWrites::of_ram(&ram).unwrap());
    let mut sources: Vec<Arc<dyn DirtySource>> = vec![writes];
    if united {
        sources.push(Arc::new(ram.host_writes()));
    }
    let log = DirtyLog::new(PAGES, sources);
    let mut mirror = vec![0u8; (PAGES * PAGE) as usize];
    let copy = |mirror: &mut [u8], page: u64| {
        let at = ram.layout().address_of(PageIndex(page)).unwrap();
        ram.read_at(at, &mut mirror[(page * PAGE) as usize..][..PAGE as usize]).unwrap();
    };
    if !late && !started(&log) {
        return;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u64)
            .map(|which| {
                let (ram, file) = (ram.clone(), pattern());
                scope.spawn(move || {
                    let mut state = which;
                    for round in 0..5_000 {
                        let (page, offset) = step(&mut state);
                        match round % 4 {
                            0 => kernel_poke(&ram, page, offset, &file),
                            1 if united => {
                                let at = ram.layout().address_of(PageIndex(page)).unwrap();
                                let at = GuestAddress(at.0 + offset);
                                ram.write_at(at, &state.to_le_bytes()).unwrap();
                            }
                            _ => poke(&ram, page, offset, state),
                        }
                    }
                })
            })
            .collect();
        if late {
            if !started(&log) {
                return;
            }
            (0..PAGES).for_each(|page| copy(&mut mirror, page));
        }
        loop {
            let last = threads.iter().all(|thread| thread.is_finished());
            for page in collected(&log) {
                copy(&mut mirror, page);
            }
            if last {
                break;
            }
        }
        let mut now = vec![0; mirror.len()];
        (0..PAGES).for_each(|page| copy(&mut now, page));
        assert!(mirror == now, "{backend:?}: a write was not reported");
    });
}

#[test]
fn a_mirror_of_what_is_reported_becomes_the_ram() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        for united in [false, true] {
            for late in [false, true] {
                mirror_becomes_ram(backend, united, late);
            }
        }
    }
}
