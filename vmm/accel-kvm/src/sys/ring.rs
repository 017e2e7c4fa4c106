//! The dirty ring of one vCPU (Linux documentation, "KVM API", KVM_CAP_DIRTY_LOG_RING).
//!
//! ```text
//!   the kernel pushes     this process harvests        KVM_RESET_DIRTY_RINGS
//!   invalid (0) ──────▶ dirty (1) ──────────────▶ to be reset (2) ──────▶ invalid (0)
//! ```
//! Flags are read with acquire order, so that the entry behind them is whole, and written with release.

use super::mapping::{Mapping, PAGE_BYTES};
use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

const DIRTY: u32 = 1;
const TO_BE_RESET: u32 = 2;
const ENTRY_BYTES: usize = size_of::<kvm_dirty_gfn>();

const _: () = assert!(ENTRY_BYTES == 16 && offset_of!(kvm_dirty_gfn, flags) == 0);

/// A ring, and where this process has come to in it.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Mapping,
    entries: usize,
    next: usize,
}

impl Ring {
    /// Maps that of a vCPU. `entries` is what the VM's rings were made with.
    pub(crate) fn new(vcpu: &impl AsRawFd, entries: u32) -> io::Result<Self> {
        let entries = entries as usize;
        let offset = KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE_BYTES;
        let memory = Mapping::new(vcpu, offset, entries * ENTRY_BYTES)?;
        Ok(Self { memory, entries, next: 0 })
    }

    fn flags(&self) -> &AtomicU32 {
        self.flags_at(self.next)
    }

    fn flags_at(&self, entry: usize) -> &AtomicU32 {
        let place = self.memory.at::<AtomicU32>(entry * ENTRY_BYTES);
        // SAFETY: it lies in the mapping, which lives as long as `self`; the kernel changes it by whole
        // words, and this process by atomic operations only.
        unsafe { place.as_ref() }
    }

    /// Where the ring ran over, the kernel goes on beyond places that it has emptied: marks those as taken, so
    /// that it counts them again, and goes behind them. How many there were.
    pub(crate) fn skip_gap(&mut self) -> u32 {
        let is_dirty = |entry: usize| {
            self.flags_at(entry).load(Ordering::Acquire) & (DIRTY | TO_BE_RESET) == DIRTY
        };
        let at = |distance: usize| (self.next + distance) % self.entries;
        // The kernel adds one after the other: behind a place that is empty now, none was added before.
        let gap = (1..self.entries).find(|&distance| is_dirty(at(distance)));
        let Some(gap) = gap.filter(|_| !is_dirty(self.next)) else { return 0 };
        for distance in 0..gap {
            self.flags_at(at(distance)).store(TO_BE_RESET, Ordering::Release);
        }
        self.next = at(gap);
        gap as u32
    }

    /// Takes the next entry that is there: the slot, and the page in it.
    pub(crate) fn take(&mut self) -> Option<(u32, u64)> {
        if self.flags().load(Ordering::Acquire) & (DIRTY | TO_BE_RESET) != DIRTY {
            return None;
        }
        let at = self.next * ENTRY_BYTES;
        let slot = self.memory.at::<u32>(at + offset_of!(kvm_dirty_gfn, slot));
        // SAFETY: it lies in the mapping; the kernel has written it before the flag that was seen.
        let slot = unsafe { slot.read_volatile() };
        let page = self.memory.at::<u64>(at + offset_of!(kvm_dirty_gfn, offset));
        // SAFETY: as above.
        let page = unsafe { page.read_volatile() };
        self.flags().store(TO_BE_RESET, Ordering::Release);
        self.next = (self.next + 1) % self.entries;
        Some((slot, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    const ENTRIES: usize = 256;

    /// A file in the place of a vCPU, and the kernel's side of its ring.
    struct Kernel {
        file: File,
        /// Where it adds the next entry.
        head: u64,
    }

    impl Kernel {
        fn new() -> (Self, Ring) {
            let file = tempfile::tempfile().unwrap();
            let offset = (KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE_BYTES) as u64;
            file.set_len(offset + (ENTRIES * ENTRY_BYTES) as u64).unwrap();
            let ring = Ring::new(&file, ENTRIES as u32).unwrap();
            (Self { file, head: 0 }, ring)
        }

        fn place(entry: u64) -> u64 {
            let offset = (KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE_BYTES) as u64;
            offset + entry % ENTRIES as u64 * ENTRY_BYTES as u64
        }

        fn add(&mut self, page: u64) {
            let entry =
                [&DIRTY.to_le_bytes()[..], &0u32.to_le_bytes(), &page.to_le_bytes()].concat();
            self.file.write_all_at(&entry, Self::place(self.head)).unwrap();
            self.head += 1;
        }

        /// Takes entries back from `from` on while they are given back; how many.
        fn reset(&self, from: u64) -> u64 {
            (from..from + ENTRIES as u64)
                .take_while(|&entry| {
                    let mut flags = [0; 4];
                    self.file.read_exact_at(&mut flags, Self::place(entry)).unwrap();
                    let given = u32::from_le_bytes(flags) == TO_BE_RESET;
                    if given {
                        self.file.write_all_at(&[0; 4], Self::place(entry)).unwrap();
                    }
                    given
                })
                .count() as u64
        }
    }

    fn taken(ring: &mut Ring) -> Vec<u64> {
        std::iter::from_fn(|| ring.take()).map(|(_, page)| page).collect()
    }

    #[test]
    fn entries_come_in_their_order_round_and_round() {
        let (mut kernel, mut ring) = Kernel::new();
        for round in 0..5 {
            let pages: Vec<u64> = (0..100).map(|page| round * 1000 + page).collect();
            pages.iter().for_each(|&page| kernel.add(page));
            assert_eq!(ring.skip_gap(), 0);
            assert_eq!(taken(&mut ring), pages);
            assert_eq!(ring.skip_gap(), 0, "nothing new");
            assert_eq!(kernel.reset(round * 100), 100);
        }
    }

    #[test]
    fn a_ring_that_ran_over_is_noticed_and_found_again() {
        let (mut kernel, mut ring) = Kernel::new();
        let all = ENTRIES as u64;
        (0..all + 7).for_each(|page| kernel.add(page));
        assert_eq!(ring.skip_gap(), 0);
        assert_eq!(std::iter::from_fn(|| ring.take()).count(), ENTRIES, "full to the last entry");
        assert_eq!(kernel.reset(0), all);
        // The kernel counts 7 that are gone, and adds behind them.
        (500..503).for_each(|page| kernel.add(page));
        assert_eq!(ring.take(), None, "where it would be looked for");
        assert_eq!(ring.skip_gap(), 7);
        assert_eq!(taken(&mut ring), [500, 501, 502]);
        assert_eq!(kernel.reset(all), 7 + 3, "both count the same again");
        kernel.add(504);
        assert_eq!(ring.skip_gap(), 0);
        assert_eq!(taken(&mut ring), [504]);
    }
}
