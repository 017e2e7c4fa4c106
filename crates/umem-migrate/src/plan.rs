//! Which page the source sends next. Shared by all sending threads, without a lock.

use crate::streams::{Ahead, Streams};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use umem_memory::{PageBitmap, PageIndex, PageRange, RamLayout};
use umem_wire::Cause;

/// Pages sent along with a demanded one, and what the background does about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefault {
    /// What runs through memory brings the next pages of its run with it, and has the background go on
    /// there; what follows nothing brings nothing. Beside the counts.
    pub adaptive: bool,
    /// Pages behind each demanded page.
    pub forward: u64,
    /// Pages before each demanded page.
    pub backward: u64,
    /// The background goes on behind the last page served (`-m`).
    pub move_background: bool,
}

impl Prefault {
    /// What suits a guest of which nothing is known.
    pub const ADAPTIVE: Self =
        Self { adaptive: true, forward: 0, backward: 0, move_background: false };
}

/// A page to send, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The page.
    pub page: PageIndex,
    /// Demand or prefault.
    pub cause: Cause,
    /// Whether it was never sent before: it counts for the digest.
    pub first: bool,
}

/// Most pages of a request that are taken for faults of their own.
const MOST_FAULTS: usize = 64;

/// Chunks of the background behind a run, each time that it is followed.
const RUN_CHUNKS: u64 = 8;

/// A request for a page that the guest does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the destination asks for page {page:#x} of {total}")]
pub struct BadRequest {
    /// The page.
    pub page: u64,
    /// Pages that there are.
    pub total: u64,
}

/// What was sent, and what goes next.
///
/// A demanded page always goes, sent before or not: an earlier copy may sit behind much else in a
/// socket. Prefault and background skip what was sent, and what [`SendPlan::leave`] has taken out. The
/// background sends preferred pages first, then some of where a run through memory goes on, then it goes on
/// at its cursor.
#[derive(Debug)]
pub struct SendPlan {
    layout: RamLayout,
    prefault: Prefault,
    sent: PageBitmap,
    /// Pages that the destination does not want any more, and that were not sent before it said so.
    removed: PageBitmap,
    sent_pages: AtomicU64,
    /// Where the background goes on.
    cursor: AtomicU64,
    preferred: OnceLock<Preferred>,
    streams: Mutex<Streams>,
    /// Where the run goes on that was followed last.
    run: RunAhead,
}

/// Where the background goes on behind a run through memory, for a while. Whoever changes it while another
/// does changes no more than the order in which pages go.
#[derive(Debug, Default)]
struct RunAhead {
    /// The page.
    next: AtomicU64,
    /// Whether it goes down.
    down: AtomicBool,
    /// Chunks to go.
    chunks: AtomicU64,
}

/// Pages that the background sends first.
#[derive(Debug)]
struct Preferred {
    /// Those not looked at yet.
    pages: PageBitmap,
    /// No such page lies before it.
    cursor: AtomicU64,
}

impl SendPlan {
    /// A plan under which nothing was sent.
    #[must_use]
    pub fn new(layout: RamLayout, prefault: Prefault) -> Self {
        let [sent, removed] = [0; 2].map(|_| PageBitmap::new(layout.total_pages()));
        let (sent_pages, cursor) = (AtomicU64::new(0), AtomicU64::new(0));
        let (preferred, streams, run) = (OnceLock::new(), Mutex::default(), RunAhead::default());
        Self { layout, prefault, sent, removed, sent_pages, cursor, preferred, streams, run }
    }

    /// Marks the pages that the destination has: those whose bit is clear in `pending`. To be called
    /// once, before anything is sent by the plan; then [`Self::remaining`] is the number of pending
    /// pages. A page that `pending` does not know stays to be sent.
    pub fn leave(&self, pending: &PageBitmap) {
        let mut from = PageIndex(0);
        while let Some(start) = pending.next_clear(from) {
            let end = pending.next_set(start).unwrap_or(PageIndex(pending.pages()));
            let left = self.sent.set(PageRange::new(start, end.0 - start.0));
            self.sent_pages.fetch_add(left, Ordering::AcqRel);
            from = end;
        }
    }

    /// Names pages that the guest uses often: the background sends them first, in their order. To be
    /// called at most once; later calls change nothing.
    pub fn prefer(&self, hot: PageBitmap) {
        // The bitmap of a later call is dropped: the first one may be half done.
        let _ = self.preferred.set(Preferred { pages: hot, cursor: AtomicU64::new(0) });
    }

    /// All pages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.layout.total_pages()
    }

    /// Pages neither sent nor left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.layout.total_pages() - self.sent_pages.load(Ordering::Acquire)
    }

    /// Whether no page is left that was never sent. Exact at every moment, as [`Self::remaining`] is
    /// not while a thread is in the middle of [`Self::claim`].
    #[must_use]
    pub fn all_claimed(&self) -> bool {
        self.sent.next_clear(PageIndex(0)).is_none()
    }

    /// Marks a page sent; whether it was not.
    pub fn claim(&self, page: PageIndex) -> bool {
        let first = self.sent.set(PageRange::one(page)) == 1;
        if first {
            self.sent_pages.fetch_add(1, Ordering::AcqRel);
        }
        first
    }

    /// The destination does not want these runs, by their first page and number, in order. What was not
    /// sent is sent as zeroes, whenever it is sent from now on, and counts as sent: the runs of it, none
    /// over the end of a block. What was sent stays what it was.
    ///
    /// Not beside [`Self::demand`]: a page is either removed or sent as it is.
    ///
    /// # Errors
    /// When a run does not exist, or is not behind the one before it; those before it are removed.
    pub fn remove(&self, runs: &[(u64, u64)]) -> Result<Vec<PageRange>, BadRequest> {
        let total = self.layout.total_pages();
        let mut removed: Vec<PageRange> = Vec::new();
        let mut behind = 0;
        for &(start, count) in runs {
            let end = start.checked_add(count).filter(|&end| start >= behind && end <= total);
            let end = end.ok_or(BadRequest { page: start, total })?;
            behind = end;
            for page in (start..end).map(PageIndex).filter(|page| self.claim(*page)) {
                self.removed.set(PageRange::one(page));
                match removed.last_mut() {
                    Some(last)
                        if last.checked_end() == Some(page.0)
                            && self.layout.index_of(last.start) == self.layout.index_of(page) =>
                    {
                        last.count += 1;
                    }
                    _ => removed.push(PageRange::one(page)),
                }
            }
        }
        Ok(removed)
    }

    /// Whether a page goes as zeroes because the destination does not want it.
    #[must_use]
    pub fn is_removed(&self, page: PageIndex) -> bool {
        self.removed.test(page)
    }

    /// What to send for a request: its pages in their order, then what lies one behind each of them,
    /// two behind, and so on; then what lies before them in the same way; then where runs go on. Never
    /// beyond the end of a page's RAM block. All of it counts as sent.
    ///
    /// # Errors
    /// When a page does not exist; nothing counts as sent then.
    pub fn demand(&self, requested: &[u64]) -> Result<Vec<Wanted>, BadRequest> {
        let total = self.layout.total_pages();
        if let Some(&page) = requested.iter().find(|page| **page >= total) {
            return Err(BadRequest { page, total });
        }
        let wanted = |page, cause| Wanted { page, cause, first: self.claim(page) };
        let pages = requested.iter().map(|page| PageIndex(*page));
        let mut order: Vec<_> = pages.map(|page| wanted(page, Cause::Demand)).collect();
        for neighbour in self.neighbours(requested).chain(self.runs(&order)) {
            let neighbour = wanted(neighbour, Cause::Prefault);
            if neighbour.first {
                order.push(neighbour);
            }
        }
        if self.prefault.move_background
            && let Some(last) = requested.last()
        {
            let behind = last.saturating_add(self.prefault.forward).saturating_add(1);
            let end = self.end_of_block(*last);
            self.cursor.store(behind.min(end) % total, Ordering::Release);
        }
        Ok(order)
    }

    /// What goes out before anybody asks: those of these pages that were not sent. They count as sent. Pages
    /// that do not exist are left out.
    pub fn ahead(&self, pages: &[PageIndex]) -> Vec<Wanted> {
        let exist = pages.iter().copied().filter(|page| page.0 < self.total());
        exist
            .filter(|page| self.claim(*page))
            .map(|page| Wanted { page, cause: Cause::Prefault, first: true })
            .collect()
    }

    /// The page number behind the block of a page.
    fn end_of_block(&self, page: u64) -> u64 {
        let block = self.layout.block_of(PageIndex(page));
        block.map_or(self.layout.total_pages(), |block| block.first_page.0 + block.pages)
    }

    /// The page number behind at most `most` pages of one block.
    fn end_of_chunk(&self, start: PageIndex, most: u64) -> u64 {
        start.0.saturating_add(most.max(1)).min(self.end_of_block(start.0))
    }

    /// The next preferred pages: adjoining, of one block, never sent before.
    fn next_preferred(&self, most: u64) -> Option<PageRange> {
        let Preferred { pages, cursor } = self.preferred.get()?;
        loop {
            let from = PageIndex(cursor.load(Ordering::Acquire));
            let Some(start) = pages.next_set(from).filter(|page| page.0 < self.total()) else {
                cursor.store(u64::MAX, Ordering::Release);
                return None;
            };
            cursor.fetch_max(start.0, Ordering::AcqRel);
            let end = self.end_of_chunk(start, most);
            let take = |page: &u64| {
                let page = PageIndex(*page);
                pages.clear(PageRange::one(page)) == 1 && self.claim(page)
            };
            let claimed = (start.0..end).take_while(take).count() as u64;
            if claimed > 0 {
                return Some(PageRange::new(start, claimed));
            }
        }
    }

    fn neighbours<'a>(&'a self, requested: &'a [u64]) -> impl Iterator<Item = PageIndex> + 'a {
        let Prefault { forward, backward, .. } = self.prefault;
        let longest = self.layout.total_pages();
        let within = |page: u64, neighbour: Option<u64>| {
            let block = self.layout.index_of(PageIndex(page));
            let neighbour = PageIndex(neighbour?);
            (self.layout.index_of(neighbour) == block).then_some(neighbour)
        };
        let behind = (1..=forward.min(longest)).flat_map(move |distance| {
            requested.iter().filter_map(move |page| within(*page, page.checked_add(distance)))
        });
        let before = (1..=backward.min(longest)).flat_map(move |distance| {
            requested.iter().filter_map(move |page| within(*page, page.checked_sub(distance)))
        });
        behind.chain(before)
    }

    /// Where the runs go on to which demanded pages belong; the background is told of the last. Those that
    /// were sent before are on their way, and those of a huge page are no run of the guest's.
    fn runs(&self, demanded: &[Wanted]) -> Vec<PageIndex> {
        if !self.prefault.adaptive || demanded.len() > MOST_FAULTS {
            return Vec::new();
        }
        let sent = |page| page < self.total() && self.sent.test(PageIndex(page));
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pages = Vec::new();
        for Wanted { page: PageIndex(page), .. } in demanded.iter().filter(|wanted| wanted.first) {
            let page = *page;
            let Some(Ahead { stride, count }) = streams.fault(page, &sent) else { continue };
            let block = self.layout.index_of(PageIndex(page));
            let on = |step: i64| page.checked_add_signed(stride.checked_mul(step)?).map(PageIndex);
            let run = (1..).map_while(on).take_while(|next| self.layout.index_of(*next) == block);
            pages.extend(run.take(usize::try_from(count).unwrap_or(0)));
            if let Some(last) = pages.last().filter(|_| stride.abs() == 1) {
                self.run.next.store(last.0, Ordering::Relaxed);
                self.run.down.store(stride < 0, Ordering::Relaxed);
                self.run.chunks.store(RUN_CHUNKS, Ordering::Relaxed);
            }
        }
        pages
    }

    /// The next pages of a run, if one was followed a short while ago.
    fn next_of_run(&self, most: u64) -> Option<PageRange> {
        let take_one = |chunks: u64| chunks.checked_sub(1);
        self.run.chunks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).ok()?;
        let next = PageIndex(self.run.next.load(Ordering::Relaxed));
        let block = self.layout.block_of(next)?;
        let most = most.max(1);
        let (from, end) = if self.run.down.load(Ordering::Relaxed) {
            let from = next.0.saturating_sub(most).max(block.first_page.0);
            self.run.next.store(from, Ordering::Relaxed);
            (from, next.0)
        } else {
            let end = self.end_of_chunk(next, most);
            self.run.next.store(end, Ordering::Relaxed);
            (next.0, end)
        };
        let start = self.sent.next_clear(PageIndex(from)).filter(|start| start.0 < end)?;
        let claimed = (start.0..end).take_while(|page| self.claim(PageIndex(*page))).count() as u64;
        (claimed > 0).then_some(PageRange::new(start, claimed))
    }

    /// The next pages for the background: at most `most`, adjoining, of one block, never sent before;
    /// they count as sent from now on. Preferred pages come first and leave the cursor where it is.
    /// `None` when all pages were sent.
    #[must_use]
    pub fn next_background(&self, most: u64) -> Option<PageRange> {
        if let Some(range) = self.next_preferred(most).or_else(|| self.next_of_run(most)) {
            return Some(range);
        }
        loop {
            let from = self.cursor.load(Ordering::Acquire);
            let Some(start) = self.sent.next_clear(PageIndex(from)) else {
                if from == 0 {
                    return None;
                }
                // What lies before the place where the round began, or where it was moved away from.
                let _ = self.cursor.compare_exchange(from, 0, Ordering::AcqRel, Ordering::Acquire);
                continue;
            };
            let end = self.end_of_chunk(start, most);
            let claimed =
                (start.0..end).take_while(|page| self.claim(PageIndex(*page))).count() as u64;
            if claimed > 0 {
                let behind = start.0 + claimed;
                // Moved by a demand meanwhile: that goes before.
                let _ =
                    self.cursor.compare_exchange(from, behind, Ordering::AcqRel, Ordering::Acquire);
                return Some(PageRange::new(start, claimed));
            }
        }
    }
}

#[cfg(test)]
mod tests;
