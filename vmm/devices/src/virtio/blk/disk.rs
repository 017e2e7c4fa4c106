//! The file behind a disk: its lock, vectored input and output on guest memory, holes and zeroes.
#![allow(unsafe_code)]

use crate::virtio::chain::RamSlice;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use vm_memory::bitmap::Bitmap;

/// Bytes of a sector, whatever the disk is.
pub(super) const SECTOR: u64 = 512;
/// Most pieces that the system takes in one call.
const MOST_PIECES: usize = 1024;

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
/// Written where the file system has nothing better.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No such file.
    #[error("disk {path:?} does not exist; create it first, for instance with truncate -s 64M")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Its size is not one of a disk.
    #[error("disk {path:?} has {bytes} bytes, which is no multiple of 512; extend it to one")]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another VM has it.
    #[error("disk {path:?} is locked by another process; stop that, or open both read-only")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses something.
    #[error("cannot {what} disk {path:?}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

/// An open disk. Its file is touched only between [`Disk::lock`] and [`Disk::unlock`]: at a move both
/// ends have it open, and the lock passes from one to the other with the right to run the guest.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    sectors: u64,
    read_only: bool,
    /// Whether this process has the lock. Held for reading during every access, so that an unlock
    /// waits for one under way.
    locked: RwLock<bool>,
}

impl Disk {
    /// Opens a disk without locking it.
    ///
    /// # Errors
    /// When the file cannot be opened or is not one of whole sectors.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let path = path.to_owned();
        let opened = OpenOptions::new().read(true).write(!read_only).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DiskError::Missing { path });
            }
            Err(error) => return Err(DiskError::System { what: "open", path, error }),
        };
        // Seeking finds the size of a block device as well.
        let bytes = match io::Seek::seek(&mut &file, io::SeekFrom::End(0)) {
            Ok(bytes) => bytes,
            Err(error) => return Err(DiskError::System { what: "find the size of", path, error }),
        };
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError::Size { path, bytes });
        }
        let sectors = bytes / SECTOR;
        Ok(Self { path, file, sectors, read_only, locked: RwLock::new(false) })
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it is never written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Takes the lock: shared when the disk is read-only, else exclusive. Does not wait for it.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock(&self) -> Result<(), DiskError> {
        let mut locked = self.locked.write().unwrap_or_else(PoisonError::into_inner);
        let kind = if self.read_only { libc::F_RDLCK } else { libc::F_WRLCK };
        self.set_lock(kind)?;
        *locked = true;
        Ok(())
    }

    /// Gives the lock up. Waits for an access under way; none comes after. What was written is on the
    /// disk before: whoever takes the lock next may be another host.
    ///
    /// # Errors
    /// When the system refuses it; the file is not touched any more all the same.
    pub fn unlock(&self) -> Result<(), DiskError> {
        let mut locked = self.locked.write().unwrap_or_else(PoisonError::into_inner);
        let written = if self.read_only { Ok(()) } else { self.file.sync_data() };
        *locked = false;
        self.set_lock(libc::F_UNLCK)?;
        written.map_err(|error| DiskError::System { what: "flush", path: self.path.clone(), error })
    }

    /// Whether this process has the lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        *self.locked.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open file description's lock: it is not lost when another descriptor of the file is
    /// closed, as a process's lock would be.
    fn set_lock(&self, kind: i32) -> Result<(), DiskError> {
        let system = |error| DiskError::System { what: "lock", path: self.path.clone(), error };
        let l_type = i16::try_from(kind).map_err(|error| system(io::Error::other(error)))?;
        let whence = i16::try_from(libc::SEEK_SET);
        let l_whence = whence.map_err(|error| system(io::Error::other(error)))?;
        let lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
        // SAFETY: the descriptor is open as long as `self.file` lives, and F_OFD_SETLK only reads
        // the `flock` that the pointer is valid for.
        let result =
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Err(DiskError::Locked { path: self.path.clone() }),
            _ => Err(system(error)),
        }
    }

    fn access(&self) -> io::Result<RwLockReadGuard<'_, bool>> {
        let locked = self.locked.read().unwrap_or_else(PoisonError::into_inner);
        if *locked { Ok(locked) } else { Err(io::Error::other("the disk is not locked")) }
    }

    fn access_to_write(&self) -> io::Result<RwLockReadGuard<'_, bool>> {
        let access = self.access()?;
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(access) }
    }

    /// Has every access wait until the guard is gone.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> std::sync::RwLockWriteGuard<'_, bool> {
        self.locked.write().unwrap()
    }

    /// Reads from the byte at `offset` on until the slices are full.
    pub(super) fn read(&self, offset: u64, slices: &[RamSlice<'_>]) -> io::Result<()> {
        let _access = self.access()?;
        let result = transfer(offset, slices, |pieces, count, offset| {
            // SAFETY: `transfer` gives `count` pieces, each of guest memory that is mapped for
            // writing as long as the slices live; to the program it is volatile.
            unsafe { libc::preadv(self.file.as_raw_fd(), pieces, count, offset) }
        });
        // The kernel wrote through plain pointers: the dirty marks are ours to set, after it, and
        // of all slices, for what failed may have filled a part.
        slices.iter().for_each(|slice| slice.bitmap().mark_dirty(0, slice.len()));
        result
    }

    /// Writes all slices from the byte at `offset` on.
    pub(super) fn write(&self, offset: u64, slices: &[RamSlice<'_>]) -> io::Result<()> {
        let _access = self.access_to_write()?;
        transfer(offset, slices, |pieces, count, offset| {
            // SAFETY: as in `read`; the memory is only read.
            unsafe { libc::pwritev(self.file.as_raw_fd(), pieces, count, offset) }
        })
    }

    /// Gives up what the range holds, if the file can; it reads as zeroes or as before.
    pub(super) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let _access = self.access_to_write()?;
        match self.allocate(PUNCH_HOLE, offset, bytes) {
            // A discard is a hint. Files without holes, ranges that are no whole blocks.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                Ok(())
            }
            result => result,
        }
    }

    /// Makes the range read as zeroes, in a hole if `unmap` and the file has holes.
    pub(super) fn write_zeroes(&self, offset: u64, bytes: u64, unmap: bool) -> io::Result<()> {
        let _access = self.access_to_write()?;
        if unmap && self.allocate(PUNCH_HOLE, offset, bytes).is_ok()
            || self.allocate(ZERO_RANGE, offset, bytes).is_ok()
        {
            return Ok(());
        }
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let count = (end - at).min(ZEROES.len() as u64);
            self.file.write_all_at(ZEROES.get(..count as usize).unwrap_or_default(), at)?;
            at += count;
        }
        Ok(())
    }

    /// The file keeps its size.
    fn allocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
        loop {
            // SAFETY: the descriptor is open as long as `self.file` lives; no memory is involved.
            let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, bytes) };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Has what was written reach the storage.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _access = self.access()?;
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }
}

/// Calls `call` until all bytes of the slices are through.
fn transfer(
    mut offset: u64,
    slices: &[RamSlice<'_>],
    call: impl Fn(*const libc::iovec, i32, i64) -> isize,
) -> io::Result<()> {
    let guards: Vec<_> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
    let mut index = 0;
    let mut skip = 0;
    while let Some(first) = guards.get(index) {
        if skip >= first.len() {
            index += 1;
            skip = 0;
            continue;
        }
        let rest = guards.get(index..).unwrap_or_default().iter().take(MOST_PIECES);
        let pieces: Vec<libc::iovec> = rest
            .enumerate()
            .map(|(at, guard)| {
                let skip = if at == 0 { skip } else { 0 };
                // Within the slice: `skip` is less than its length.
                let base = guard.as_ptr().wrapping_add(skip);
                libc::iovec { iov_base: base.cast(), iov_len: guard.len() - skip }
            })
            .collect();
        let count = i32::try_from(pieces.len()).map_err(io::Error::other)?;
        let at = i64::try_from(offset).map_err(io::Error::other)?;
        let done = match usize::try_from(call(pieces.as_ptr(), count, at)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => done,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
        };
        offset += done as u64;
        skip += done;
        while let Some(guard) = guards.get(index).filter(|guard| skip >= guard.len()) {
            skip -= guard.len();
            index += 1;
        }
    }
    Ok(())
}
