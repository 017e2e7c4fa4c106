//! `/dev/kvm`, and what it can do.

use crate::cpuid::{Processor, Table};
use crate::state::msrs;
use crate::sys::run_page::RunPage;
use crate::sys::{ioctl, probe};
use crate::vcpu::TSC;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::io;
use std::sync::Arc;

/// Version of the API, the only one there is (Linux documentation, "The Definitive KVM API
/// Documentation", 4.1).
const API_VERSION: i32 = 12;

/// KVM that cannot be had, or refuses something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// This host has no KVM.
    #[error(
        "this host has no /dev/kvm: load the kernel module kvm_intel or kvm_amd, switch virtualisation \
         on in the firmware (or in the host above), or use accel=tcg"
    )]
    Absent,
    /// It is not for this user.
    #[error("no permission for /dev/kvm: join the group kvm, or use accel=tcg")]
    Permission,
    /// It cannot be opened for another reason.
    #[error("cannot open /dev/kvm: {0}; use accel=tcg")]
    Open(#[source] io::Error),
    /// A kernel of another age.
    #[error("/dev/kvm speaks version {found} of its API, not {API_VERSION}; use accel=tcg")]
    Version {
        /// What it speaks.
        found: i32,
    },
    /// Something that a VM needs is missing.
    #[error("KVM of this kernel lacks {0}; use a newer kernel, or accel=tcg")]
    Lacks(&'static str),
    /// RAM in more pieces than the kernel takes.
    #[error("RAM of {blocks} blocks, but KVM here takes {slots}")]
    Slots {
        /// Blocks of RAM.
        blocks: usize,
        /// What the kernel takes.
        slots: usize,
    },
    /// More vCPUs than the kernel takes.
    #[error("{vcpus} vCPUs, but KVM here takes 1 to {most}")]
    Vcpus {
        /// How many were wanted.
        vcpus: u32,
        /// Most that a VM here can have.
        most: u32,
    },
    /// A feature of the processor that has no such name.
    #[error("no feature of a processor is called {name:?}; there are {names}")]
    Feature {
        /// What was given.
        name: String,
        /// Near names, or all.
        names: String,
    },
    /// The kernel refuses something.
    #[error("KVM cannot {what}: {source}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Makes an error of what the kernel said.
pub(crate) fn refused<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> KvmError {
    move |error| KvmError::Refused { what, source: error.into() }
}

/// How a guest's time-stamp counter can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TscControl {
    /// By its distance from the host's (KVM_VCPU_TSC_OFFSET): exactly.
    Offset,
    /// By its value.
    Value,
    /// Not at all: the guest reads the host's own counter.
    None,
}

/// What KVM of a host can do, beyond what every VM here needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Most memory slots of a VM.
    pub memory_slots: usize,
    /// Most vCPUs of a VM.
    pub vcpus: u32,
    /// Rate of the time-stamp counter, kHz; 0 where the kernel cannot say.
    pub tsc_khz: u32,
    /// Whether a guest can be given another rate than the host's.
    pub tsc_scaling: bool,
    /// How a guest's time-stamp counter can be set.
    pub tsc_control: TscControl,
    /// Bytes of the vCPU state that `XSAVE` writes.
    pub extended_state_bytes: usize,
    /// Entries of a dirty ring; 0 where there is none.
    pub dirty_ring_entries: u32,
    /// Whether pages of a dirty bitmap can be protected in parts (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
    /// and whether bits may all be set at the start.
    pub manual_protect: (bool, bool),
    /// Whether a guest can be told of pages that are being fetched.
    pub async_page_faults: bool,
    /// Whether KVM says which page is missing when it cannot have one (KVM_EXIT_MEMORY_FAULT): a vCPU's
    /// thread can fetch it then, with a userfaultfd that has UFFD_FEATURE_SIGBUS.
    pub missing_page_exits: bool,
    /// Whether the state of a vCPU that is paging in PAE mode can be read whole (KVM_CAP_SREGS2).
    pub special_registers_2: bool,
}

/// What is found out once, and shared by the VMs of a host.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) capabilities: Capabilities,
    /// What KVM supports here, and the counter's rate.
    pub(crate) processor: Processor,
    pub(crate) tsc_deadline: bool,
    /// Whether extended state may be larger than a page.
    pub(crate) large_state: bool,
    /// Model-specific registers that belong to a vCPU's state.
    pub(crate) msrs: Vec<u32>,
    /// Bytes of the memory shared for each vCPU.
    pub(crate) run_bytes: usize,
}

/// KVM of this host.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    facts: Arc<Facts>,
}

/// Where the kernel keeps pages of its own in the guest's address space, below the 4 GiB where no
/// board has RAM: three for the task state, one for page tables.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Most vCPUs: their numbers fit into a byte, and one means all.
const MOST_VCPUS: usize = 255;

impl Host {
    /// Opens `/dev/kvm`, and tries out on a VM of its own what the kernel does not say otherwise: several
    /// milliseconds.
    ///
    /// # Errors
    /// When there is none, it is not for this user, or it lacks what every VM needs.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| opening(error.into()))?;
        let found = kvm.get_api_version();
        if found != API_VERSION {
            return Err(KvmError::Version { found });
        }
        let needed = [
            (Cap::UserMemory, "memory slots (KVM_CAP_USER_MEMORY)"),
            (Cap::SyncMmu, "page faults on guest RAM (KVM_CAP_SYNC_MMU)"),
            (Cap::Irqchip, "interrupt controllers (KVM_CAP_IRQCHIP)"),
            (Cap::Pit2, "the interval timer (KVM_CAP_PIT2)"),
            (Cap::PitState2, "the interval timer's state (KVM_CAP_PIT_STATE2)"),
            (Cap::ImmediateExit, "exits on demand (KVM_CAP_IMMEDIATE_EXIT)"),
            (Cap::AdjustClock, "the guest's clock (KVM_CAP_ADJUST_CLOCK)"),
            (Cap::MpState, "the state of vCPUs (KVM_CAP_MP_STATE)"),
            (Cap::VcpuEvents, "pending events of vCPUs (KVM_CAP_VCPU_EVENTS)"),
            (Cap::Debugregs, "debug registers (KVM_CAP_DEBUGREGS)"),
            (Cap::Xsave, "extended state (KVM_CAP_XSAVE)"),
            (Cap::Xcrs, "extended control registers (KVM_CAP_XCRS)"),
            (Cap::ExtCpuid, "CPUID of vCPUs (KVM_CAP_EXT_CPUID)"),
        ];
        if let Some((_, what)) = needed.into_iter().find(|&(cap, _)| !kvm.check_extension(cap)) {
            return Err(KvmError::Lacks(what));
        }
        let facts = Arc::new(Facts::find_out(&kvm)?);
        Ok(Self { kvm, facts })
    }

    /// What it can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.facts.capabilities
    }

    pub(crate) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// A VM without RAM and vCPUs.
    pub(crate) fn make_vm(&self) -> Result<VmFd, KvmError> {
        make_vm(&self.kvm)
    }
}

fn make_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(refused("make a VM"))?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(refused("place its page tables"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(refused("place its task state"))?;
    vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
    // The speaker's port, which guests poke, is the timer's as well.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(refused("make the interval timer"))?;
    Ok(vm)
}

impl Facts {
    fn find_out(kvm: &Kvm) -> Result<Self, KvmError> {
        let vm = make_vm(kvm)?;
        let vcpu = vm.create_vcpu(0).map_err(refused("make a vCPU"))?;
        // What the kernel answers of a VM is at least as true as what it answers of all.
        let number = |cap: u32| vm.check_extension_raw(cap.into());
        // The ring is told in bytes of entries.
        let ring_bytes = number(kvm_bindings::KVM_CAP_DIRTY_LOG_RING)
            .max(number(kvm_bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
        let entry = size_of::<kvm_bindings::kvm_dirty_gfn>() as u32;
        let large_state = usize::try_from(number(kvm_bindings::KVM_CAP_XSAVE2)).unwrap_or(0);
        let manual = number(kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
        let run_bytes = kvm.get_vcpu_mmap_size().map_err(refused("size a vCPU's memory"))?;
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        let capabilities = Capabilities {
            memory_slots: kvm.get_nr_memslots(),
            vcpus: kvm.get_max_vcpus().min(MOST_VCPUS) as u32,
            tsc_khz,
            tsc_scaling: number(kvm_bindings::KVM_CAP_TSC_CONTROL) > 0,
            tsc_control: tsc_control(&vcpu),
            extended_state_bytes: large_state.max(ioctl::EXTENDED_STATE_BYTES),
            dirty_ring_entries: u32::try_from(ring_bytes).unwrap_or(0) / entry,
            manual_protect: (manual & 1 != 0, manual & 2 != 0),
            async_page_faults: number(kvm_bindings::KVM_CAP_ASYNC_PF) > 0,
            missing_page_exits: missing_page_exits(&vm, &vcpu, run_bytes),
            special_registers_2: number(kvm_bindings::KVM_CAP_SREGS2) > 0,
        };
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("say what it supports of the processor"))?;
        let msrs = kvm.get_msr_index_list().map_err(refused("list model-specific registers"))?;
        // A kernel without such a list has no such registers.
        let features = kvm.get_msr_feature_index_list();
        let features = features.map(|list| list.as_slice().to_vec()).unwrap_or_default();
        Ok(Self {
            capabilities,
            processor: Processor { table: Table::of_kernel(&supported), tsc_khz },
            tsc_deadline: number(kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER) > 0,
            large_state: large_state > 0,
            msrs: msrs::worth_saving(msrs.as_slice(), &features),
            run_bytes,
        })
    }
}

/// Found out by trying. A kernel that does not do it does not do it.
fn missing_page_exits(vm: &VmFd, vcpu: &VcpuFd, run_bytes: usize) -> bool {
    let has = vm.check_extension_raw(kvm_bindings::KVM_CAP_MEMORY_FAULT_INFO.into()) > 0;
    let tried = || {
        let page = RunPage::new(vcpu, run_bytes)?;
        probe::faults_have_addresses(vm, vcpu, &page)
    };
    has && tried().unwrap_or_else(|error| {
        log::debug!("KVM's exits for missing memory cannot be tried: {error}");
        false
    })
}

/// What a vCPU takes, found out by trying: a KVM whose guests read the host's own counter takes all and
/// does nothing.
fn tsc_control(vcpu: &VcpuFd) -> TscControl {
    /// Any that is none by chance.
    const OFFSET: u64 = 0x1234_5678_9000;
    let offset = || ioctl::tsc_offset(vcpu).ok();
    if ioctl::set_tsc_offset(vcpu, OFFSET).is_ok() && offset() == Some(OFFSET) {
        return TscControl::Offset;
    }
    /// Further than a counter comes while this function runs.
    const FAR: u64 = 1 << 40;
    let value = |index| msrs::read(vcpu, index).ok();
    let Some(before) = value(TSC) else { return TscControl::None };
    let wanted = before.wrapping_add(FAR);
    let set = msrs::write(vcpu, TSC, wanted).is_ok();
    let moved = value(TSC).is_some_and(|now| now.wrapping_sub(before) >= FAR);
    if set && moved { TscControl::Value } else { TscControl::None }
}

/// Why `/dev/kvm` did not open.
fn opening(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Absent,
        Some(libc::EACCES | libc::EPERM) => KvmError::Permission,
        _ => KvmError::Open(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_kvm_shut_says_what_to_do() {
        let text = |code| opening(io::Error::from_raw_os_error(code)).to_string();
        assert!(text(libc::ENOENT).contains("kvm_intel"), "{}", text(libc::ENOENT));
        assert!(text(libc::EACCES).contains("group kvm"), "{}", text(libc::EACCES));
        assert!(text(libc::EMFILE).starts_with("cannot open /dev/kvm: Too many"));
    }
}
