//! A VM in the kernel.

use crate::chips::KvmChips;
use crate::clock::KvmClock;
use crate::cpuid::{self, Processor, Table};
use crate::dirty::{KvmWrites, WriteLog};
use crate::host::{Facts, Host, KvmError, refused};
use crate::options::{CpuOptions, KvmOptions};
use crate::slots::Slots;
use crate::sys::signal;
use crate::vcpu::{Anchors, KvmVcpu};
use accel::VcpuHandle;
use kvm_bindings::kvm_enable_cap;
use kvm_ioctls::VmFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use umem_memory::{DirtySource, GuestRam};

/// What the vCPUs of a VM, its clock and its chips have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) facts: Arc<Facts>,
    pub(crate) slots: Slots,
    pub(crate) anchors: Mutex<Anchors>,
    pub(crate) log: WriteLog,
    /// What its guests may have of the host's processor.
    cpu: CpuOptions,
    /// Of the guest that is in it: its own, or that with which a guest came from elsewhere.
    processor: Mutex<Processor>,
    /// Held for reading by who drives a line, for writing by who replaces a local APIC's state: a line that
    /// rises between reading and writing it would be lost.
    lines: RwLock<()>,
}

impl Shared {
    pub(crate) fn processor(&self) -> MutexGuard<'_, Processor> {
        self.processor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn anchors(&self) -> MutexGuard<'_, Anchors> {
        self.anchors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drive_lines(&self) -> RwLockReadGuard<'_, ()> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody drives a line while this is held.
    pub(crate) fn hold_lines(&self) -> RwLockWriteGuard<'_, ()> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VM: RAM, interrupt controllers (PIC, I/O APIC, local APICs) and interval timer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KvmVm {
    shared: Arc<Shared>,
    /// What vCPUs have in common of CPUID.
    table: Arc<Table>,
    vcpus: u32,
    chips: Arc<KvmChips>,
    clock: Arc<KvmClock>,
    writes: Arc<KvmWrites>,
}

/// Capabilities that make a vCPU's state complete, switched on where they are.
const STATE_CAPABILITIES: [u32; 2] =
    [kvm_bindings::KVM_CAP_EXCEPTION_PAYLOAD, kvm_bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT];

/// Switches a capability of a VM on.
pub(crate) fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), KvmError> {
    let mut enable = kvm_enable_cap { cap, ..Default::default() };
    let [first, ..] = &mut enable.args;
    *first = argument;
    vm.enable_cap(&enable).map_err(refused("switch a capability on"))
}

impl KvmVm {
    /// Makes a VM on this RAM, for so many vCPUs.
    ///
    /// # Errors
    /// When the kernel refuses, RAM has more blocks than it has slots, there are more vCPUs than it takes, a
    /// feature of the processor has no such name, or it has not what was chosen of dirty tracking.
    pub fn new(
        host: &Host,
        ram: GuestRam,
        vcpus: u32,
        options: &KvmOptions,
    ) -> Result<Self, KvmError> {
        let facts = host.facts().clone();
        let (blocks, slots) = (ram.layout().blocks().len(), facts.capabilities.memory_slots);
        if blocks > slots {
            return Err(KvmError::Slots { blocks, slots });
        }
        let most = facts.capabilities.vcpus;
        if vcpus == 0 || vcpus > most {
            return Err(KvmError::Vcpus { vcpus, most });
        }
        let Processor { table: supported, tsc_khz } = &facts.processor;
        let table = cpuid::policy(supported, &options.cpu, *tsc_khz, facts.tsc_deadline)?;
        signal::install().map_err(refused("have a signal end KVM_RUN"))?;
        let vm = host.make_vm()?;
        for cap in STATE_CAPABILITIES {
            if vm.check_extension_raw(cap.into()) > 0 {
                enable(&vm, cap, 1)?;
            }
        }
        let log = WriteLog::choose(&vm, &facts.capabilities, options.dirty, &ram)?;
        let common = cpuid::for_vcpu(&table, 0, vcpus);
        let shared = Arc::new(Shared {
            cpu: options.cpu.clone(),
            processor: Mutex::new(Processor { table: common, tsc_khz: *tsc_khz }),
            facts,
            slots: Slots::new(vm, ram)?,
            anchors: Mutex::default(),
            log,
            lines: RwLock::default(),
        });
        Ok(Self {
            chips: Arc::new(KvmChips::new(shared.clone())),
            clock: Arc::new(KvmClock::new(shared.clone())),
            writes: Arc::new(KvmWrites::new(shared.clone())),
            shared,
            table: Arc::new(table),
            vcpus,
        })
    }

    /// Adds a vCPU, in its reset state; the first has number 0 and runs at once, others wait for it.
    ///
    /// # Errors
    /// When the kernel refuses, as for a number that is taken.
    pub fn vcpu(&self, number: u32, handle: VcpuHandle) -> Result<KvmVcpu, KvmError> {
        if number >= self.vcpus {
            return Err(KvmError::Vcpus { vcpus: number.saturating_add(1), most: self.vcpus });
        }
        let table = cpuid::for_vcpu(&self.table, number, self.vcpus);
        KvmVcpu::new(self.shared.clone(), number, table, handle)
    }

    /// Drives the interrupt line of this number (PIC and I/O APIC, which have 24). One that there is not
    /// does nothing.
    pub fn set_line(&self, line: u32, high: bool) {
        let _driving = self.shared.drive_lines();
        if let Err(error) = self.shared.slots.vm().set_irq_line(line, high) {
            log::warn!("KVM cannot drive interrupt line {line}: {error}");
        }
    }

    /// The guest's clock, in nanoseconds: KVM's, which Linux reads as `kvm-clock`.
    #[must_use]
    pub fn clock(&self) -> Arc<KvmClock> {
        self.clock.clone()
    }

    /// The interrupt controllers that vCPUs share, and the interval timer.
    #[must_use]
    pub fn chips(&self) -> Arc<KvmChips> {
        self.chips.clone()
    }

    /// The source of dirty tracking for what its vCPUs store. There is one: it has one user at a time.
    #[must_use]
    pub fn writes(&self) -> Arc<dyn DirtySource> {
        self.writes.clone()
    }

    /// What the guest may use of its processor that not each host has: names of features, and measures
    /// as `tsc-khz=2596152`.
    #[must_use]
    pub fn processor(&self) -> Vec<String> {
        cpuid::needs(&self.shared.processor())
    }

    /// Whether this host has what a guest needs, as [`Self::processor`] says it elsewhere, and this VM's
    /// options leave it to guests.
    ///
    /// # Errors
    /// One line with all that it lacks, and how to start the guest so that it can move here.
    pub fn admits(&self, needed: &[String]) -> Result<(), String> {
        self.shared.admits(needed)
    }
}

impl Shared {
    pub(crate) fn admits(&self, needed: &[String]) -> Result<(), String> {
        let Facts { processor, tsc_deadline, capabilities, .. } = &*self.facts;
        let table = cpuid::policy(&processor.table, &self.cpu, processor.tsc_khz, *tsc_deadline)
            .map_err(|error| error.to_string())?;
        let host = Processor {
            // What is said of several vCPUs is no question to the host.
            table: cpuid::for_vcpu(&table, 0, 2),
            tsc_khz: processor.tsc_khz,
        };
        cpuid::admits(&host, capabilities.tsc_scaling, needed)
    }
}
