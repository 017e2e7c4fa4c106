//! Tells the kernel where RAM lies.
#![allow(unsafe_code)]

use crate::host::{KvmError, refused};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use umem_memory::{GuestRam, RamBlock};

/// A VM in the kernel and the RAM that its slots point to, which lives at least as long.
#[derive(Debug)]
pub(crate) struct Slots {
    // Dropped before RAM: fields go in their order.
    vm: VmFd,
    ram: GuestRam,
}

impl Slots {
    /// One slot for each block of RAM, numbered as the blocks are.
    pub(crate) fn new(vm: VmFd, ram: GuestRam) -> Result<Self, KvmError> {
        let slots = Self { vm, ram };
        slots.log_writes(false)?;
        Ok(slots)
    }

    pub(crate) fn vm(&self) -> &VmFd {
        &self.vm
    }

    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Blocks of RAM with their slots' numbers.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, &RamBlock)> {
        (0..).zip(self.ram.layout().blocks())
    }

    /// Has the kernel log stores of vCPUs, or no more. One that begins has an empty log.
    pub(crate) fn log_writes(&self, on: bool) -> Result<(), KvmError> {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        for (slot, block) in self.blocks() {
            let start = self.ram.host_address(block.first_page);
            let start = start.ok_or(KvmError::Lacks("an address of a block of RAM"))?;
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: block.guest_address.0,
                memory_size: block.bytes(),
                userspace_addr: start.as_ptr() as u64,
            };
            // SAFETY: the range is one whole block of `self.ram`, mapped as long as a clone of it
            // lives. Every descriptor that keeps the VM alive (this one and those of vCPUs) is
            // owned beside an `Arc` of this value. The guest's stores there race with nobody's
            // references: RAM is touched only through raw pointers.
            unsafe { self.vm.set_user_memory_region(region) }.map_err(refused("map guest RAM"))?;
        }
        Ok(())
    }
}
