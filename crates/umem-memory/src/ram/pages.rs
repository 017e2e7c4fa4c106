//! Content of pages, as a migration takes it from a guest that runs, and gives it to one that does not
//! run yet.

use super::{GuestRam, RamError};
use crate::{PageIndex, PageRange};
use std::io;

impl GuestRam {
    fn check_length(&self, range: PageRange, bytes: usize) -> Result<(), RamError> {
        let expected = range.count.saturating_mul(self.layout().page_size().bytes());
        if u64::try_from(bytes) == Ok(expected) {
            return Ok(());
        }
        Err(RamError::Length { pages: range.count, expected, bytes })
    }

    fn no_run(range: PageRange) -> RamError {
        RamError::NoRun { start: range.start, count: range.count }
    }

    /// Copies pages of one block out, whose guest may run and write them meanwhile: a word of 8 bytes
    /// is as before or after a write to it. Reading a page that holds nothing may have the kernel give
    /// it memory: see [`Self::populated`].
    ///
    /// # Errors
    /// When there are no such pages in one block, or the length is not theirs.
    pub fn copy_pages(&self, range: PageRange, into: &mut [u8]) -> Result<(), RamError> {
        let (mapping, offset) = self.run(range)?;
        self.check_length(range, into.len())?;
        if mapping.copy_out(offset, into) { Ok(()) } else { Err(Self::no_run(range)) }
    }

    /// Writes pages of one block.
    ///
    /// # Errors
    /// When there are no such pages in one block, or the length is not theirs.
    pub fn write_pages(&self, range: PageRange, from: &[u8]) -> Result<(), RamError> {
        let (mapping, offset) = self.run(range)?;
        self.check_length(range, from.len())?;
        let written = mapping.copy_in(offset, from);
        self.mark_written(range);
        if written { Ok(()) } else { Err(Self::no_run(range)) }
    }

    /// Sets all bytes of pages of one block. Zeroes hold no memory: they are [`Self::drop_pages`], a
    /// system call that a caller can spare who knows that nothing was written there.
    ///
    /// # Errors
    /// When there are no such pages in one block, or the kernel refuses.
    pub fn fill_pages(&self, range: PageRange, byte: u8) -> Result<(), RamError> {
        if byte == 0 {
            return self.drop_pages(range);
        }
        let (mapping, offset) = self.run(range)?;
        let bytes = usize::try_from(range.count << self.layout().page_size().shift());
        let filled = bytes.is_ok_and(|bytes| mapping.fill(offset, bytes, byte));
        self.mark_written(range);
        if filled { Ok(()) } else { Err(Self::no_run(range)) }
    }

    /// Gives the content of pages of one block back to the host: they read as zero again and hold
    /// nothing. With a userfaultfd registered they are missing again.
    ///
    /// # Errors
    /// When there are no such pages in one block, or the kernel refuses.
    pub fn drop_pages(&self, range: PageRange) -> Result<(), RamError> {
        self.drop_runs(std::iter::once(range))
    }

    /// As [`Self::drop_pages`], for many runs, in order, with as few system calls as can be. A run may
    /// reach over blocks.
    ///
    /// # Errors
    /// As [`Self::drop_pages`]; some of the pages may then have been given back.
    pub fn drop_runs(&self, runs: impl Iterator<Item = PageRange>) -> Result<(), RamError> {
        /// Ranges gathered before the kernel is asked.
        const GATHERED: usize = 4096;
        let mut gathered: Vec<(u64, u64)> = Vec::new();
        let mut block = 0;
        for range in runs {
            let mut rest = range;
            while rest.count > 0 {
                let index = self.layout().index_of(rest.start).ok_or(Self::no_run(range))?;
                let held = self.layout().blocks().get(index).ok_or(Self::no_run(range))?;
                let inside = rest.start.0 - held.first_page.0;
                let count = rest.count.min(held.pages - inside);
                if index != block || gathered.len() == GATHERED {
                    self.drop_gathered(block, &mut gathered)?;
                    block = index;
                }
                let shift = self.layout().page_size().shift();
                gathered.push((inside << shift, count << shift));
                // One that does not exist is refused by the next turn.
                let next = rest.start.0.saturating_add(count);
                rest = PageRange::new(PageIndex(next), rest.count - count);
            }
        }
        self.drop_gathered(block, &mut gathered)
    }

    fn drop_gathered(&self, block: usize, ranges: &mut Vec<(u64, u64)>) -> Result<(), RamError> {
        let failed = |source| RamError::System { what: "give back a part of", source };
        let found = self.layout().blocks().get(block).zip(self.inner.mappings.get(block));
        let (held, mapping) = found.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let dropped = mapping.drop_ranges(ranges).map_err(failed);
        let shift = self.layout().page_size().shift();
        for (offset, bytes) in ranges.drain(..) {
            let start = PageIndex(held.first_page.0 + (offset >> shift));
            self.mark_written(PageRange::new(start, bytes >> shift));
        }
        dropped
    }
}
