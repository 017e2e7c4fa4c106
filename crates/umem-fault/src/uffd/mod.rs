//! userfaultfd: the only module that knows it.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::io;

mod abi;
mod open;
pub use open::OpenError;

/// A set of the kernel's `UFFD_FEATURE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Missing pages of hugetlb memory.
    pub const MISSING_HUGETLBFS: Self = Self(1 << 4);
    /// Missing pages of shared memory.
    pub const MISSING_SHMEM: Self = Self(1 << 5);
    /// A thread that touches a missing page gets a signal, or an error from its system call; nobody is told
    /// of the fault.
    pub const SIGBUS: Self = Self(1 << 7);
    /// The thread that faults is told.
    pub const THREAD_ID: Self = Self(1 << 8);
    /// Pages in a file on hugetlbfs that are not mapped.
    pub const MINOR_HUGETLBFS: Self = Self(1 << 9);
    /// Pages in a shared file that are not mapped.
    pub const MINOR_SHMEM: Self = Self(1 << 10);
    /// The address is told to the byte.
    pub const EXACT_ADDRESS: Self = Self(1 << 11);
    /// Pages never touched can be write-protected.
    pub const WP_UNPOPULATED: Self = Self(1 << 13);
    /// Pages can be made to fail (`UFFDIO_POISON`).
    pub const POISON: Self = Self(1 << 14);
    /// Writes are noted without anybody waiting.
    pub const WP_ASYNC: Self = Self(1 << 15);

    /// All that this or a later move, checkpoints and write tracking can use: features are fixed
    /// once.
    pub const WANTED: Self = Self(
        Self::MISSING_HUGETLBFS.0
            | Self::MISSING_SHMEM.0
            | Self::THREAD_ID.0
            | Self::MINOR_HUGETLBFS.0
            | Self::MINOR_SHMEM.0
            | Self::EXACT_ADDRESS.0
            | Self::WP_UNPOPULATED.0
            | Self::POISON.0
            | Self::WP_ASYNC.0,
    );

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A page fault as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultEvent {
    /// Where.
    pub address: u64,
    /// The thread, with [`Features::THREAD_ID`].
    pub thread: u32,
}

/// An operation that did not go through to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    /// Bytes that were done.
    pub(crate) done: u64,
    /// Why not the rest.
    pub(crate) error: Errno,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    features: Features,
    user_mode_only: bool,
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Userfaultfd {
    /// One made elsewhere, its features agreed there.
    #[must_use]
    pub fn from_received(fd: OwnedFd, features: Features) -> Self {
        Self { fd, features, user_mode_only: false }
    }

    /// What the kernel does for it.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether system calls that touch a missing page fail with `EFAULT` instead of waiting. Not
    /// known of one that was received.
    #[must_use]
    pub fn user_mode_only(&self) -> bool {
        self.user_mode_only
    }

    fn call<T>(&self, request: u64, argument: &mut T) -> rustix::io::Result<()> {
        call(self.fd.as_fd(), request, argument)
    }

    /// Takes over the missing pages of a range.
    pub(crate) fn register(&self, start: u64, len: u64) -> rustix::io::Result<()> {
        self.register_for(abi::REGISTER_MISSING, start, len)
    }

    /// Takes over the missing pages of a range of shared memory, and those that are there but not
    /// mapped.
    pub(crate) fn register_minor(&self, start: u64, len: u64) -> rustix::io::Result<()> {
        self.register_for(abi::REGISTER_MISSING | abi::REGISTER_MINOR, start, len)
    }

    /// Makes the pages of a range ones that can be write-protected; no longer told when missing.
    pub(crate) fn register_writes(&self, start: u64, len: u64) -> rustix::io::Result<()> {
        self.register_for(abi::REGISTER_WRITE_PROTECT, start, len)
    }

    fn register_for(&self, mode: u64, start: u64, len: u64) -> rustix::io::Result<()> {
        let range = abi::Range { start, len };
        self.call(abi::UFFDIO_REGISTER, &mut abi::Register { range, mode, ioctls: 0 })
    }

    /// Gives a range back to the kernel; threads that wait in it go on and find zeroes.
    pub(crate) fn unregister(&self, start: u64, len: u64) -> rustix::io::Result<()> {
        self.call(abi::UFFDIO_UNREGISTER, &mut abi::Range { start, len })
    }

    /// Lets threads that wait in a range look again.
    pub(crate) fn wake(&self, start: u64, len: u64) -> rustix::io::Result<()> {
        self.call(abi::UFFDIO_WAKE, &mut abi::Range { start, len })
    }

    /// Puts bytes in place and wakes who waits for them.
    pub(crate) fn copy(&self, start: u64, bytes: &[u8]) -> Result<(), Partial> {
        let source = bytes.as_ptr().addr() as u64;
        self.repeat(start, bytes.len() as u64, |dst, len| {
            let src = source + (dst - start);
            let mut argument = abi::Copy { dst, src, len, mode: 0, copy: 0 };
            (self.call(abi::UFFDIO_COPY, &mut argument), argument.copy)
        })
    }

    /// Puts zeroes in place and wakes who waits for them. Not for hugetlb memory.
    pub(crate) fn zero(&self, start: u64, len: u64) -> Result<(), Partial> {
        self.fill(abi::UFFDIO_ZEROPAGE, start, len)
    }

    /// Maps pages that are in the memory's file, and wakes who waits for them.
    pub(crate) fn map(&self, start: u64, len: u64) -> Result<(), Partial> {
        self.fill(abi::UFFDIO_CONTINUE, start, len)
    }

    /// Makes pages fail for whoever touches them.
    pub(crate) fn poison(&self, start: u64, len: u64) -> Result<(), Partial> {
        self.fill(abi::UFFDIO_POISON, start, len)
    }

    fn fill(&self, request: u64, start: u64, len: u64) -> Result<(), Partial> {
        self.repeat(start, len, |start, len| {
            let range = abi::Range { start, len };
            let mut argument = abi::Fill { range, mode: 0, done: 0 };
            (self.call(request, &mut argument), argument.done)
        })
    }

    /// Repeats a call that may do a part only, until all is done or it fails for good.
    fn repeat(
        &self,
        start: u64,
        len: u64,
        mut call: impl FnMut(u64, u64) -> (rustix::io::Result<()>, i64),
    ) -> Result<(), Partial> {
        let mut done = 0;
        while done < len {
            match call(start + done, len - done) {
                (Ok(()), _) => return Ok(()),
                (Err(Errno::AGAIN), part) => match u64::try_from(part) {
                    Ok(part) if part > 0 => done += part,
                    // The address space is being changed: it is done with that in a moment.
                    _ => std::thread::yield_now(),
                },
                (Err(Errno::INTR), _) => {}
                (Err(error), _) => return Err(Partial { done, error }),
            }
        }
        Ok(())
    }

    /// Reads events until there are none or `at_most` were read; adds the page faults to `events`.
    pub(crate) fn read_events(
        &self,
        events: &mut Vec<FaultEvent>,
        at_most: usize,
    ) -> io::Result<()> {
        let mut messages = [abi::Message::default(); 64];
        while events.len() < at_most {
            // SAFETY: the buffer is of plain integers, all of whose values are valid, and the
            // kernel writes no more than its length.
            let read = unsafe {
                libc::read(
                    self.fd.as_raw_fd(),
                    messages.as_mut_ptr().cast(),
                    size_of_val(&messages),
                )
            };
            let Ok(read) = usize::try_from(read) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = read / size_of::<abi::Message>();
            for message in messages.iter().take(count) {
                if message.event == abi::EVENT_PAGEFAULT {
                    let (address, thread) = (message.address, message.thread);
                    events.push(FaultEvent { address, thread });
                }
            }
        }
        Ok(())
    }
}

fn call<T>(fd: BorrowedFd<'_>, request: u64, argument: &mut T) -> rustix::io::Result<()> {
    // SAFETY: `request` carries the size of its structure, which its constant was made with, and
    // callers pass that structure. What the kernel does to memory on our behalf is to fill
    // missing pages of registered ranges: no reference can have seen those before.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, &raw mut *argument) };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Owns a descriptor that a call just gave.
fn own(fd: i64) -> rustix::io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| Errno::INVAL)?;
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
