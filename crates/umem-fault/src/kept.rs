//! Pages that came before they were watched, and pages that are taken away again.

use crate::error::FaultError;
use crate::granules::Granules;
use crate::placement::{Place, Placement};
use crate::plane::FaultPlane;
use crate::regions::Regions;
use crate::state::Withdrawal;
use crate::table::PageTable;
use crate::uffd::{Partial, Userfaultfd};
use rustix::io::Errno;
use std::sync::Arc;
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange, RamError};

impl FaultPlane {
    /// Watches RAM that holds some pages already: those whose bit is set stay as they are, whether
    /// they were written or read as zero because nobody did. All others are missing from now on;
    /// whatever they held is given back. Nothing may use RAM meanwhile.
    ///
    /// # Errors
    /// As [`Self::for_ram_placed`], and when the bitmap is not of this RAM. What RAM holds is void
    /// then.
    pub fn for_ram_keeping(
        ram: &GuestRam,
        placed: &PageBitmap,
        placement: Placement,
    ) -> Result<Arc<Self>, FaultError> {
        Self::for_ram_keeping_with(ram, Userfaultfd::open()?, placed, placement)
    }

    /// As [`Self::for_ram_keeping`], with a userfaultfd of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::for_ram_keeping`].
    pub fn for_ram_keeping_with(
        ram: &GuestRam,
        uffd: Userfaultfd,
        placed: &PageBitmap,
        placement: Placement,
    ) -> Result<Arc<Self>, FaultError> {
        let (pages, given) = (ram.layout().total_pages(), placed.pages());
        if pages != given {
            return Err(FaultError::Bitmap { pages, given });
        }
        let regions = Regions::of_ram(ram).map_err(FaultError::Regions)?;
        let place = Place::new(placement, ram, uffd.features())?;
        for (start, bytes) in regions.spans() {
            let failed = |error: Errno| FaultError::Register { bytes, error: error.into() };
            let registered = match place {
                Place::Copy => uffd.register(start, bytes),
                Place::Cache { .. } => uffd.register_minor(start, bytes),
            };
            registered.map_err(failed)?;
        }
        // Given back once it is watched: from now on the kernel puts nothing there by itself, be it
        // the rest of a huge page or one that it joins from small ones.
        let missing = PageBitmap::new(pages);
        missing.set(PageRange::new(PageIndex(0), pages));
        missing.and_not(placed);
        ram.drop_runs(missing.runs())?;
        let table = PageTable::with_present(placed);
        let mut plane = Self::new(uffd, regions, table, place, Some(ram.clone()));
        plane.granules = Granules::of_ram(ram, placed);
        plane.hide_parts(ram, placed)?;
        if !plane.place.in_cache() {
            plane.map_zeroes(ram, placed)?;
        }
        Ok(Arc::new(plane))
    }

    /// Maps zeroes where pages that are there were never written: to the kernel they are missing.
    /// (Where pages are placed in a file it is done when they are touched.)
    fn map_zeroes(&self, ram: &GuestRam, placed: &PageBitmap) -> Result<(), FaultError> {
        let hollow = placed.clone();
        for used in ram.populated(PageRange::new(PageIndex(0), placed.pages()))? {
            hollow.clear(used);
        }
        for run in hollow.runs() {
            let mut from = run.start.0;
            let end = run.start.0 + run.count;
            while from < end {
                from = self.map_zeroes_from(ram, from, end)?;
            }
        }
        Ok(())
    }

    /// Maps zeroes from a page on, up to the end of the run or its block; where it got to.
    fn map_zeroes_from(&self, ram: &GuestRam, from: u64, end: u64) -> Result<u64, FaultError> {
        let start = PageIndex(from);
        let no_pages = || FaultError::NoPages(PageRange::new(start, end - from));
        let block = ram.layout().block_of(start).ok_or_else(no_pages)?;
        let end = end.min(block.first_page.0 + block.pages);
        let range = PageRange::new(start, end - from);
        let address = self.regions.address(range).ok_or_else(no_pages)?;
        let shift = self.regions.page_size().shift();
        match self.uffd()?.zero(address, range.count << shift) {
            Ok(()) => Ok(end),
            // It was read before: zeroes are mapped there.
            Err(Partial { done, error: Errno::EXIST }) => Ok(from + (done >> shift) + 1),
            Err(Partial { done, error }) => {
                let page = PageIndex(from + (done >> shift));
                Err(FaultError::Install { page, error: error.into() })
            }
        }
    }

    /// Takes pages of a range away that are there: they are missing again, and their memory is given
    /// back, as if they had never come. Pages that the source could not read, or whose content did not
    /// matter, are missing again too; those that are not here stay as they are. How many were taken.
    ///
    /// Only while nothing uses RAM: neither the guest nor a device runs, and nobody installs these
    /// pages.
    ///
    /// # Errors
    /// When there are no such pages, the memory is another process's, somebody installs one of them
    /// (those before it are taken away, those behind it not), or the kernel refuses. After a refusal
    /// the pages are missing to the table, but memory may hold them: the plane is of no more use.
    pub fn withdraw(&self, range: PageRange) -> Result<u64, FaultError> {
        self.withdraw_all(&[range])
    }

    /// As [`Self::withdraw`], for many ranges at once: cheaper than one by one.
    ///
    /// # Errors
    /// As [`Self::withdraw`]. With a range that does not exist nothing is taken away.
    pub fn withdraw_all(&self, ranges: &[PageRange]) -> Result<u64, FaultError> {
        let ram = self.ram.as_ref().ok_or(FaultError::Foreign)?;
        let total = self.table.pages();
        let outside = |range: &&PageRange| range.checked_end().is_none_or(|end| end > total);
        if let Some(range) = ranges.iter().find(outside) {
            return Err(FaultError::NoPages(*range));
        }
        // Closed, memory is no longer watched: it would read as zeroes.
        let _watched = self.uffd()?;
        if let Some(granules) = &self.granules {
            return self.withdraw_parts(granules, ram, ranges);
        }
        let mut begun: Vec<PageRange> = Vec::new();
        let mut busy = None;
        for page in ranges.iter().flat_map(|range| range.pages()) {
            match self.table.begin_withdraw(page) {
                Withdrawal::Absent => {}
                Withdrawal::Begun => match begun.last_mut() {
                    Some(last) if last.checked_end() == Some(page.0) => last.count += 1,
                    _ => begun.push(PageRange::one(page)),
                },
                Withdrawal::Busy => {
                    busy = Some(page);
                    break;
                }
            }
        }
        let dropped = ram.drop_runs(begun.iter().copied());
        let taken = begun.iter().flat_map(|run| run.pages());
        let count = taken.inspect(|page| self.table.finish_withdraw(*page)).count();
        dropped.map_err(|error: RamError| FaultError::Ram(error))?;
        match busy {
            Some(page) => Err(FaultError::Busy { page }),
            None => Ok(count as u64),
        }
    }
}
