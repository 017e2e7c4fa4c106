//! The digest over all pages, as one end builds it.

use umem_wire::{PageKind, digest_term, discard_term};

/// Pages that the destination holds, and the digest over all copies of them and all discards.
///
/// Both are sums that wrap: a part that has only discards can be merged into another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sum over all copies and discards.
    pub digest: u128,
    /// Pages counted and not discarded since.
    pub pages: u64,
}

impl Tally {
    /// Counts a page's first copy, or its first one since it was discarded.
    pub fn add(&mut self, page: u64, kind: PageKind) {
        self.again(page, kind);
        self.pages = self.pages.wrapping_add(1);
    }

    /// Takes another copy of a page that is counted already.
    pub fn again(&mut self, page: u64, kind: PageKind) {
        self.digest = self.digest.wrapping_add(digest_term(page, kind));
    }

    /// Takes it that all copies of a page that is counted are void.
    pub fn discard(&mut self, page: u64) {
        self.digest = self.digest.wrapping_add(discard_term(page));
        self.pages = self.pages.wrapping_sub(1);
    }

    /// Takes all that another has taken; no page is counted in both.
    pub fn merge(&mut self, other: Self) {
        self.digest = self.digest.wrapping_add(other.digest);
        self.pages = self.pages.wrapping_add(other.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_grouping_do_not_matter_but_every_page_does() {
        let kind = |page: u64| match page % 3 {
            0 => PageKind::Content(page * 7),
            1 => PageKind::Fill(page as u8),
            _ => PageKind::Unreadable,
        };
        let (mut forward, mut left, mut right) =
            (Tally::default(), Tally::default(), Tally::default());
        (0..50).for_each(|page| forward.add(page, kind(page)));
        (0..50).rev().for_each(|page| {
            let half = if page % 2 == 0 { &mut left } else { &mut right };
            half.add(page, kind(page));
        });
        left.merge(right);
        assert_eq!(left, forward);
        left.add(7, kind(7));
        assert_ne!(left.digest, forward.digest);
    }

    #[test]
    fn every_copy_and_every_discard_counts_whatever_part_they_are_merged_from() {
        let (mut whole, mut copies, mut discards) =
            (Tally::default(), Tally::default(), Tally::default());
        for tally in [&mut whole, &mut copies] {
            tally.add(4, PageKind::Content(1));
            tally.again(4, PageKind::Content(2));
            tally.add(5, PageKind::Fill(0));
        }
        let without = whole.digest;
        whole.discard(4);
        discards.discard(4);
        assert_eq!(whole.pages, 1);
        discards.merge(copies);
        assert_eq!(discards, whole);
        whole.add(4, PageKind::Content(2));
        assert_eq!(whole.pages, 2);
        assert_ne!(whole.digest, without);
    }
}
