use super::*;
use crate::{
    Backend, GuestAddress, GuestRam, PageIndex, PageRange, PageSize, RamBlockSpec, RamLayout,
};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Bytes, GuestMemory as _, Permissions};

const PAGE: u64 = 4096;
const LOW: u64 = 0x8000_0000;
const HIGH: u64 = 1 << 32;

/// Two blocks of 16 pages.
fn ram() -> GuestRam {
    let spec = |name: &str, address| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: 16 * PAGE,
    };
    let specs = vec![spec("low", LOW), spec("high", HIGH)];
    GuestRam::new(RamLayout::new(PageSize::SMALL, specs).unwrap(), &Backend::Anonymous).unwrap()
}

fn bitmap() -> PageBitmap {
    PageBitmap::new(32)
}

fn set_bits(bitmap: &PageBitmap) -> Vec<u64> {
    (0..bitmap.pages()).filter(|&page| bitmap.test(PageIndex(page))).collect()
}

/// What a source has, as a list.
fn collected(source: &dyn DirtySource) -> Vec<u64> {
    let into = bitmap();
    let count = source.collect(&into).unwrap();
    assert_eq!(count, into.count());
    set_bits(&into)
}

#[test]
fn every_way_to_write_marks_the_pages_it_wrote() {
    let ram = ram();
    let writes = ram.host_writes();
    ram.write_at(GuestAddress(LOW), &[1]).unwrap();
    writes.start().unwrap();
    assert_eq!(collected(&writes), [0u64; 0], "before the start");
    ram.write_at(GuestAddress(LOW + 3 * PAGE - 1), &[1, 2]).unwrap();
    assert_eq!(collected(&writes), [2, 3]);
    let memory = ram.memory();
    memory.write_obj(7u64, GuestAddress(HIGH + 15 * PAGE)).unwrap();
    memory.store(7u32, GuestAddress(HIGH + 5 * PAGE), Ordering::Release).unwrap();
    assert_eq!(collected(&writes), [21, 31]);
    for slice in
        memory.get_slices(GuestAddress(HIGH + 100), 2 * PAGE as usize, Permissions::Write).unwrap()
    {
        slice.unwrap().copy_from(&[9u8; 2 * PAGE as usize]);
    }
    assert_eq!(collected(&writes), [16, 17, 18]);
    ram.mark_written(PageRange::new(PageIndex(8), 2));
    assert_eq!(collected(&writes), [8, 9]);
    ram.clear().unwrap();
    assert_eq!(collected(&writes).len(), 32);
    let mut bytes = [0; 4];
    ram.read_at(GuestAddress(LOW), &mut bytes).unwrap();
    assert_eq!(collected(&writes), [0u64; 0], "reading is no writing");
}

#[test]
fn what_is_off_says_so_and_what_is_started_again_begins_anew() {
    let ram = ram();
    let writes = ram.host_writes();
    assert!(matches!(writes.collect(&bitmap()), Err(DirtyError::Off(_))));
    writes.stop();
    writes.start().unwrap();
    assert!(matches!(writes.start(), Err(DirtyError::On(_))));
    assert!(matches!(writes.collect(&PageBitmap::new(31)), Err(DirtyError::Pages { .. })));
    ram.write_at(GuestAddress(LOW), &[1]).unwrap();
    writes.stop();
    ram.write_at(GuestAddress(LOW + PAGE), &[1]).unwrap();
    writes.start().unwrap();
    assert_eq!(collected(&writes), [0u64; 0]);
}

/// A source that fails where it is told to.
#[derive(Default)]
struct Fails {
    start: bool,
    collect: AtomicBool,
    on: AtomicBool,
}

impl DirtySource for Fails {
    fn start(&self) -> Result<(), DirtyError> {
        self.on.store(!self.start, Ordering::Relaxed);
        if self.start { Err(DirtyError::On("it")) } else { Ok(()) }
    }
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        if self.collect.swap(false, Ordering::Relaxed) {
            return Err(DirtyError::Vcpu { vcpu: 3, milliseconds: 5 });
        }
        Ok(into.set(PageRange::one(PageIndex(1))))
    }
    fn stop(&self) {
        self.on.store(false, Ordering::Relaxed);
    }
}

#[test]
fn united_sources_start_all_or_none() {
    let (fine, fails) = (Arc::new(Fails::default()), Fails { start: true, ..Fails::default() });
    let log = DirtyLog::new(32, vec![fine.clone(), Arc::new(fails)]);
    assert!(log.start().is_err());
    assert!(!fine.on.load(Ordering::Relaxed));
}

#[test]
fn a_collect_that_fails_half_way_loses_no_page() {
    let (ram, fails) = (ram(), Arc::new(Fails::default()));
    let log = DirtyLog::new(32, vec![Arc::new(ram.host_writes()), fails.clone()]);
    log.start().unwrap();
    ram.write_at(GuestAddress(LOW + PAGE), &[0; 2 * PAGE as usize]).unwrap();
    fails.collect.store(true, Ordering::Relaxed);
    let into = bitmap();
    assert!(log.collect(&into).unwrap_err().to_string().starts_with("vCPU 3 "));
    assert_eq!(log.collect(&into).unwrap(), 0, "page 1 is there from both");
    assert_eq!(set_bits(&into), [1, 2]);
    assert!(matches!(log.collect(&PageBitmap::new(1)), Err(DirtyError::Pages { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    /// Two threads write while a third copies what is reported; in the end it has all.
    #[test]
    fn a_mirror_of_what_is_reported_becomes_the_ram(
        seed in any::<u32>(),
        starts_late in any::<bool>(),
    ) {
        let ram = ram();
        let writes = ram.host_writes();
        let mut mirror = vec![0u8; 32 * PAGE as usize];
        let copy = |mirror: &mut [u8], page: PageIndex| {
            let bytes = mirror.chunks_mut(PAGE as usize).nth(page.0 as usize).unwrap();
            ram.read_at(ram.layout().address_of(page).unwrap(), bytes).unwrap();
        };
        if !starts_late {
            writes.start().unwrap();
        }
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u32)
                .map(|which| {
                    let ram = ram.clone();
                    scope.spawn(move || {
                        let mut state = seed ^ (which << 30) | 1;
                        for round in 0..20_000u32 {
                            state ^= state << 13;
                            state ^= state >> 17;
                            state ^= state << 5;
                            let page = PageIndex(u64::from(state % 32));
                            let at = ram.layout().address_of(page).unwrap();
                            let at = GuestAddress(at.0 + u64::from(state >> 8 & 0xff8));
                            ram.memory().write_obj(round, at).unwrap();
                        }
                    })
                })
                .collect();
            if starts_late {
                writes.start().unwrap();
                (0..32).for_each(|page| copy(&mut mirror, PageIndex(page)));
            }
            loop {
                let last = writers.iter().all(|writer| writer.is_finished());
                let dirty = bitmap();
                writes.collect(&dirty).unwrap();
                for page in set_bits(&dirty) {
                    copy(&mut mirror, PageIndex(page));
                }
                if last {
                    break;
                }
            }
        });
        for page in 0..32 {
            let mut now = vec![0; PAGE as usize];
            ram.read_at(ram.layout().address_of(PageIndex(page)).unwrap(), &mut now).unwrap();
            let at = page as usize * PAGE as usize;
            prop_assert!(mirror[at..at + PAGE as usize] == now[..], "page {} differs", page);
        }
    }
}
