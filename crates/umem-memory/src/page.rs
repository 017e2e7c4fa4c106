//! Pages as data: their size, their index, ranges of them.

use std::fmt;

/// Size of a page in bytes: a power of two, at least 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// 4 KiB, the guest's page and the smallest unit of transfer.
    pub const SMALL: Self = Self { shift: 12 };
    /// 2 MiB.
    pub const HUGE_2M: Self = Self { shift: 21 };
    /// 1 GiB.
    pub const HUGE_1G: Self = Self { shift: 30 };

    /// A size given in bytes; `None` unless it is a power of two of at least 4 KiB.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let shift = u8::try_from(bytes.checked_ilog2()?).ok()?;
        (bytes.is_power_of_two() && shift >= Self::SMALL.shift).then_some(Self { shift })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Size in bytes, as a length in memory.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no page size is 0")]
    pub const fn len(self) -> usize {
        1 << self.shift
    }

    /// Base-2 logarithm of the size.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }
}

/// Number of a page in a VM's RAM: its blocks are laid end to end in the order of their list, and
/// the pages counted from 0. A page number says nothing of guest addresses; the layout maps both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x}", self.0)
    }
}

/// A run of pages: `start` and the `count - 1` that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// First page.
    pub start: PageIndex,
    /// Number of pages.
    pub count: u64,
}

impl PageRange {
    /// The range of `count` pages from `start`.
    #[must_use]
    pub const fn new(start: PageIndex, count: u64) -> Self {
        Self { start, count }
    }

    /// A range of one page.
    #[must_use]
    pub const fn one(page: PageIndex) -> Self {
        Self { start: page, count: 1 }
    }

    /// The page after the last; `None` when that number does not fit (a peer's nonsense).
    #[must_use]
    pub const fn checked_end(self) -> Option<u64> {
        self.start.0.checked_add(self.count)
    }

    /// The page numbers of the range, in order.
    pub fn pages(self) -> impl Iterator<Item = PageIndex> {
        (self.start.0..self.start.0.saturating_add(self.count)).map(PageIndex)
    }
}

/// The byte of which a page consists, if it is one: then that byte is all that there is to send or to keep.
/// `None` of nothing.
///
/// The cost is that of `memcmp` up to the first byte that differs from the one before it: a page whose content
/// varies is found out by its head, a page of one byte is read whole.
#[must_use]
pub fn repeated_byte(page: &[u8]) -> Option<u8> {
    let (first, rest) = page.split_first()?;
    // Each byte equals the one before it.
    (page.get(..rest.len())? == rest).then_some(*first)
}

#[cfg(test)]
mod tests {
    use super::repeated_byte;

    #[test]
    fn only_pages_of_one_byte_are_taken_for_such() {
        let mut page = [7u8; 4096];
        assert_eq!(repeated_byte(&page), Some(7));
        for at in [0, 1, 2047, 4095] {
            page[at] = 8;
            assert_eq!(repeated_byte(&page), None, "{at}");
            page[at] = 7;
        }
        assert_eq!(repeated_byte(&[]), None);
    }
}
