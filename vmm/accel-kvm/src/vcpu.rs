//! Runs a vCPU until it needs something.

use crate::host::{KvmError, refused};
use crate::slots::Slots;
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;
use umem_memory::GuestAddress;

/// Why a vCPU came out of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmExit {
    /// The guest wrote to a port.
    PortWrite {
        /// Its number.
        port: u16,
        /// What was written; of a string instruction all elements.
        bytes: Vec<u8>,
    },
    /// The guest read a port, and got the answer.
    PortRead {
        /// Its number.
        port: u16,
        /// Width in bytes.
        bytes: usize,
    },
    /// The guest wrote outside RAM.
    MmioWrite {
        /// Where.
        address: GuestAddress,
        /// What.
        bytes: Vec<u8>,
    },
    /// The guest read outside RAM, and got the answer.
    MmioRead {
        /// Where.
        address: GuestAddress,
        /// Width in bytes.
        bytes: usize,
    },
    /// A signal came, or an exit was asked for.
    Kicked,
    /// Triple fault.
    Shutdown,
    /// KVM cannot go on.
    Failed(String),
}

/// One vCPU.
#[derive(Debug)]
pub struct KvmVcpu {
    // Dropped before what keeps RAM alive.
    fd: VcpuFd,
    _slots: Arc<Slots>,
}

impl KvmVcpu {
    pub(crate) fn new(fd: VcpuFd, slots: Arc<Slots>) -> Self {
        Self { fd, _slots: slots }
    }

    /// Runs until the guest needs something. `answer` fills in what the guest reads: the port or
    /// address, and the bytes that it gets.
    pub fn run(&mut self, mut answer: impl FnMut(u64, &mut [u8])) -> KvmExit {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return KvmExit::Kicked;
            }
            Err(error) => return KvmExit::Failed(format!("KVM_RUN: {error}")),
        };
        match exit {
            VcpuExit::IoOut(port, bytes) => KvmExit::PortWrite { port, bytes: bytes.to_vec() },
            VcpuExit::IoIn(port, bytes) => {
                answer(port.into(), bytes);
                KvmExit::PortRead { port, bytes: bytes.len() }
            }
            VcpuExit::MmioWrite(address, bytes) => {
                KvmExit::MmioWrite { address: GuestAddress(address), bytes: bytes.to_vec() }
            }
            VcpuExit::MmioRead(address, bytes) => {
                answer(address, bytes);
                KvmExit::MmioRead { address: GuestAddress(address), bytes: bytes.len() }
            }
            VcpuExit::Intr => KvmExit::Kicked,
            VcpuExit::Shutdown => KvmExit::Shutdown,
            VcpuExit::FailEntry(reason, cpu) => {
                KvmExit::Failed(format!("hardware refuses entry on CPU {cpu}, reason {reason:#x}"))
            }
            other => KvmExit::Failed(format!("exit {other:?}")),
        }
    }

    /// Has the next [`Self::run`] come out at once, or no more.
    pub fn set_immediate_exit(&mut self, on: bool) {
        self.fd.set_kvm_immediate_exit(on.into());
    }

    /// General registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn registers(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().map_err(refused("read registers"))
    }

    /// Replaces the general registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_registers(&self, registers: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(registers).map_err(refused("write registers"))
    }

    /// Segments and control registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn special_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(refused("read special registers"))
    }

    /// Replaces segments and control registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_special_registers(&self, registers: &kvm_sregs) -> Result<(), KvmError> {
        self.fd.set_sregs(registers).map_err(refused("write special registers"))
    }
}
