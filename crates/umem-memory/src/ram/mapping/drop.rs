//! Giving memory back to the kernel, so that it reads as zero and holds nothing.

use super::{Mapping, bytes};
use crate::ram::MemoryKind;
use rustix::fd::AsRawFd;
use rustix::mm::Advice;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::io;

/// Ranges that one system call takes (`UIO_MAXIOV`).
const MOST_RANGES: usize = 1024;

/// How often memory that the kernel has kept is given back again.
const ATTEMPTS: u32 = 50;

impl Mapping {
    /// Gives a range back. Of a huge page that is given back in part, the bytes become zero.
    pub(super) fn drop_bytes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let Some(alias) = &self.alias else { return self.drop_whole(offset, bytes) };
        let end = offset.saturating_add(bytes);
        let page = self.host_page.bytes();
        let first = offset.checked_next_multiple_of(page).unwrap_or(end).min(end);
        let last = (end / page * page).max(first);
        for (from, to) in [(offset, first), (last, end)] {
            let length = usize::try_from(to - from).map_err(io::Error::other)?;
            if !bytes::zero(alias.as_ptr(), alias.size(), from, length) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        if first < last {
            self.drop_whole(first, last - first)?;
            self.reserve(first, last - first)?;
        }
        Ok(())
    }

    /// Sets huge pages aside again: the hole that was made has given that up too.
    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        use rustix::mm::{MapFlags, ProtFlags};
        let Some(file) = &self.file else { return Ok(()) };
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        // A mapping of shared huge pages sets them aside for the file, which keeps them when it goes.
        // SAFETY: a new mapping where the kernel likes, which nobody knows of.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )
        }?;
        // SAFETY: the mapping just made, as a whole.
        unsafe { rustix::mm::munmap(mapped, length) }?;
        Ok(())
    }

    fn drop_whole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        // Marks for pages that fail live in the mapping alone, and pages of a file in the file.
        self.advise_part(offset, bytes, Advice::LinuxDontNeed)?;
        if self.file.is_some() {
            self.advise_part(offset, bytes, Advice::LinuxRemove)?;
        }
        Ok(())
    }

    /// Gives ranges back, each by its offset and length: as few system calls as can be.
    pub(in crate::ram) fn drop_ranges(&self, ranges: &[(u64, u64)]) -> io::Result<()> {
        if self.file.is_some() {
            for &(offset, bytes) in ranges {
                self.drop_bytes(offset, bytes)?;
                if self.kind == MemoryKind::Shared {
                    self.await_hole(offset, bytes)?;
                }
            }
            return Ok(());
        }
        for batch in ranges.chunks(MOST_RANGES) {
            if batch.len() == 1 || !self.drop_at_once(batch) {
                // Those that were given back already are so again.
                batch.iter().try_for_each(|&(offset, bytes)| self.drop_bytes(offset, bytes))?;
            }
        }
        Ok(())
    }

    /// Gives ranges of anonymous memory back by one call; whether it gave back all (Linux 6.13).
    fn drop_at_once(&self, ranges: &[(u64, u64)]) -> bool {
        let inside = |&(offset, bytes): &(u64, u64)| self.part(offset, bytes).ok();
        let Some(parts) = ranges.iter().map(inside).collect::<Option<Vec<_>>>() else {
            return false;
        };
        let Ok(process) = pidfd_open(getpid(), PidfdFlags::empty()) else { return false };
        let vector: Vec<libc::iovec> = parts
            .iter()
            .map(|&(start, bytes)| libc::iovec { iov_base: start.cast(), iov_len: bytes })
            .collect();
        let wanted: usize = parts.iter().map(|part| part.1).sum();
        // SAFETY: parts of our own mapping only, whose content may be dropped: see `advise`.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                vector.as_ptr(),
                vector.len(),
                libc::MADV_DONTNEED,
                0,
            )
        };
        usize::try_from(done) == Ok(wanted)
    }

    /// A huge page that somebody holds is not split by making a hole: its bytes become zero, but it
    /// stays in the file. Who holds it lets go soon.
    fn await_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let mut used = false;
            self.populated(offset, offset + bytes, &mut |_, _| used = true)?;
            if !used {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.drop_whole(offset, bytes)?;
        }
        Err(io::Error::other(format!("{bytes} bytes stay in its file (memory in use elsewhere)")))
    }
}
