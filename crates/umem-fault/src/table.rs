//! What is known of each page.

use crate::interrupt::Interrupt;
use crate::parking::{Left, Parking};
use crate::state::{Arrival, Claim, PageCounts, PageState, Waited, Withdrawal};
use crate::sync::{AtomicI64, AtomicU64, Ordering};
use std::sync::Arc;
use umem_memory::{PageBitmap, PageIndex};

/// Bits a page: the state, and whether somebody waits.
const BITS: u64 = 4;
const PAGES_A_WORD: u64 = u64::BITS as u64 / BITS;
const STATE: u64 = PageState::MASK;
const WAITED_FOR: u64 = 0b1000;

/// The state of every page, in 4 bits each and without a lock.
pub struct PageTable {
    words: Box<[AtomicU64]>,
    pages: u64,
    present: AtomicI64,
    poisoned: AtomicI64,
    requested: AtomicI64,
    parking: Arc<Parking>,
}

impl PageTable {
    /// A table of missing pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        Self {
            words: (0..pages.div_ceil(PAGES_A_WORD)).map(|_| AtomicU64::new(0)).collect(),
            pages,
            present: AtomicI64::new(0),
            poisoned: AtomicI64::new(0),
            requested: AtomicI64::new(0),
            parking: Arc::new(Parking::new()),
        }
    }

    /// A table in which the pages whose bit is set are present, and all others missing.
    #[must_use]
    pub fn with_present(present: &PageBitmap) -> Self {
        let mut table = Self::new(present.pages());
        let mut count = 0;
        for page in present.runs().flat_map(umem_memory::PageRange::pages) {
            let word = usize::try_from(page.0 / PAGES_A_WORD).ok();
            if let Some(word) = word.and_then(|index| table.words.get_mut(index)) {
                let shift = page.0 % PAGES_A_WORD * BITS;
                *word = AtomicU64::new(
                    word.load(Ordering::Relaxed) | (PageState::Present as u64) << shift,
                );
                count += 1;
            }
        }
        table.present = AtomicI64::new(count);
        table
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    fn place(&self, page: PageIndex) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(page.0 / PAGES_A_WORD).ok()?;
        let word = self.words.get(index).filter(|_| page.0 < self.pages)?;
        Some((word, page.0 % PAGES_A_WORD * BITS))
    }

    /// The state of a page; one that does not exist is `Poisoned`, as it will never come.
    #[must_use]
    pub fn state(&self, page: PageIndex) -> PageState {
        match self.place(page) {
            Some((word, shift)) => PageState::of(word.load(Ordering::Acquire) >> shift),
            None => PageState::Poisoned,
        }
    }

    /// Whether a page may be touched without waiting.
    #[must_use]
    pub fn is_present(&self, page: PageIndex) -> bool {
        self.state(page) == PageState::Present
    }

    /// Whether waiting for a page is over: it is here, or never will be.
    pub(crate) fn is_settled(&self, page: PageIndex) -> bool {
        matches!(self.state(page), PageState::Present | PageState::Poisoned)
    }

    /// Moves a page from one of some states to another; where it was, if that was one of them.
    /// `mask` says which bits are overwritten: the mark of those who wait stays or goes with it.
    fn step(&self, page: PageIndex, from: &[PageState], to: PageState, mask: u64) -> Option<u64> {
        let (word, shift) = self.place(page)?;
        let mut seen = word.load(Ordering::Acquire);
        loop {
            if !from.contains(&PageState::of(seen >> shift)) {
                return None;
            }
            let changed = seen & !(mask << shift) | (to as u64) << shift;
            match word.compare_exchange_weak(seen, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(seen >> shift & (STATE | WAITED_FOR)),
                Err(now) => seen = now,
            }
        }
    }

    /// Claims a page for a thread that needs it. Only one gets `Fetch` until the page is here or
    /// is given up; pages that do not exist are `Poisoned`.
    pub fn claim(&self, page: PageIndex) -> Claim {
        // Counted before it can be seen, so that the count never drops below zero.
        loop {
            match self.state(page) {
                PageState::Present => return Claim::Present,
                PageState::Poisoned => return Claim::Poisoned,
                PageState::Discarded => return Claim::Zero,
                PageState::Requested | PageState::Installing => return Claim::Wait,
                PageState::Missing => {}
            }
            self.requested.fetch_add(1, Ordering::Relaxed);
            if self.step(page, &[PageState::Missing], PageState::Requested, STATE).is_some() {
                return Claim::Fetch;
            }
            self.requested.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the right to install a page that is not here: exactly one gets it, and must finish
    /// or abort. `false` when it is here, discarded, given up, or another is at it.
    pub fn begin_install(&self, page: PageIndex) -> bool {
        self.begin(page, &[PageState::Missing, PageState::Requested])
    }

    /// As [`Self::begin_install`], for a discarded page that is to be filled with zeroes.
    pub fn begin_zero(&self, page: PageIndex) -> bool {
        self.begin(page, &[PageState::Discarded])
    }

    fn begin(&self, page: PageIndex, from: &[PageState]) -> bool {
        let before = self.step(page, from, PageState::Installing, STATE);
        if before.is_some_and(|bits| PageState::of(bits) == PageState::Requested) {
            self.requested.fetch_sub(1, Ordering::Relaxed);
        }
        before.is_some()
    }

    /// Says what became of a page whose install the caller began, and wakes who waits for it.
    pub fn finish_install(&self, page: PageIndex, arrival: Arrival) {
        let (to, count) = match arrival {
            Arrival::Present => (PageState::Present, &self.present),
            Arrival::Poisoned => (PageState::Poisoned, &self.poisoned),
        };
        let before = self.step(page, &[PageState::Installing], to, STATE | WAITED_FOR);
        let Some(before) = before else { return };
        count.fetch_add(1, Ordering::AcqRel);
        if before & WAITED_FOR != 0 {
            self.parking.wake(page.0);
        }
    }

    /// Gives the right to install a page back. The page then counts as requested, whatever it was
    /// before: somebody may have begun to wait for it meanwhile, and what is requested is asked
    /// for again on the next link (see [`Self::requested_pages`]).
    pub fn abort_install(&self, page: PageIndex) {
        self.requested.fetch_add(1, Ordering::Relaxed);
        if self.step(page, &[PageState::Installing], PageState::Requested, STATE).is_none() {
            self.requested.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Says that a page's content does not matter. Only pages that nobody asked for change: what
    /// was asked for will be answered. Whether it did.
    pub fn discard(&self, page: PageIndex) -> bool {
        self.step(page, &[PageState::Missing], PageState::Discarded, STATE).is_some()
    }

    /// Takes the right to take a page away that is here, discarded or given up: exactly one gets it,
    /// and must finish with [`Self::finish_withdraw`]. Until then it counts as being installed.
    pub fn begin_withdraw(&self, page: PageIndex) -> Withdrawal {
        let there = [PageState::Present, PageState::Poisoned, PageState::Discarded];
        loop {
            match self.state(page) {
                PageState::Missing | PageState::Requested => return Withdrawal::Absent,
                PageState::Installing => return Withdrawal::Busy,
                // One that does not exist passes for poisoned.
                _ if page.0 >= self.pages => return Withdrawal::Absent,
                _ => {}
            }
            let Some(before) = self.step(page, &there, PageState::Installing, STATE) else {
                continue;
            };
            match PageState::of(before) {
                PageState::Present => self.present.fetch_sub(1, Ordering::AcqRel),
                PageState::Poisoned => self.poisoned.fetch_sub(1, Ordering::AcqRel),
                _ => 0,
            };
            return Withdrawal::Begun;
        }
    }

    /// A page whose withdrawal the caller began is missing, as if it had never come.
    pub fn finish_withdraw(&self, page: PageIndex) {
        let _ = self.step(page, &[PageState::Installing], PageState::Missing, STATE);
    }

    /// Waits until a page is here or given up. The page must have been claimed: waiting alone
    /// makes nobody ask for it.
    pub fn wait(&self, page: PageIndex, interrupt: &Interrupt) -> Waited {
        let outcome = self.parking.wait(page.0, interrupt, || self.arrived_or_mark(page));
        match outcome {
            Left::Done(waited) => waited,
            Left::Interrupted => Waited::Interrupted,
        }
    }

    /// Whether waiting is over; else leaves a mark that somebody waits.
    fn arrived_or_mark(&self, page: PageIndex) -> Option<Waited> {
        let Some((word, shift)) = self.place(page) else { return Some(Waited::Poisoned) };
        let mut seen = word.load(Ordering::Acquire);
        loop {
            match PageState::of(seen >> shift) {
                PageState::Present => return Some(Waited::Present),
                PageState::Poisoned => return Some(Waited::Poisoned),
                _ => {}
            }
            let marked = seen | WAITED_FOR << shift;
            match word.compare_exchange_weak(seen, marked, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return None,
                Err(now) => seen = now,
            }
        }
    }

    /// Lets everybody go who waits, now and later, as if interrupted.
    pub(crate) fn close(&self) {
        self.parking.close();
    }

    /// Whether nobody may wait any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.parking.is_closed()
    }

    /// Number of pages by state; costs nothing.
    #[must_use]
    pub fn counts(&self) -> PageCounts {
        let read = |count: &AtomicI64| u64::try_from(count.load(Ordering::Acquire)).unwrap_or(0);
        PageCounts {
            present: read(&self.present),
            poisoned: read(&self.poisoned),
            requested: read(&self.requested),
            total: self.pages,
        }
    }

    /// Some of the pages that threads wait for here, at most 16.
    #[must_use]
    pub fn waiting(&self) -> Vec<PageIndex> {
        self.parking.sample(16).into_iter().map(PageIndex).collect()
    }

    /// All pages that were asked for and have not arrived.
    #[must_use]
    pub fn requested_pages(&self) -> Vec<PageIndex> {
        let mut found = Vec::new();
        for (word, first) in self.words.iter().zip((0..).step_by(PAGES_A_WORD as usize)) {
            let bits = word.load(Ordering::Acquire);
            if bits == 0 {
                continue;
            }
            let asked = |&at: &u64| PageState::of(bits >> (at * BITS)) == PageState::Requested;
            found.extend((0..PAGES_A_WORD).filter(asked).map(|at| PageIndex(first + at)));
        }
        found
    }
}

impl std::fmt::Debug for PageTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageTable").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
