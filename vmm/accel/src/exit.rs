//! Why a vCPU stopped, and with what it goes on.

use umem_memory::{GuestAddress, PageIndex};

/// Width of a device access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessSize {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Half = 2,
    /// Four bytes.
    Word = 4,
    /// Eight bytes.
    Double = 8,
}

impl AccessSize {
    /// Width in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

/// How a vCPU is entered: the answer to its last exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmEntry {
    /// Nothing to hand over: first entry, or after an exit that asks for no answer.
    Run,
    /// Answer to [`VmExit::MmioRead`]: the value, in the low bits.
    MmioRead(u64),
    /// Answer to [`VmExit::PortRead`]: the value, in the low bits.
    PortRead(u64),
    /// Answer to [`VmExit::Sbi`]: what goes into `a0` and `a1`.
    Sbi {
        /// SBI error code.
        error: i64,
        /// SBI value.
        value: u64,
    },
}

/// Why [`crate::Vcpu::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmExit {
    /// A load outside RAM. Enter again with [`VmEntry::MmioRead`]; the load completes then.
    MmioRead {
        /// Guest physical address.
        address: GuestAddress,
        /// Width.
        size: AccessSize,
    },
    /// A store outside RAM. The store has completed for the vCPU.
    MmioWrite {
        /// Guest physical address.
        address: GuestAddress,
        /// Width.
        size: AccessSize,
        /// Value, in the low bits.
        value: u64,
    },
    /// The guest reads an I/O port (x86). Enter again with [`VmEntry::PortRead`]; the read completes then.
    PortRead {
        /// Number of the port.
        port: u16,
        /// Width.
        size: AccessSize,
    },
    /// The guest has written to an I/O port (x86).
    PortWrite {
        /// Number of the port.
        port: u16,
        /// Width.
        size: AccessSize,
        /// Value, in the low bits.
        value: u64,
    },
    /// An environment call from S-mode (RISC-V SBI, chapter 3 "Binary Encoding").
    Sbi {
        /// Extension, `a7`.
        extension: u64,
        /// Function, `a6`.
        function: u64,
        /// `a0` to `a5`.
        arguments: [u64; 6],
    },
    /// The guest waits for an interrupt and none is pending. `until` is the guest time, in ticks,
    /// of its next timer interrupt; `None` when no timer is armed.
    WaitForInterrupt {
        /// Guest clock ticks.
        until: Option<u64>,
    },
    /// The next instruction needs a page of RAM that is not present.
    MissingPage {
        /// The page.
        page: PageIndex,
        /// Whether the access that found it is a store.
        write: bool,
    },
    /// The vCPU was kicked through its handle.
    Kicked,
    /// The processor has shut itself down and asks for a reset of the machine (x86: triple fault).
    Shutdown,
    /// The accelerator cannot go on.
    Failed {
        /// What has failed.
        what: &'static str,
        /// The number that goes with it: a reason, an error.
        code: u64,
    },
}
