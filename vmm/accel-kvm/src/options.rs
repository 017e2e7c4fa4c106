//! What may be chosen of a VM.

/// How KVM says which pages its vCPUs store to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirtyChoice {
    /// The cheaper one that this kernel has.
    #[default]
    Auto,
    /// A ring of page numbers for each vCPU (KVM_CAP_DIRTY_LOG_RING). Has lost pages on a KVM without hardware
    /// help, for a reason that is not proven (`dirty/rings.rs`): not for guests that matter.
    Ring,
    /// A bitmap for each block of RAM.
    Bitmap,
}

/// What the guest is given of the host's processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuOptions {
    /// Whether the guest is told of pages that are being fetched, so that it can run something else
    /// meanwhile.
    pub async_page_faults: bool,
    /// Features that it does not get, by name: `avx512f`.
    pub disabled: Vec<String>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { async_page_faults: true, disabled: Vec::new() }
    }
}

/// What may be chosen of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KvmOptions {
    /// Of its processors.
    pub cpu: CpuOptions,
    /// Of dirty tracking.
    pub dirty: DirtyChoice,
}
