//! Memory that the guest has given back: by its balloon, or as free pages that it reports.

use crate::memory::GuestPages;
use devices::{GivenBack, GuestRange};
use std::sync::atomic::{AtomicU64, Ordering};
use umem_memory::{GuestAddress, MemoryKind, PageIndex, PageRange};

/// Gives it on to the host, or to who would send it.
///
/// While all memory is here, its host memory is freed, and it reads as zeroes: whatever moves the guest then
/// finds nothing to send. While pages of a postcopy are missing, the source is told which of them it can
/// spare; what is here already keeps its memory, as the kernel could not be told apart afterwards what is
/// missing and what was given back.
pub(crate) struct Returned {
    pages: GuestPages,
    bytes: AtomicU64,
}

impl Returned {
    pub(crate) fn new(pages: GuestPages) -> Self {
        Self { pages, bytes: AtomicU64::new(0) }
    }

    /// Bytes given back so far, some perhaps more than once.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The whole host pages within a range.
    fn whole(&self, range: GuestRange) -> Option<PageRange> {
        let ram = self.pages.ram();
        let page = ram.layout().page_size().bytes();
        let from = range.address.0.checked_next_multiple_of(page)?;
        let to = range.address.0.checked_add(range.bytes)? / page * page;
        let first = ram.layout().page_of(GuestAddress(from))?;
        let end = PageIndex(first.0 + to.checked_sub(from)? / page);
        // Whole ones alone can be given back.
        let before = ram.granule_of(first);
        let start = if before.start == first { first.0 } else { before.checked_end()? };
        let count = ram.granule_of(end).start.0.checked_sub(start).filter(|&count| count > 0)?;
        Some(PageRange::new(PageIndex(start), count))
    }
}

impl GivenBack for Returned {
    fn give_back(&self, range: GuestRange) {
        let Some(pages) = self.whole(range) else { return };
        let page_bytes = self.pages.ram().layout().page_size().bytes();
        if let Some(plane) = self.pages.plane() {
            plane.give_up(pages);
            return;
        }
        if self.pages.ram().kind() == MemoryKind::Huge {
            // They were set aside for this VM: nobody else may have them, now or when the guest needs them
            // again.
            return;
        }
        match self.pages.ram().drop_runs(std::iter::once(pages)) {
            Ok(()) => _ = self.bytes.fetch_add(pages.count * page_bytes, Ordering::Relaxed),
            // As often as the guest likes.
            Err(error) => log::debug!("memory that the guest gave back stays in use: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_memory::{Backend, GuestRam, PageSize, RamBlockSpec, RamLayout};

    #[test]
    fn what_is_given_back_is_freed_and_reads_as_zeroes() {
        let spec = RamBlockSpec {
            name: "ram".into(),
            guest_address: GuestAddress(0x8000_0000),
            bytes: 1 << 20,
        };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        let ram = GuestRam::new(layout, &Backend::Memfd).unwrap();
        ram.write_at(GuestAddress(0x8000_0000), &[7; 5 * 4096]).unwrap();
        let returned = Returned::new(GuestPages::new(ram.clone()));
        let give = |offset: u64, bytes| {
            let address = GuestAddress(0x8000_0000 + offset);
            returned.give_back(GuestRange { address, bytes });
        };
        give(4096, 2 * 4096);
        assert_eq!(returned.bytes(), 2 * 4096);
        let used = ram.populated(PageRange::new(PageIndex(0), 256)).unwrap();
        assert_eq!(used, [PageRange::new(PageIndex(0), 1), PageRange::new(PageIndex(3), 2)]);
        // Parts of pages, and the end of memory.
        give(3 * 4096 + 1, 4095);
        give((1 << 20) - 4096, 4096);
        assert_eq!(returned.bytes(), 3 * 4096);
        let mut byte = [0];
        ram.read_at(GuestAddress(0x8000_3001), &mut byte).unwrap();
        assert_eq!(byte, [7]);
    }
}
