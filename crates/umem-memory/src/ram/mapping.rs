//! What touches mapped memory and the kernel's view of it. All unsafe code of this crate is here and in
//! `pagemap`.
#![allow(unsafe_code)]

use super::MemoryKind;
use super::backend::Opened;
use crate::dirty::BlockMarks;
use crate::{PageSize, RamBlock};
use rustix::mm::{Advice, MprotectFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion};

mod bytes;
mod drop;
mod frozen;
mod populated;
pub use frozen::FrozenRam;

/// `PROT_READ | PROT_WRITE`, of the numbers that vm-memory takes.
const READ_WRITE: i32 = 0b11;

/// One block of RAM.
pub(super) struct Mapping {
    region: Arc<MmapRegion<BlockMarks>>,
    /// The memory's file, if it has one.
    file: Option<Arc<File>>,
    /// The same memory once more, where its file cannot be written but through a mapping: for pages that
    /// arrive, which must not be seen in `region` before a host page is whole.
    alias: Option<MmapRegion<()>>,
    kind: MemoryKind,
    host_page: PageSize,
}

impl Mapping {
    pub(super) fn new(block: &RamBlock, opened: Opened, marks: BlockMarks) -> io::Result<Self> {
        use rustix::mm::MapFlags;
        let Opened { file, kind, host_page } = opened;
        let file = file.map(Arc::new);
        let too_large = || io::Error::other("it does not fit into this process");
        let bytes = usize::try_from(block.bytes()).map_err(|_| too_large())?;
        let flags = match kind {
            MemoryKind::Anonymous => MapFlags::PRIVATE | ANONYMOUS | MapFlags::NORESERVE,
            MemoryKind::Shared | MemoryKind::Disk => MapFlags::SHARED | MapFlags::NORESERVE,
            // Set aside now: a page that is missing later ends the process.
            MemoryKind::Huge => MapFlags::SHARED,
        };
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let mut builder = MmapRegionBuilder::new_with_bitmap(bytes, marks)
            .with_mmap_prot(READ_WRITE)
            .with_mmap_flags(flags);
        if let Some(file) = &file {
            builder = builder.with_file_offset(FileOffset::from_arc(file.clone(), 0));
        }
        let region = Arc::new(builder.build().map_err(io::Error::other)?);
        let alias = match &file {
            Some(file) if kind == MemoryKind::Huge => {
                let builder = MmapRegionBuilder::new(bytes)
                    .with_mmap_prot(READ_WRITE)
                    .with_mmap_flags(flags)
                    .with_file_offset(FileOffset::from_arc(file.clone(), 0));
                Some(builder.build().map_err(io::Error::other)?)
            }
            _ => None,
        };
        let mapping = Self { region, file, alias, kind, host_page };
        // A forked child has no use for RAM, and copy-on-write marks would slow us down.
        mapping.advise(Advice::LinuxDontFork)?;
        Ok(mapping)
    }

    pub(super) fn region(&self) -> Arc<MmapRegion<BlockMarks>> {
        self.region.clone()
    }

    /// The address at an offset; `None` behind the end.
    pub(super) fn address(&self, offset: u64) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok().filter(|&offset| offset < self.region.size())?;
        NonNull::new(self.region.as_ptr().wrapping_add(offset))
    }

    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn put_in_file(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(alias) = &self.alias {
            let written = bytes::copy_in(alias.as_ptr(), alias.size(), offset, bytes);
            return if written { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) };
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        file.write_all_at(bytes, offset)
    }

    pub(super) fn touch_in_file(&self, offset: u64) -> io::Result<()> {
        let alias = self.alias.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let touched = bytes::touch(alias.as_ptr(), alias.size(), offset);
        if touched { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Takes a part out of the map; its content stays in the file.
    pub(super) fn unmap(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if self.file.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.advise_part(offset, bytes, Advice::LinuxDontNeed)
    }

    pub(super) fn clear(&self) -> io::Result<()> {
        self.drop_bytes(0, self.region.size() as u64)
    }

    /// Address and length of a part, for the kernel.
    fn part(&self, offset: u64, bytes: u64) -> io::Result<(*mut u8, usize)> {
        let (Ok(start), Ok(bytes)) = (usize::try_from(offset), usize::try_from(bytes)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let inside = start.checked_add(bytes).is_some_and(|end| end <= self.region.size());
        if !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((self.region.as_ptr().wrapping_add(start), bytes))
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_part(0, self.region.size() as u64, advice)
    }

    fn advise_part(&self, offset: u64, bytes: u64, advice: Advice) -> io::Result<()> {
        let (start, bytes) = self.part(offset, bytes)?;
        // SAFETY: a part of our own mapping. The advice given here drops content, which for memory
        // that is only read and written through raw pointers is no more than a write of zeroes.
        unsafe { rustix::mm::madvise(start.cast(), bytes, advice) }?;
        Ok(())
    }

    pub(super) fn populate(&self) -> io::Result<()> {
        self.advise(Advice::LinuxPopulateWrite)
    }

    /// `MADV_COLLAPSE` (Linux 6.1).
    pub(super) fn collapse(&self, offset: u64, bytes: u64) -> bool {
        const COLLAPSE: i32 = 25;
        let Ok((start, bytes)) = self.part(offset, bytes) else { return false };
        // SAFETY: a part of our own mapping, whose content stays as it is.
        let result = unsafe { libc::madvise(start.cast(), bytes, COLLAPSE) };
        result == 0
    }

    pub(super) fn huge_pages(&self) -> io::Result<()> {
        self.advise(Advice::LinuxHugepage)
    }

    #[cfg(test)]
    pub(super) fn small_pages(&self) -> io::Result<()> {
        self.advise(Advice::LinuxNoHugepage)
    }

    /// Changes access in steps, so that page faults elsewhere in the process wait for one step at
    /// most: the kernel holds the address space's lock over each. A step is no less than a huge page,
    /// which would be split.
    fn protect(&self, access: MprotectFlags) -> io::Result<()> {
        const STEP: usize = 2 << 20;
        let bytes = self.region.size();
        let step = STEP.max(self.host_page.len());
        for from in (0..bytes).step_by(step) {
            let start = self.region.as_ptr().wrapping_add(from).cast();
            // SAFETY: a part of our own mapping, which stays readable; taking the right to write away
            // ends a writer by a signal at worst, and giving it back returns to how it was made.
            unsafe { rustix::mm::mprotect(start, step.min(bytes - from), access) }?;
        }
        Ok(())
    }
}

/// `MAP_ANONYMOUS`, which rustix keeps to itself.
const ANONYMOUS: rustix::mm::MapFlags = rustix::mm::MapFlags::from_bits_retain(0x20);
