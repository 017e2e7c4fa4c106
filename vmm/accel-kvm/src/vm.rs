//! A VM in the kernel.

use crate::dirty::KvmWrites;
use crate::host::{Host, KvmError, refused};
use crate::slots::Slots;
use crate::vcpu::KvmVcpu;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use std::sync::Arc;
use umem_memory::GuestRam;

/// Where the kernel keeps pages of its own in the guest's address space, below the 4 GiB where no
/// board has RAM: three for the task state, one for page tables.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// A VM: RAM, interrupt controllers (PIC, I/O APIC, local APICs) and interval timer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KvmVm {
    slots: Arc<Slots>,
}

impl KvmVm {
    /// Makes a VM on this RAM.
    ///
    /// # Errors
    /// When the kernel refuses, or RAM has more blocks than it has slots.
    pub fn new(host: &Host, ram: GuestRam) -> Result<Self, KvmError> {
        let (blocks, slots) = (ram.layout().blocks().len(), host.capabilities().memory_slots);
        if blocks > slots {
            return Err(KvmError::Slots { blocks, slots });
        }
        let vm = host.kvm().create_vm().map_err(refused("make a VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(refused("place its page tables"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(refused("place its task state"))?;
        vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        // The speaker's port, which guests poke, is the timer's as well.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(refused("make the interval timer"))?;
        Ok(Self { slots: Arc::new(Slots::new(vm, ram)?) })
    }

    /// Adds a vCPU, in its reset state.
    ///
    /// # Errors
    /// When the kernel refuses, as for a number that is taken.
    pub fn vcpu(&self, number: u32) -> Result<KvmVcpu, KvmError> {
        let fd = self.slots.vm().create_vcpu(number.into()).map_err(refused("make a vCPU"))?;
        Ok(KvmVcpu::new(fd, self.slots.clone()))
    }

    /// Drives the interrupt line of this number (PIC and I/O APIC).
    ///
    /// # Errors
    /// When there is no such line.
    pub fn set_line(&self, line: u32, high: bool) -> Result<(), KvmError> {
        self.slots.vm().set_irq_line(line, high).map_err(refused("drive an interrupt line"))
    }

    /// The source of dirty tracking for what its vCPUs store. One at a time may be in use.
    #[must_use]
    pub fn writes(&self) -> KvmWrites {
        KvmWrites::new(self.slots.clone())
    }
}
