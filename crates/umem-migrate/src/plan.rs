//! Which page the source sends next. Shared by all sending threads, without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use umem_memory::{PageBitmap, PageIndex, PageRange, RamLayout};
use umem_wire::Cause;

/// Pages sent along with a demanded one, and what the background does about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefault {
    /// Pages behind each demanded page.
    pub forward: u64,
    /// Pages before each demanded page.
    pub backward: u64,
    /// The background goes on behind the last page served (`-m`).
    pub move_background: bool,
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
/// background sends preferred pages first, then goes on at its cursor.
#[derive(Debug)]
pub struct SendPlan {
    layout: RamLayout,
    prefault: Prefault,
    sent: PageBitmap,
    sent_pages: AtomicU64,
    /// Where the background goes on.
    cursor: AtomicU64,
    preferred: OnceLock<Preferred>,
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
        let sent = PageBitmap::new(layout.total_pages());
        let (sent_pages, cursor) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { layout, prefault, sent, sent_pages, cursor, preferred: OnceLock::new() }
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

    /// What to send for a request: its pages in their order, then what lies one behind each of them,
    /// two behind, and so on; then what lies before them in the same way. Never beyond the end of a
    /// page's RAM block. All of it counts as sent.
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
        for neighbour in self.neighbours(requested) {
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

    /// The next pages for the background: at most `most`, adjoining, of one block, never sent before;
    /// they count as sent from now on. Preferred pages come first and leave the cursor where it is.
    /// `None` when all pages were sent.
    #[must_use]
    pub fn next_background(&self, most: u64) -> Option<PageRange> {
        if let Some(range) = self.next_preferred(most) {
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use umem_memory::{GuestAddress, PageSize, RamBlockSpec};

    /// Blocks of the given numbers of pages.
    fn layout(blocks: &[u64]) -> RamLayout {
        let specs = blocks.iter().enumerate().map(|(number, pages)| RamBlockSpec {
            name: format!("block{number}"),
            guest_address: GuestAddress((number as u64) << 32),
            bytes: pages * PageSize::SMALL.bytes(),
        });
        RamLayout::new(PageSize::SMALL, specs.collect()).unwrap()
    }

    fn prefault(forward: u64, backward: u64, move_background: bool) -> Prefault {
        Prefault { forward, backward, move_background }
    }

    fn numbers(order: &[Wanted]) -> Vec<u64> {
        order.iter().map(|wanted| wanted.page.0).collect()
    }

    #[test]
    fn neighbours_come_breadth_first_and_stay_in_their_block() {
        let plan = SendPlan::new(layout(&[10, 10]), prefault(2, 1, false));
        let order = plan.demand(&[8, 3, 10]).unwrap();
        assert_eq!(numbers(&order), [8, 3, 10, 9, 4, 11, 5, 12, 7, 2]);
        let again = plan.demand(&[9]).unwrap();
        assert_eq!(numbers(&again), [9], "a demanded page goes again, its neighbours were sent");
        assert!(!again[0].first);
        assert_eq!(plan.remaining(), 10);
    }

    #[test]
    fn a_page_that_does_not_exist_is_refused_whole() {
        let plan = SendPlan::new(layout(&[4]), Prefault::default());
        assert_eq!(plan.demand(&[1, 4]), Err(BadRequest { page: 4, total: 4 }));
        assert_eq!(plan.demand(&[u64::MAX]).unwrap_err().page, u64::MAX);
        assert_eq!(plan.remaining(), 4);
    }

    #[test]
    fn the_background_follows_the_faults_only_when_told() {
        for (moves, next) in [(false, 0), (true, 54)] {
            let plan = SendPlan::new(layout(&[100]), prefault(3, 0, moves));
            plan.demand(&[50]).unwrap();
            assert_eq!(plan.next_background(4), Some(PageRange::new(PageIndex(next), 4)));
        }
        let plan = SendPlan::new(layout(&[10, 10]), prefault(30, 0, true));
        plan.demand(&[5]).unwrap();
        let next = plan.next_background(1).unwrap();
        assert_eq!(next.start, PageIndex(10), "the cursor stops at the end of the block");
    }

    #[test]
    fn a_huge_prefault_is_bounded_by_the_block() {
        let plan = SendPlan::new(layout(&[8]), prefault(u64::MAX, u64::MAX, true));
        assert_eq!(numbers(&plan.demand(&[4]).unwrap()), [4, 5, 6, 7, 3, 2, 1, 0]);
        assert_eq!(plan.next_background(9), None);
    }

    #[test]
    fn threads_share_the_pages_without_loss_or_repetition() {
        let plan = SendPlan::new(layout(&[20_000]), prefault(1, 1, true));
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let background = || {
                let mut mine = Vec::new();
                while let Some(range) = plan.next_background(64) {
                    mine.extend(range.pages().map(|page| page.0));
                }
                mine
            };
            let demand = || {
                let mut mine = Vec::new();
                for n in 0..2000u64 {
                    let order = plan.demand(&[n * 7919 % 20_000]).unwrap();
                    mine.extend(order.iter().filter(|wanted| wanted.first).map(|w| w.page.0));
                }
                mine
            };
            let threads = [scope.spawn(background), scope.spawn(background), scope.spawn(demand)];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (0..20_000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_model(
            blocks in prop::collection::vec(1u64..12, 1..4),
            forward in 0u64..5,
            backward in 0u64..5,
            requests in prop::collection::vec(prop::collection::vec(any::<u64>(), 1..4), 1..8),
        ) {
            let layout = layout(&blocks);
            let total = layout.total_pages();
            let plan = SendPlan::new(layout, prefault(forward, backward, false));
            let block_of = |page: i64| {
                let mut first = 0;
                blocks.iter().position(|pages| {
                    first += *pages as i64;
                    page < first
                })
            };
            let mut sent = vec![false; total as usize];
            for request in requests {
                let request: Vec<u64> = request.iter().map(|page| page % total).collect();
                let mut expected = request.clone();
                let ahead = (1..=forward as i64).chain((1..=backward as i64).map(|distance| -distance));
                request.iter().for_each(|page| sent[*page as usize] = true);
                for distance in ahead {
                    for page in &request {
                        let next = *page as i64 + distance;
                        if next < 0 || block_of(next).is_none() || block_of(next) != block_of(*page as i64) {
                            continue;
                        }
                        if !std::mem::replace(&mut sent[next as usize], true) {
                            expected.push(next as u64);
                        }
                    }
                }
                prop_assert_eq!(numbers(&plan.demand(&request).unwrap()), expected);
            }
            prop_assert_eq!(plan.remaining(), sent.iter().filter(|sent| !**sent).count() as u64);
        }
    }
}
