//! Memory that a userfaultfd watches, to be filled by `UFFDIO_COPY` (Linux, `userfaultfd(2)`).
#![allow(unsafe_code)]

use std::{ffi::c_void, os::fd::OwnedFd, ptr};

use anyhow::{Context as _, Result, ensure};
#[cfg(target_arch = "x86_64")]
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    time::Timespec,
};
use rustix::{
    ioctl::{self, Updater, opcode},
    mm::{self, MapFlags, ProtFlags, UserfaultfdFlags},
};

/// `struct uffdio_api`
#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Range {
    start: u64,
    bytes: u64,
}

/// `struct uffdio_register`
#[repr(C)]
#[derive(Default)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`
#[repr(C)]
#[derive(Default)]
struct Copy {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    copied: i64,
}

const _: () = assert!(size_of::<Api>() == 24);
const _: () = assert!(size_of::<Register>() == 32);
const _: () = assert!(size_of::<Copy>() == 40);

const UFFD_API: u64 = 0xaa;
const REGISTER_MISSING: u64 = 1;
const USER_MODE_ONLY: u32 = 1;
/// `struct uffd_msg`: its length, the event's first byte, and where a page fault has its address.
#[cfg(target_arch = "x86_64")]
mod message {
    pub(super) const BYTES: usize = 32;
    pub(super) const PAGE_FAULT: u8 = 0x12;
    pub(super) const ADDRESS: std::ops::Range<usize> = 16..24;
}

/// Memory that is unmapped in the end.
struct Memory {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the mapping is this value's alone, and munmap may be called from any thread.
unsafe impl Send for Memory {}
// SAFETY: by reference it only tells where it lies; nothing here reads or writes what it holds.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), bytes, protection, flags) };
        Ok(Self { start: start.context("no memory for the measurement of UFFDIO_COPY")?, bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing refers to it any more.
        let _ = unsafe { mm::munmap(self.start, self.bytes) };
    }
}

/// Whose faults a userfaultfd hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Faults {
    /// Those of programs: nobody may be forbidden to.
    User,
    /// The kernel's as well, as KVM takes them for its guests.
    Kernel,
}

/// Memory without pages, and the userfaultfd that can place them.
pub(super) struct Watched {
    file: OwnedFd,
    // Dropped behind the userfaultfd: that watches no memory that is gone.
    memory: Memory,
}

fn open(faults: Faults) -> Result<OwnedFd> {
    let only = if faults == Faults::User { USER_MODE_ONLY } else { 0 };
    let flags = UserfaultfdFlags::CLOEXEC
        | UserfaultfdFlags::NONBLOCK
        | UserfaultfdFlags::from_bits_retain(only);
    // SAFETY: a userfaultfd without registered memory affects none.
    let file = unsafe { mm::userfaultfd(flags) };
    let file = file.context("no userfaultfd")?;
    let mut api = Api { api: UFFD_API, ..Api::default() };
    // SAFETY: UFFDIO_API reads and writes a struct uffdio_api, which this is.
    let call = unsafe { Updater::<{ opcode::read_write::<Api>(0xaa, 0x3f) }, Api>::new(&mut api) };
    // SAFETY: the call is the one above, on a userfaultfd.
    unsafe { ioctl::ioctl(&file, call) }.context("UFFDIO_API")?;
    Ok(file)
}

impl Watched {
    pub(super) fn new(bytes: usize, faults: Faults) -> Result<Self> {
        let memory = Memory::new(bytes)?;
        let file = open(faults)?;
        let (start, bytes) = (memory.start as u64, bytes as u64);
        let mut register = Register { start, bytes, mode: REGISTER_MISSING, ..Register::default() };
        // SAFETY: UFFDIO_REGISTER reads and writes a struct uffdio_register, which this is.
        let call = unsafe {
            Updater::<{ opcode::read_write::<Register>(0xaa, 0x00) }, Register>::new(&mut register)
        };
        // SAFETY: the range is the mapping above, which only this value uses, and which is never touched.
        unsafe { ioctl::ioctl(&file, call) }.context("UFFDIO_REGISTER")?;
        Ok(Self { file, memory })
    }

    /// Where the memory lies in this process.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn address(&self) -> u64 {
        self.memory.start as u64
    }

    /// Waits for a page that somebody needs; its offset. `None` when nobody did for so long.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn wait(&self, time: &Timespec) -> Result<Option<usize>> {
        let mut watched = [PollFd::new(&self.file, PollFlags::IN)];
        if poll(&mut watched, Some(time)).context("poll of a userfaultfd")? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; message::BYTES];
        let read = match rustix::io::read(&self.file, &mut bytes) {
            // Who needed it does no more.
            Err(Errno::AGAIN) => return Ok(None),
            read => read.context("read of a userfaultfd")?,
        };
        ensure!(
            read == bytes.len() && bytes[0] == message::PAGE_FAULT,
            "event {:#x} of a userfaultfd is no page fault",
            bytes[0]
        );
        let address = bytes.get(message::ADDRESS).and_then(|bytes| bytes.first_chunk());
        let address = u64::from_ne_bytes(*address.context("a message without an address")?);
        let offset = address.wrapping_sub(self.address()) & !0xfff;
        Ok(Some(usize::try_from(offset)?))
    }

    /// Watches the memory no more: who waits for a page goes on without.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn forget(&self) {
        let mut range = Range { start: self.address(), bytes: self.memory.bytes as u64 };
        // SAFETY: UFFDIO_UNREGISTER reads a struct uffdio_range, which this is.
        let call =
            unsafe { Updater::<{ opcode::read::<Range>(0xaa, 0x01) }, Range>::new(&mut range) };
        // SAFETY: the range is the mapping above, all of which was registered.
        if let Err(error) = unsafe { ioctl::ioctl(&self.file, call) } {
            log::error!("memory stays watched by nobody: {error}");
        }
    }

    /// Places these bytes, whole pages, at `offset`, where nothing is yet.
    pub(super) fn place(&self, offset: usize, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len());
        ensure!(
            end.is_some_and(|end| end <= self.memory.bytes),
            "{} bytes at {offset} do not fit {}",
            content.len(),
            self.memory.bytes
        );
        let mut request = Copy {
            to: self.memory.start as u64 + offset as u64,
            from: content.as_ptr() as u64,
            bytes: content.len() as u64,
            ..Copy::default()
        };
        // SAFETY: UFFDIO_COPY reads and writes a struct uffdio_copy, which this is.
        let call = unsafe {
            Updater::<{ opcode::read_write::<Copy>(0xaa, 0x03) }, Copy>::new(&mut request)
        };
        // SAFETY: it fills part of our mapping, as was checked, from as many bytes of `content`.
        unsafe { ioctl::ioctl(&self.file, call) }.context("UFFDIO_COPY")?;
        Ok(())
    }
}
