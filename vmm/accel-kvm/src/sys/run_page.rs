//! `struct kvm_run`: what a vCPU's exit was, and the answer to it (Linux documentation, "KVM API", 5).

use super::mapping::Mapping;
use super::signal;
use crate::vcpu::CallOut;
use kvm_bindings::kvm_run;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where the part begins that each reason for an exit has of its own.
const DETAIL: usize = offset_of!(kvm_run, __bindgen_anon_1);

const _: () = {
    assert!(offset_of!(kvm_run, immediate_exit) == 1);
    assert!(offset_of!(kvm_run, exit_reason) == 8);
    assert!(DETAIL == 32);
};

/// An exit to an I/O port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortAccess {
    pub(crate) write: bool,
    /// Bytes of an element.
    pub(crate) size: u8,
    pub(crate) port: u16,
    /// Elements of a string instruction.
    pub(crate) count: u32,
    /// Where the elements lie in the page.
    pub(crate) offset: usize,
}

/// An exit to an address without RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryAccess {
    pub(crate) write: bool,
    pub(crate) address: u64,
    /// Bytes, at most 8.
    pub(crate) size: u32,
    /// Where the bytes lie in the page.
    pub(crate) offset: usize,
}

/// The memory that a vCPU's thread and the kernel share.
#[derive(Debug)]
pub(crate) struct RunPage {
    memory: Mapping,
}

impl CallOut for RunPage {
    fn ask_for_exit(&self, on: bool) {
        let flag = self.memory.at::<AtomicU8>(offset_of!(kvm_run, immediate_exit));
        // SAFETY: it lies in the mapping, which lives as long as `self`; this process touches it by
        // atomic operations only.
        let _ = unsafe { flag.as_ref() }.swap(on.into(), Ordering::SeqCst);
    }

    fn interrupt(&self, thread: i32) {
        signal::send(thread);
    }

    fn this_thread(&self) -> i32 {
        signal::this_thread()
    }
}

impl RunPage {
    /// Maps that of a vCPU. `bytes` is what KVM_GET_VCPU_MMAP_SIZE said.
    pub(crate) fn new(vcpu: &impl AsRawFd, bytes: usize) -> io::Result<Self> {
        if bytes < size_of::<kvm_run>() {
            return Err(io::Error::other(format!("KVM shares {bytes} bytes of a vCPU")));
        }
        Ok(Self { memory: Mapping::new(vcpu, 0, bytes)? })
    }

    /// One of no vCPU, for tests of what reads it.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self { memory: Mapping::anonymous(3 * super::mapping::PAGE_BYTES, true).unwrap() }
    }

    fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: it lies in the mapping, aligned, and every pattern of bits is a value of the integer
        // types for which this is called.
        unsafe { self.memory.at::<T>(offset).read_volatile() }
    }

    /// Why KVM_RUN came out (`KVM_EXIT_…`).
    pub(crate) fn reason(&self) -> u32 {
        self.read(offset_of!(kvm_run, exit_reason))
    }

    /// A number of the exit's own part, by its offset there.
    pub(crate) fn detail_u32(&self, offset: usize) -> u32 {
        self.read(DETAIL + offset)
    }

    /// As [`Self::detail_u32`].
    pub(crate) fn detail_u64(&self, offset: usize) -> u64 {
        self.read(DETAIL + offset)
    }

    /// Of `KVM_EXIT_IO`.
    pub(crate) fn port_access(&self) -> PortAccess {
        PortAccess {
            write: self.read::<u8>(DETAIL) == kvm_bindings::KVM_EXIT_IO_OUT as u8,
            size: self.read(DETAIL + 1),
            port: self.read(DETAIL + 2),
            count: self.detail_u32(4),
            offset: usize::try_from(self.detail_u64(8)).unwrap_or(usize::MAX),
        }
    }

    /// Of `KVM_EXIT_MMIO`.
    pub(crate) fn memory_access(&self) -> MemoryAccess {
        MemoryAccess {
            address: self.detail_u64(0),
            offset: DETAIL + 8,
            size: self.detail_u32(16),
            write: self.read::<u8>(DETAIL + 20) != 0,
        }
    }

    /// Whether so many bytes lie at that offset.
    pub(crate) fn holds(&self, offset: usize, bytes: usize) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.memory.bytes())
    }

    /// The `bytes` (at most 8) that lie at an offset, the first lowest.
    pub(crate) fn value(&self, offset: usize, bytes: usize) -> u64 {
        (0..bytes).rev().fold(0, |sum, at| sum << 8 | u64::from(self.read::<u8>(offset + at)))
    }

    /// Puts the low `bytes` of a value there.
    pub(crate) fn set_value(&self, offset: usize, bytes: usize, value: u64) {
        for (at, byte) in value.to_le_bytes().into_iter().enumerate().take(bytes) {
            let place = self.memory.at::<u8>(offset + at);
            // SAFETY: it lies in the mapping; the kernel reads it when the vCPU is entered next.
            unsafe { place.write_volatile(byte) };
        }
    }
}
