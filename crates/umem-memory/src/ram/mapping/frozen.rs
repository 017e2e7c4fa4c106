//! RAM that nobody writes any more.

use super::super::{GuestRam, RamError};
use crate::PageRange;
use rustix::io::Errno;
use rustix::mm::{Advice, MprotectFlags};

/// RAM at rest: while the owner keeps its promise, content can be borrowed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrozenRam {
    ram: GuestRam,
}

impl GuestRam {
    /// RAM as it will stay.
    ///
    /// # Safety
    /// Nobody writes RAM while the value or a clone of it lives: neither vCPUs nor devices nor
    /// the kernel for them, through no mapping.
    #[must_use]
    pub unsafe fn freeze(&self) -> FrozenRam {
        FrozenRam { ram: self.clone() }
    }

    /// Whether the hardware gives all bytes of pages of one block. Touching a page that it has lost
    /// ends the process; asking for it with `MADV_POPULATE_READ` does not. A kernel without it is
    /// believed. The guest may run.
    #[must_use]
    pub fn is_readable(&self, range: PageRange) -> bool {
        let Ok((mapping, offset)) = self.run(range) else { return false };
        let bytes = range.count << self.layout().page_size().shift();
        let Ok(part) = mapping.part(offset, bytes) else { return false };
        // SAFETY: populating pages for reading changes no content, and the mapping outlives the call.
        let result =
            unsafe { rustix::mm::madvise(part.0.cast(), part.1, Advice::LinuxPopulateRead) };
        !matches!(result, Err(Errno::HWPOISON | Errno::FAULT))
    }
}

impl FrozenRam {
    #[cfg(test)]
    pub(in crate::ram) fn for_test(ram: &GuestRam) -> Self {
        // SAFETY: the tests borrow content only between their writes.
        unsafe { ram.freeze() }
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The bytes of pages of one block; `None` when there are no such pages in one block.
    #[must_use]
    pub fn slice(&self, range: PageRange) -> Option<&[u8]> {
        if !self.ram.layout().holds(range) {
            return None;
        }
        let bytes = usize::try_from(range.count << self.ram.layout().page_size().shift()).ok()?;
        let start = self.ram.host_address(range.start)?;
        // SAFETY: pages of one block follow each other in one mapping, which lives as long as
        // `self` does; all bytes are initialised (by zero) and nobody writes: see `freeze`.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// See [`GuestRam::is_readable`].
    #[must_use]
    pub fn is_readable(&self, range: PageRange) -> bool {
        self.ram.is_readable(range)
    }

    /// See [`GuestRam::populated`].
    ///
    /// # Errors
    /// When there are no such pages, or the kernel does not tell.
    pub fn populated(&self, range: PageRange) -> Result<Vec<PageRange>, RamError> {
        self.ram.populated(range)
    }

    /// Makes the promise hold in this process: who writes RAM from now on is ended by a signal.
    /// Takes about 10 ms a GiB; page faults meanwhile wait for a small part of it at most.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn protect(&self) -> Result<(), RamError> {
        self.ram.each("protect", |mapping| mapping.protect(MprotectFlags::READ))
    }

    /// Takes [`Self::protect`] back, before the guest goes on here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unprotect(&self) -> Result<(), RamError> {
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        self.ram.each("unprotect", |mapping| mapping.protect(access))
    }
}
