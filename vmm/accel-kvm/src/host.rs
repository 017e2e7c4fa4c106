//! `/dev/kvm`, and what it can do.

use kvm_ioctls::{Cap, Kvm};
use std::io;

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
pub(crate) fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Refused { what, source: error.into() }
}

/// What KVM of a host can do, beyond what every VM here needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Most memory slots of a VM.
    pub memory_slots: usize,
    /// Most vCPUs of a VM.
    pub vcpus: usize,
    /// Whether a guest can be given another time-stamp counter frequency than the host's.
    pub tsc_scaling: bool,
    /// Whether the vCPU state that `XSAVE` writes may be larger than a page.
    pub xsave2: bool,
    /// Entries of a dirty ring; 0 where there is none.
    pub dirty_ring_entries: u32,
    /// Whether a guest can be told of pages that are being fetched.
    pub async_page_faults: bool,
}

/// KVM of this host.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    capabilities: Capabilities,
}

impl Host {
    /// Opens `/dev/kvm`.
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
            (Cap::ImmediateExit, "exits on demand (KVM_CAP_IMMEDIATE_EXIT)"),
        ];
        if let Some((_, what)) = needed.into_iter().find(|&(cap, _)| !kvm.check_extension(cap)) {
            return Err(KvmError::Lacks(what));
        }
        let number = |cap: u32| kvm.check_extension_raw(cap.into());
        // The ring is told in bytes of entries.
        let ring_bytes = u32::try_from(number(kvm_bindings::KVM_CAP_DIRTY_LOG_RING)).unwrap_or(0);
        let entry = size_of::<kvm_bindings::kvm_dirty_gfn>() as u32;
        let capabilities = Capabilities {
            memory_slots: kvm.get_nr_memslots(),
            vcpus: kvm.get_max_vcpus(),
            tsc_scaling: number(kvm_bindings::KVM_CAP_TSC_CONTROL) > 0,
            xsave2: number(kvm_bindings::KVM_CAP_XSAVE2) > 0,
            dirty_ring_entries: ring_bytes / entry,
            async_page_faults: number(kvm_bindings::KVM_CAP_ASYNC_PF) > 0,
        };
        Ok(Self { kvm, capabilities })
    }

    /// What it can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }
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
