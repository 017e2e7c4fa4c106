//! The digest over all pages, as one end builds it.

use umem_wire::{PageKind, digest_term};

/// Pages counted once each, and the sum of their parts of the digest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sum over the pages, wrapping.
    pub digest: u128,
    /// Number of pages.
    pub pages: u64,
}

impl Tally {
    /// Counts a page.
    pub fn add(&mut self, page: u64, kind: PageKind) {
        self.digest = self.digest.wrapping_add(digest_term(page, kind));
        self.pages += 1;
    }

    /// Counts all that another has counted; no page is in both.
    pub fn merge(&mut self, other: Self) {
        self.digest = self.digest.wrapping_add(other.digest);
        self.pages += other.pages;
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
}
