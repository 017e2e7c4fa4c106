//! vCPUs of the accelerator that the configuration names.

use crate::config::{FaultPath, VmConfig};
use crate::hardware::Hardware;
use accel::{PagePresence, Vcpu, VcpuHandle};
use accel_tcg::{Hart, HartConfig};
use std::sync::Arc;

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
