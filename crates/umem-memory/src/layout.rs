//! Which page number lies at which guest address.

use crate::{GuestAddress, PageIndex, PageRange, PageSize};
use std::sync::Arc;

/// One RAM block as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlockSpec {
    /// Name, by which both ends of a migration compare it.
    pub name: String,
    /// Where it lies in the guest's physical address space.
    pub guest_address: GuestAddress,
    /// Size in bytes.
    pub bytes: u64,
}

/// One RAM block in its layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// Name, by which both ends of a migration compare it.
    pub name: String,
    /// Where it lies in the guest's physical address space.
    pub guest_address: GuestAddress,
    /// Number of its first page.
    pub first_page: PageIndex,
    /// Number of pages.
    pub pages: u64,
    page: PageSize,
}

impl RamBlock {
    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages << self.page.shift()
    }

    /// Its pages.
    #[must_use]
    pub fn range(&self) -> PageRange {
        PageRange::new(self.first_page, self.pages)
    }
}

/// A list of blocks that is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No block at all.
    #[error("a VM needs at least one RAM block")]
    Empty,
    /// A size that is no multiple of the page size, or none.
    #[error(
        "RAM block {name:?} has {bytes} bytes, which is no multiple of the page size {page_bytes}; use {suggestion}"
    )]
    Size {
        /// Name of the block.
        name: String,
        /// Its size.
        bytes: u64,
        /// The page size.
        page_bytes: u64,
        /// The next size that would do.
        suggestion: u64,
    },
    /// A block that begins in the middle of a page or ends beyond the address space.
    #[error("RAM block {name:?} of {bytes} bytes cannot lie at {address:#x}")]
    Address {
        /// Name of the block.
        name: String,
        /// Its size.
        bytes: u64,
        /// Where it was to lie.
        address: u64,
    },
    /// Two blocks share addresses, or their order is not that of their addresses.
    #[error("RAM block {name:?} at {address:#x} does not lie behind the one before it")]
    Order {
        /// Name of the block.
        name: String,
        /// Where it was to lie.
        address: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    page: PageSize,
    blocks: Vec<RamBlock>,
    total_pages: u64,
}

/// The blocks of a VM's RAM, laid end to end and counted in pages. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamLayout {
    inner: Arc<Inner>,
}

impl RamLayout {
    /// Lays out blocks, which are sorted by guest address.
    ///
    /// # Errors
    /// When there is none, or one cannot be where it is to be.
    pub fn new(page: PageSize, specs: Vec<RamBlockSpec>) -> Result<Self, LayoutError> {
        let mut blocks: Vec<RamBlock> = Vec::with_capacity(specs.len());
        let mut total_pages = 0;
        let mut end = 0;
        for RamBlockSpec { name, guest_address, bytes } in specs {
            if bytes == 0 || bytes % page.bytes() != 0 {
                let suggestion =
                    bytes.max(1).checked_next_multiple_of(page.bytes()).unwrap_or(page.bytes());
                return Err(LayoutError::Size {
                    name,
                    bytes,
                    page_bytes: page.bytes(),
                    suggestion,
                });
            }
            let address = guest_address.0;
            let block_end = address.checked_add(bytes).filter(|_| address % page.bytes() == 0);
            let Some(block_end) = block_end else {
                return Err(LayoutError::Address { name, bytes, address });
            };
            if !blocks.is_empty() && address < end {
                return Err(LayoutError::Order { name, address });
            }
            end = block_end;
            let pages = bytes >> page.shift();
            let first_page = PageIndex(total_pages);
            blocks.push(RamBlock { name, guest_address, first_page, pages, page });
            total_pages += pages;
        }
        if blocks.is_empty() {
            return Err(LayoutError::Empty);
        }
        Ok(Self { inner: Arc::new(Inner { page, blocks, total_pages }) })
    }

    /// The size of a page.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.inner.page
    }

    /// The blocks, in the order of their addresses.
    #[must_use]
    pub fn blocks(&self) -> &[RamBlock] {
        &self.inner.blocks
    }

    /// Pages of all blocks.
    #[must_use]
    pub fn total_pages(&self) -> u64 {
        self.inner.total_pages
    }

    /// Bytes of all blocks.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.inner.total_pages << self.inner.page.shift()
    }

    /// The page at a guest address; `None` where no RAM is.
    #[must_use]
    pub fn page_of(&self, address: GuestAddress) -> Option<PageIndex> {
        let at = self.inner.blocks.partition_point(|block| block.guest_address <= address);
        let block = self.inner.blocks.get(at.checked_sub(1)?)?;
        let page = (address.0 - block.guest_address.0) >> self.inner.page.shift();
        (page < block.pages).then(|| PageIndex(block.first_page.0 + page))
    }

    /// The guest address of a page; `None` beyond the last.
    #[must_use]
    pub fn address_of(&self, page: PageIndex) -> Option<GuestAddress> {
        let block = self.block_of(page)?;
        let offset = (page.0 - block.first_page.0) << self.inner.page.shift();
        Some(GuestAddress(block.guest_address.0 + offset))
    }

    /// The block that a page belongs to.
    #[must_use]
    pub fn block_of(&self, page: PageIndex) -> Option<&RamBlock> {
        self.index_of(page).and_then(|index| self.inner.blocks.get(index))
    }

    /// The number of the block that a page belongs to.
    #[must_use]
    pub fn index_of(&self, page: PageIndex) -> Option<usize> {
        if page.0 >= self.inner.total_pages {
            return None;
        }
        self.inner.blocks.partition_point(|block| block.first_page <= page).checked_sub(1)
    }

    /// Whether all pages of a range exist and belong to one block.
    #[must_use]
    pub fn holds(&self, range: PageRange) -> bool {
        let (Some(block), Some(end)) = (self.block_of(range.start), range.checked_end()) else {
            return false;
        };
        range.count > 0 && end <= block.first_page.0 + block.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, address: u64, bytes: u64) -> RamBlockSpec {
        RamBlockSpec { name: name.into(), guest_address: GuestAddress(address), bytes }
    }

    fn two() -> RamLayout {
        let specs = vec![spec("low", 0x1000, 0x3000), spec("high", 0x10_0000, 0x2000)];
        RamLayout::new(PageSize::SMALL, specs).unwrap()
    }

    #[test]
    fn pages_are_counted_over_all_blocks() {
        let layout = two();
        assert_eq!(layout.total_pages(), 5);
        assert_eq!(layout.page_of(GuestAddress(0xfff)), None);
        assert_eq!(layout.page_of(GuestAddress(0x3fff)), Some(PageIndex(2)));
        assert_eq!(layout.page_of(GuestAddress(0x4000)), None);
        assert_eq!(layout.page_of(GuestAddress(0x10_1000)), Some(PageIndex(4)));
        assert_eq!(layout.page_of(GuestAddress(0x10_2000)), None);
        assert_eq!(layout.address_of(PageIndex(3)), Some(GuestAddress(0x10_0000)));
        assert_eq!(layout.address_of(PageIndex(5)), None);
    }

    #[test]
    fn a_range_must_not_cross_a_block_s_end() {
        let layout = two();
        assert!(layout.holds(PageRange::new(PageIndex(0), 3)));
        assert!(!layout.holds(PageRange::new(PageIndex(2), 2)));
        assert!(!layout.holds(PageRange::new(PageIndex(3), u64::MAX)));
        assert!(!layout.holds(PageRange::new(PageIndex(9), 1)));
        assert!(!layout.holds(PageRange::new(PageIndex(0), 0)));
    }

    #[test]
    fn odd_sizes_are_refused_with_the_size_to_use() {
        let error = RamLayout::new(PageSize::HUGE_2M, vec![spec("ram", 0, 3 << 20)]).unwrap_err();
        assert!(error.to_string().ends_with("use 4194304"), "{error}");
        let overlapping = vec![spec("a", 0x1000, 0x2000), spec("b", 0x2000, 0x1000)];
        assert!(matches!(
            RamLayout::new(PageSize::SMALL, overlapping),
            Err(LayoutError::Order { .. })
        ));
        let high = vec![spec("a", u64::MAX - 0xfff, 0x1000)];
        assert!(RamLayout::new(PageSize::SMALL, high).is_err());
        assert_eq!(RamLayout::new(PageSize::SMALL, vec![]), Err(LayoutError::Empty));
    }
}
