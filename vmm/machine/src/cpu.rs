//! vCPUs of the accelerator that the configuration names.

use crate::config::{FaultPath, VmConfig};
use crate::hardware::Hardware;
use accel::{PagePresence, Vcpu, VcpuHandle};
use accel_tcg::{Hart, HartConfig, HartWrites};
use std::sync::Arc;
use umem_memory::DirtySource;

pub(crate) use accel_tcg::{ISA, ISA_EXTENSIONS, MMU_TYPE};

/// A vCPU in its reset state.
pub(crate) fn create(
    id: u32,
    handle: VcpuHandle,
    config: &VmConfig,
    hardware: &Hardware,
) -> Box<dyn Vcpu> {
    let presence = match config.fault_path {
        FaultPath::Vcpu => Some(Arc::new(hardware.pages.clone()) as Arc<dyn PagePresence>),
        FaultPath::Uffd => None,
    };
    let ram = hardware.pages.ram().clone();
    Box::new(Hart::new(HartConfig { id, handle, clock: hardware.clock.clone(), ram, presence }))
}

/// What all vCPUs write, by their numbers, to RAM of so many pages.
pub(crate) fn writes(pages: u64, harts: Vec<(u32, VcpuHandle)>) -> Arc<dyn DirtySource> {
    Arc::new(HartWrites::new(pages, harts))
}
