//! Where pages lie in the address space that a userfaultfd watches.

use umem_memory::{GuestRam, PageIndex, PageRange, PageSize};

/// Pages that follow each other, and their address in the process that runs on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignRegion {
    /// Address of the first page in that process. Never followed here.
    pub host_address: u64,
    /// The pages.
    pub pages: PageRange,
}

/// All regions of a plane, sorted by page.
#[derive(Debug)]
pub(crate) struct Regions {
    regions: Vec<ForeignRegion>,
    page: PageSize,
}

impl Regions {
    /// Takes regions that somebody gave us; says what is wrong with them.
    pub(crate) fn new(regions: &[ForeignRegion], page: PageSize) -> Result<Self, &'static str> {
        let mut regions = regions.to_vec();
        regions.sort_by_key(|region| region.pages.start);
        let mut next_page = 0;
        let mut spans = Vec::with_capacity(regions.len());
        for region in &regions {
            let bytes = region.pages.count.checked_mul(page.bytes()).filter(|&bytes| bytes > 0);
            let bytes = bytes.ok_or("a region has no pages, or too many")?;
            let end = region.host_address.checked_add(bytes).ok_or("a region ends nowhere")?;
            if region.host_address % page.bytes() != 0 {
                return Err("a region begins in the middle of a page");
            }
            if region.pages.start.0 != next_page {
                return Err("regions leave pages out or share them");
            }
            next_page = region.pages.checked_end().ok_or("a region has too many pages")?;
            spans.push((region.host_address, end));
        }
        spans.sort_unstable();
        if spans.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if end > start)) {
            return Err("regions share addresses");
        }
        if regions.is_empty() { Err("there are no regions") } else { Ok(Self { regions, page }) }
    }

    pub(crate) fn of_ram(ram: &GuestRam) -> Result<Self, &'static str> {
        let layout = ram.layout();
        let regions: Option<Vec<_>> = layout
            .blocks()
            .iter()
            .map(|block| {
                let host_address = ram.host_address(block.first_page)?.as_ptr().addr() as u64;
                Some(ForeignRegion { host_address, pages: block.range() })
            })
            .collect();
        Self::new(&regions.ok_or("a block has no address")?, layout.page_size())
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page
    }

    pub(crate) fn total_pages(&self) -> u64 {
        self.regions.last().and_then(|region| region.pages.checked_end()).unwrap_or(0)
    }

    /// Start and length in bytes of each region.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, u64)> {
        let shift = self.page.shift();
        self.regions.iter().map(move |region| (region.host_address, region.pages.count << shift))
    }

    /// The address of a run of pages that one region holds.
    pub(crate) fn address(&self, range: PageRange) -> Option<u64> {
        let at = self.regions.partition_point(|region| region.pages.start <= range.start);
        let region = self.regions.get(at.checked_sub(1)?)?;
        let inside = range.count > 0 && range.checked_end()? <= region.pages.checked_end()?;
        let offset = (range.start.0 - region.pages.start.0) << self.page.shift();
        inside.then_some(region.host_address + offset)
    }

    /// The page at an address.
    pub(crate) fn page_at(&self, address: u64) -> Option<PageIndex> {
        self.regions.iter().find_map(|region| {
            let page = address.checked_sub(region.host_address)? >> self.page.shift();
            (page < region.pages.count).then(|| PageIndex(region.pages.start.0 + page))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(host_address: u64, start: u64, count: u64) -> ForeignRegion {
        ForeignRegion { host_address, pages: PageRange::new(PageIndex(start), count) }
    }

    #[test]
    fn pages_and_addresses_map_both_ways() {
        let given = [region(0x10_0000, 4, 2), region(0x50_0000, 0, 4)];
        let regions = Regions::new(&given, PageSize::SMALL).unwrap();
        assert_eq!(regions.total_pages(), 6);
        assert_eq!(regions.address(PageRange::new(PageIndex(1), 3)), Some(0x50_1000));
        assert_eq!(regions.address(PageRange::new(PageIndex(3), 2)), None);
        assert_eq!(regions.address(PageRange::new(PageIndex(5), u64::MAX)), None);
        assert_eq!(regions.page_at(0x10_1fff), Some(PageIndex(5)));
        assert_eq!(regions.page_at(0x10_2000), None);
    }

    #[test]
    fn nonsense_from_another_process_is_refused() {
        for bad in [
            vec![],
            vec![region(0x1000, 0, 0)],
            vec![region(0x1001, 0, 1)],
            vec![region(0x1000, 1, 1)],
            vec![region(0x1000, 0, u64::MAX)],
            vec![region(u64::MAX - 0xfff, 0, 2)],
            vec![region(0x1000, 0, 2), region(0x2000, 2, 2)],
            vec![region(0x1000, 0, 2), region(0x9000, 1, 2)],
        ] {
            assert!(Regions::new(&bad, PageSize::SMALL).is_err(), "{bad:?}");
        }
    }
}
