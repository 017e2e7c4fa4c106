//! Memory that is mapped: of a vCPU's descriptor, or a little of its own.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;

/// The page in which KVM counts offsets into a vCPU's descriptor, bytes.
pub(crate) const PAGE_BYTES: usize = 1 << 12;

/// A part of what a vCPU's descriptor shares with this process, which keeps the kernel's side alive; or
/// memory of no file.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; it is only touched through volatile and
// atomic operations.
unsafe impl Send for Mapping {}
// SAFETY: as above; the kernel writes there at any time anyway.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of a vCPU's descriptor from `offset` on.
    pub(crate) fn new(fd: &impl AsRawFd, offset: usize, bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(protection, libc::MAP_SHARED, fd.as_raw_fd(), offset, bytes)
    }

    /// Maps memory of no file, all zero, or memory that nobody may touch.
    pub(crate) fn anonymous(bytes: usize, touchable: bool) -> io::Result<Self> {
        let all = libc::PROT_READ | libc::PROT_WRITE;
        let protection = if touchable { all } else { libc::PROT_NONE };
        Self::map(protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0, bytes)
    }

    fn map(
        protection: i32,
        flags: i32,
        fd: RawFd,
        offset: usize,
        bytes: usize,
    ) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping where the kernel finds room, which replaces none.
        let start = unsafe { libc::mmap(anywhere, bytes, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, bytes })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where a value of type `T` lies in it.
    ///
    /// # Panics
    /// When it does not lie in it whole and aligned: a mistake of ours.
    pub(crate) fn at<T>(&self, offset: usize) -> NonNull<T> {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.bytes);
        assert!(fits, "offset {offset} of {} bytes", self.bytes);
        assert!(offset.is_multiple_of(align_of::<T>()), "offset {offset} is not aligned");
        // SAFETY: the offset lies in the mapping.
        unsafe { self.start.add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
