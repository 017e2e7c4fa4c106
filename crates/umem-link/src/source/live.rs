//! RAM of a guest that runs: which of its pages the destination does not have as they are now.

use crate::host::{LiveRam, SourceVm};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use umem_memory::{DirtySource, GuestRam, PageBitmap, PageIndex, PageRange};
use umem_wire::{DISCARD_PIECE_BYTES, ToDestination};

/// Bytes without a bit that end a message of discarded pages: to send them takes about as long as
/// another message does.
const GAP_BYTES: usize = 4096;

/// Pages in the order of how often the guest writes them, as far as the rounds have shown.
struct Heat {
    /// Written during the newest round.
    newest: PageBitmap,
    /// Written during that one and one before it.
    often: PageBitmap,
}

/// The state of precopy, shared by the threads that send rounds.
pub(super) struct Live {
    ram: GuestRam,
    dirty: Arc<dyn DirtySource>,
    /// Pages whose content the destination does not have.
    pending: PageBitmap,
    /// Pages of which the destination has a copy that was not discarded.
    sent: PageBitmap,
    heat: Mutex<Heat>,
    /// Where this round goes on.
    cursor: AtomicU64,
    cut: AtomicBool,
}

impl Live {
    /// Begins to note what the guest writes. All its pages are pending.
    pub(super) fn start(vm: &dyn SourceVm) -> Result<Arc<Self>, String> {
        let LiveRam { ram, dirty } = vm.live_ram()?;
        dirty.start().map_err(|error| error.to_string())?;
        let pages = ram.layout().total_pages();
        let bitmap = || PageBitmap::new(pages);
        let live = Self {
            ram,
            dirty,
            pending: bitmap(),
            sent: bitmap(),
            heat: Mutex::new(Heat { newest: bitmap(), often: bitmap() }),
            cursor: AtomicU64::new(0),
            cut: AtomicBool::new(false),
        };
        live.pending.set(PageRange::new(PageIndex(0), pages));
        Ok(Arc::new(live))
    }

    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Pages whose content the destination does not have.
    pub(super) fn pending(&self) -> &PageBitmap {
        &self.pending
    }

    /// Pages of which the destination has a copy that was not discarded.
    pub(super) fn sent(&self) -> u64 {
        self.sent.count()
    }

    /// A round begins: all that is pending is to go.
    pub(super) fn begin_round(&self) {
        self.cut.store(false, Ordering::Release);
        self.cursor.store(0, Ordering::Release);
    }

    /// The round at hand ends early.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// The next pages of the round: at most `most`, adjoining, of one block. They are pending no more,
    /// and must be read after this call.
    pub(super) fn next(&self, most: u64) -> Option<PageRange> {
        loop {
            if self.cut.load(Ordering::Acquire) {
                return None;
            }
            let from = self.cursor.load(Ordering::Acquire);
            let start = self.pending.next_set(PageIndex(from))?;
            let block = self.ram.layout().block_of(start)?;
            let end = (start.0 + most.max(1)).min(block.first_page.0 + block.pages);
            let claimed = (start.0..end).take_while(|page| self.claim(PageIndex(*page))).count();
            let behind = start.0 + (claimed as u64).max(1);
            let _ = self.cursor.compare_exchange(from, behind, Ordering::AcqRel, Ordering::Acquire);
            if claimed > 0 {
                return Some(PageRange::new(start, claimed as u64));
            }
        }
    }

    /// Takes a page out of what is pending, to send it; whether it was.
    pub(super) fn claim(&self, page: PageIndex) -> bool {
        self.pending.clear(PageRange::one(page)) == 1
    }

    /// A page that was claimed is not sent after all.
    pub(super) fn give_back(&self, page: PageIndex) {
        self.pending.set(PageRange::one(page));
    }

    /// A page is being sent; whether the destination has no copy of it so far.
    pub(super) fn is_first(&self, page: PageIndex) -> bool {
        self.sent.set(PageRange::one(page)) == 1
    }

    /// Adds what the guest wrote since this was asked last; how many pages are pending now.
    pub(super) fn collect(&self) -> Result<u64, String> {
        let written = PageBitmap::new(self.pending.pages());
        let collected = self.dirty.collect(&written);
        let mut heat = self.heat.lock().unwrap_or_else(PoisonError::into_inner);
        for range in written.runs() {
            self.pending.set(range);
            for page in range.pages().filter(|page| heat.newest.test(*page)) {
                heat.often.set(PageRange::one(page));
            }
        }
        heat.newest = written;
        // What was taken from the log is pending in any case.
        collected.map_err(|error| error.to_string())?;
        Ok(self.pending.count())
    }

    /// Pending pages that the guest writes often, or at least wrote last.
    pub(super) fn hot(&self) -> PageBitmap {
        let heat = self.heat.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if heat.often.count() > 0 { &heat.often } else { &heat.newest };
        let hot = PageBitmap::new(self.pending.pages());
        for range in from.runs() {
            for page in range.pages().filter(|page| self.pending.test(*page)) {
                hot.set(PageRange::one(page));
            }
        }
        hot
    }

    /// What was sent and is pending again: the messages that say so to the destination, and the pages.
    pub(super) fn discard(&self) -> (Vec<ToDestination>, Vec<PageIndex>) {
        let void: Vec<PageIndex> = self
            .pending
            .runs()
            .flat_map(PageRange::pages)
            .filter(|page| self.sent.clear(PageRange::one(*page)) == 1)
            .collect();
        (messages(&void), void)
    }

    /// Ends it: nothing is noted any more.
    pub(super) fn stop(&self) {
        self.dirty.stop();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Pages in ascending order as messages of bitmaps.
fn messages(pages: &[PageIndex]) -> Vec<ToDestination> {
    let mut messages: Vec<(u64, Vec<u8>)> = Vec::new();
    for page in pages {
        let place = |start: u64| usize::try_from((page.0 - start) / 8).unwrap_or(usize::MAX);
        let fits = |(start, bits): &(u64, Vec<u8>)| {
            let at = place(*start);
            at < DISCARD_PIECE_BYTES && at < bits.len() + GAP_BYTES
        };
        if !messages.last().is_some_and(fits) {
            messages.push((page.0, Vec::new()));
        }
        let Some((start, bits)) = messages.last_mut() else { continue };
        let at = place(*start);
        if bits.len() <= at {
            bits.resize(at + 1, 0);
        }
        if let Some(byte) = bits.get_mut(at) {
            *byte |= 1 << ((page.0 - *start) % 8);
        }
    }
    messages.into_iter().map(|(start, bits)| ToDestination::Discard { start, bits }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn all_pages_and_no_others_are_in_the_messages(
            near in prop::collection::btree_set(0u64..5_000, 0..200),
            far in prop::collection::btree_set(any::<u32>(), 0..20),
        ) {
            let pages: BTreeSet<u64> = near.into_iter().chain(far.into_iter().map(u64::from)).collect();
            let list: Vec<PageIndex> = pages.iter().copied().map(PageIndex).collect();
            let mut told = BTreeSet::new();
            for message in messages(&list) {
                let ToDestination::Discard { start, bits } = message else { panic!() };
                prop_assert!(!bits.is_empty() && bits.len() <= DISCARD_PIECE_BYTES);
                for (at, byte) in (0u64..).zip(bits) {
                    for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                        prop_assert!(told.insert(start + at * 8 + bit));
                    }
                }
            }
            prop_assert_eq!(told, pages);
        }
    }

    #[test]
    fn a_long_run_is_split_where_a_message_ends() {
        let pages: Vec<PageIndex> =
            (0..DISCARD_PIECE_BYTES as u64 * 8 + 1).map(PageIndex).collect();
        let messages = messages(&pages);
        assert_eq!(messages.len(), 2);
    }
}
