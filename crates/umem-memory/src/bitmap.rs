//! A bit for each page, changed by many threads without a lock.

use crate::{PageIndex, PageRange};
use std::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = u64::BITS as u64;

/// A bit for each page. Operations are atomic a word of 64 pages at a time.
#[derive(Debug)]
pub struct PageBitmap {
    words: Box<[AtomicU64]>,
    pages: u64,
}

impl Clone for PageBitmap {
    /// A copy, word by word: one that others change meanwhile has some of their changes.
    fn clone(&self) -> Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Acquire));
        Self { words: self.words.iter().map(copy).collect(), pages: self.pages }
    }
}

impl PageBitmap {
    /// A bitmap of clear bits.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let words = (0..pages.div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        Self { words, pages }
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    fn word(&self, page: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(page / BITS).ok()?)
    }

    /// Whether a page's bit is set; clear beyond the last page.
    #[must_use]
    pub fn test(&self, page: PageIndex) -> bool {
        page.0 < self.pages
            && self
                .word(page.0)
                .is_some_and(|word| word.load(Ordering::Acquire) >> (page.0 % BITS) & 1 == 1)
    }

    /// Sets the bits of a range; how many were clear.
    pub fn set(&self, range: PageRange) -> u64 {
        self.change(range, |word, mask| mask & !word.fetch_or(mask, Ordering::AcqRel))
    }

    /// Clears the bits of a range; how many were set.
    pub fn clear(&self, range: PageRange) -> u64 {
        self.change(range, |word, mask| mask & word.fetch_and(!mask, Ordering::AcqRel))
    }

    fn change(&self, range: PageRange, change: impl Fn(&AtomicU64, u64) -> u64) -> u64 {
        let end = range.checked_end().unwrap_or(u64::MAX).min(self.pages);
        let (mut at, mut changed) = (range.start.0, 0);
        while at < end {
            let next = (at / BITS + 1).saturating_mul(BITS).min(end);
            let mask = (u64::MAX >> (BITS - (next - at))) << (at % BITS);
            if let Some(word) = self.word(at) {
                changed += u64::from(change(word, mask).count_ones());
            }
            at = next;
        }
        changed
    }

    /// The first set bit at or behind a page.
    #[must_use]
    pub fn next_set(&self, from: PageIndex) -> Option<PageIndex> {
        self.find(from.0, self.pages, |word| word)
    }

    /// The first clear bit at or behind a page.
    #[must_use]
    pub fn next_clear(&self, from: PageIndex) -> Option<PageIndex> {
        self.find(from.0, self.pages, |word| !word)
    }

    /// The first run of set bits at or behind a page; of a longer one the first `most` pages.
    #[must_use]
    pub fn next_range(&self, from: PageIndex, most: u64) -> Option<PageRange> {
        let start = self.next_set(from).filter(|_| most > 0)?;
        let limit = start.0.saturating_add(most).min(self.pages);
        let end = self.find(start.0, limit, |word| !word).map_or(limit, |page| page.0);
        // A bit that another thread has cleared meanwhile was set all the same.
        Some(PageRange::new(start, (end - start.0).max(1)))
    }

    /// All runs of set bits, in order.
    pub fn runs(&self) -> impl Iterator<Item = PageRange> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_range(PageIndex(from), u64::MAX)?;
            from = run.start.0 + run.count;
            Some(run)
        })
    }

    fn find(&self, from: u64, to: u64, view: impl Fn(u64) -> u64) -> Option<PageIndex> {
        let mut at = from;
        while at < to {
            let word = view(self.word(at)?.load(Ordering::Acquire)) >> (at % BITS);
            if word != 0 {
                let page = at + u64::from(word.trailing_zeros());
                return (page < to).then_some(PageIndex(page));
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    /// Clears the bits that are set in another bitmap of as many pages; how many were set.
    pub fn and_not(&self, other: &Self) -> u64 {
        let mut cleared = 0;
        for (word, theirs) in self.words.iter().zip(&other.words) {
            let mask = theirs.load(Ordering::Acquire);
            if mask != 0 {
                cleared += u64::from((mask & word.fetch_and(!mask, Ordering::AcqRel)).count_ones());
            }
        }
        cleared
    }

    /// Moves all set bits into another bitmap of as many pages; how many were clear there. A bit
    /// that is set meanwhile is moved or stays, and is never lost.
    pub fn move_into(&self, into: &Self) -> u64 {
        let mut added = 0;
        for (from, to) in self.words.iter().zip(&into.words) {
            // Looked at first: most words are clear, and an exchange takes the cache line away.
            if from.load(Ordering::Relaxed) != 0 {
                let bits = from.swap(0, Ordering::AcqRel);
                added += u64::from((bits & !to.fetch_or(bits, Ordering::AcqRel)).count_ones());
            }
        }
        added
    }

    /// Number of set bits.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_behaves_as_a_list_of_bools(
            pages in 1u64..300,
            steps in prop::collection::vec((any::<bool>(), 0u64..310, 0u64..310), 1..20),
        ) {
            let bitmap = PageBitmap::new(pages);
            let mut model = vec![false; pages as usize];
            for (set, start, count) in steps {
                let range = PageRange::new(PageIndex(start), count);
                let changed = if set { bitmap.set(range) } else { bitmap.clear(range) };
                let mut expected = 0;
                for page in range.pages() {
                    if let Some(bit) = model.get_mut(page.0 as usize) {
                        expected += u64::from(*bit != set);
                        *bit = set;
                    }
                }
                prop_assert_eq!(changed, expected);
            }
            prop_assert_eq!(bitmap.count(), model.iter().filter(|bit| **bit).count() as u64);
            for from in 0..pages + 70 {
                let find = |wanted| {
                    (from..pages).find(|&page| model[page as usize] == wanted).map(PageIndex)
                };
                prop_assert_eq!(bitmap.next_set(PageIndex(from)), find(true));
                prop_assert_eq!(bitmap.next_clear(PageIndex(from)), find(false));
                let bit = model.get(from as usize).copied().unwrap_or(false);
                prop_assert_eq!(bitmap.test(PageIndex(from)), bit);
                for most in [1, 7, 64, 400] {
                    let range = bitmap.next_range(PageIndex(from), most);
                    prop_assert_eq!(range.map(|range| range.start), find(true));
                    let run = |start: PageIndex| {
                        let rest = model.iter().skip(start.0 as usize);
                        (rest.take_while(|bit| **bit).count() as u64).min(most)
                    };
                    prop_assert_eq!(range.map(|range| range.count), find(true).map(run));
                }
            }
            let listed: Vec<_> = bitmap.runs().flat_map(PageRange::pages).collect();
            let set: Vec<_> = (0..pages).filter(|&page| model[page as usize]).map(PageIndex).collect();
            prop_assert_eq!(listed, set);
        }

        #[test]
        fn bits_of_another_are_taken_away_and_a_copy_stays_as_it_was(
            pages in 1u64..300,
            one in prop::collection::vec(0u64..300, 0..40),
            two in prop::collection::vec(0u64..300, 0..40),
        ) {
            let bitmap = |set: &[u64]| {
                let bitmap = PageBitmap::new(pages);
                set.iter().for_each(|&page| { bitmap.set(PageRange::one(PageIndex(page))); });
                bitmap
            };
            let (one, two) = (bitmap(&one), bitmap(&two));
            let before = one.clone();
            let cleared = one.and_not(&two);
            prop_assert_eq!(before.count() - one.count(), cleared);
            for page in (0..pages).map(PageIndex) {
                prop_assert_eq!(one.test(page), before.test(page) && !two.test(page));
            }
        }
    }

    #[test]
    fn a_range_of_no_pages_is_none() {
        let bitmap = PageBitmap::new(70);
        bitmap.set(PageRange::new(PageIndex(3), 4));
        assert_eq!(bitmap.next_range(PageIndex(0), 0), None);
    }

    #[test]
    fn moved_bits_are_counted_once_and_leave_nothing_behind() {
        let (from, into) = (PageBitmap::new(200), PageBitmap::new(200));
        from.set(PageRange::new(PageIndex(60), 10));
        into.set(PageRange::new(PageIndex(66), 100));
        assert_eq!(from.move_into(&into), 6);
        assert_eq!((from.count(), into.count()), (0, 106));
        assert_eq!(from.move_into(&into), 0);
    }

    #[test]
    fn ranges_beyond_the_end_change_nothing() {
        let bitmap = PageBitmap::new(70);
        assert_eq!(bitmap.set(PageRange::new(PageIndex(69), u64::MAX)), 1);
        assert_eq!(bitmap.set(PageRange::new(PageIndex(500), 5)), 0);
        assert_eq!(bitmap.next_clear(PageIndex(69)), None);
    }
}
