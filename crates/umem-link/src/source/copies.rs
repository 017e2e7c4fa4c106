//! Copies of pages as they were sent last, so that they can go again as what has changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use umem_memory::PageIndex;
use umem_wire::exclusive_or;

/// Parts of the cache that threads use at the same time.
const PARTS: u64 = 16;
/// A page that no guest has.
const NONE: u64 = u64::MAX;
/// Bytes that are compared at a time.
const WORD: usize = 8;

struct Slot {
    page: u64,
    copy: Vec<u8>,
}

/// A cache of what the destination has, of bounded size. Each page has one place that it may be in, and
/// whatever is there goes: to find, keep and drop one takes the same time however many there are. A place
/// has no memory before it is used.
///
/// A copy here is the one that was sent last, or it is not here: whoever sends a page calls
/// [`Self::remember`] or [`Self::forget`]. Between the sending of a page and its next one lies the end of a
/// round, so no two threads are at the same page.
pub(super) struct SentCopies {
    parts: Vec<Mutex<Vec<Slot>>>,
    /// Whether all pages of the guest have room.
    whole: bool,
    /// Whether anything was ever kept.
    used: AtomicBool,
}

impl SentCopies {
    /// At most so many bytes of copies, of a guest of so many pages.
    pub(super) fn new(bytes: u64, page_bytes: usize, pages: u64) -> Self {
        let room = bytes / (page_bytes as u64).max(1);
        let each = room.min(pages.next_multiple_of(PARTS)) / PARTS;
        let slots = || (0..each).map(|_| Slot { page: NONE, copy: Vec::new() }).collect();
        let parts = (0..PARTS).map(|_| Mutex::new(slots())).collect();
        Self { parts, whole: each * PARTS >= pages, used: AtomicBool::new(false) }
    }

    /// Whether copies of this round are worth keeping: those of a first round that do not all have room
    /// drive each other out before any is needed.
    pub(super) fn takes(&self, round: u32) -> bool {
        round > 1 || self.whole
    }

    fn part(&self, page: PageIndex) -> Option<MutexGuard<'_, Vec<Slot>>> {
        let part = self.parts.get(usize::try_from(page.0 % PARTS).ok()?)?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something with a page's place.
    fn at<T>(&self, page: PageIndex, act: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut part = self.part(page)?;
        let at = (page.0 / PARTS).checked_rem(part.len() as u64)?;
        part.get_mut(usize::try_from(at).ok()?).map(act)
    }

    /// A page has been sent with this content.
    pub(super) fn remember(&self, page: PageIndex, content: &[u8]) {
        self.used.store(true, Ordering::Relaxed);
        self.at(page, |slot| {
            slot.page = page.0;
            slot.copy.clear();
            slot.copy.extend_from_slice(content);
        });
    }

    /// A page has been sent with content that is not kept.
    pub(super) fn forget(&self, page: PageIndex) {
        if self.used.load(Ordering::Relaxed) {
            self.at(page, |slot| {
                if slot.page == page.0 {
                    slot.page = NONE;
                }
            });
        }
    }

    /// Appends how a page's content differs from the copy sent before; whether there is one, and it has so
    /// much in common with it that this is worth it.
    pub(super) fn difference(&self, page: PageIndex, content: &[u8], out: &mut Vec<u8>) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            return false;
        }
        let found = self.at(page, |slot| {
            if slot.page != page.0 || slot.copy.len() != content.len() {
                return false;
            }
            let words = content.chunks(WORD).zip(slot.copy.chunks(WORD));
            let changed = words.filter(|(a, b)| a != b).count();
            if changed * WORD * 2 > content.len() {
                return false;
            }
            let start = out.len();
            out.extend_from_slice(content);
            exclusive_or(out.get_mut(start..).unwrap_or_default(), &slot.copy);
            true
        });
        found.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const PAGE: usize = 32;

    fn difference(copies: &SentCopies, page: u64, content: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![7];
        let found = copies.difference(PageIndex(page), content, &mut out);
        assert_eq!(out[0], 7);
        assert_eq!(out.len(), if found { 1 + PAGE } else { 1 });
        found.then(|| out[1..].to_vec())
    }

    #[test]
    fn a_difference_is_from_the_copy_sent_last() {
        let copies = SentCopies::new(1 << 20, PAGE, 100);
        assert!(copies.takes(1), "all of it has room");
        assert_eq!(difference(&copies, 5, &[1; PAGE]), None);
        copies.remember(PageIndex(5), &[1; PAGE]);
        let mut content = [1; PAGE];
        content[3] = 3;
        let mut expected = [0; PAGE];
        expected[3] = 2;
        assert_eq!(difference(&copies, 5, &content).unwrap(), expected);
        assert_eq!(difference(&copies, 5 + 16, &content), None);
        assert_eq!(difference(&copies, 5, &[9; PAGE]), None, "nothing in common");
        copies.forget(PageIndex(5));
        assert_eq!(difference(&copies, 5, &content), None);
    }

    #[test]
    fn no_room_keeps_nothing_and_little_room_not_the_first_round() {
        let none = SentCopies::new(0, PAGE, 100);
        none.remember(PageIndex(1), &[1; PAGE]);
        assert_eq!(difference(&none, 1, &[1; PAGE]), None);
        let little = SentCopies::new(99 * PAGE as u64, PAGE, 100);
        assert!(!little.takes(1) && little.takes(2));
    }

    proptest! {
        #[test]
        fn what_is_here_is_what_was_sent_last_and_never_too_much(
            room in 0_u64..80,
            sent in prop::collection::vec((0_u64..200, any::<u8>(), any::<bool>()), 0..300),
        ) {
            let copies = SentCopies::new(room * PAGE as u64, PAGE, 200);
            let mut last = HashMap::new();
            for (page, byte, keep) in sent {
                if keep {
                    copies.remember(PageIndex(page), &[byte; PAGE]);
                } else {
                    copies.forget(PageIndex(page));
                }
                last.insert(page, (byte, keep));
            }
            for (page, (byte, keep)) in last {
                if let Some(difference) = difference(&copies, page, &[byte; PAGE]) {
                    prop_assert!(keep);
                    prop_assert_eq!(difference, vec![0; PAGE]);
                }
            }
            let kept: usize = copies.parts.iter().map(|part| {
                part.lock().unwrap().iter().map(|slot| slot.copy.len()).sum::<usize>()
            }).sum();
            prop_assert!(kept as u64 <= room * PAGE as u64);
        }
    }
}
