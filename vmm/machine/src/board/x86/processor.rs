//! A processor as its thread runs it: KVM's, with nothing around it. Waiting for interrupts, starting and
//! stopping others, and timers are the kernel's.

use crate::core::Core;
use accel::Vcpu;
use accel_kvm::KvmVcpu;
use umem_state::StateError;

/// Version of the saved form: the accelerator's own, which has its version in it.
const VERSION: u32 = 1;

/// A processor.
pub(super) struct Processor(pub(super) KvmVcpu);

impl Core for Processor {
    fn vcpu(&self) -> &dyn Vcpu {
        &self.0
    }

    fn vcpu_mut(&mut self) -> &mut dyn Vcpu {
        &mut self.0
    }

    fn save(&self, _: &str) -> Result<(u32, Vec<u8>), StateError> {
        Ok((VERSION, self.0.save()?))
    }

    fn saved_version(&self) -> u32 {
        VERSION
    }

    /// A guest that has arrived keeps the CPUID that it brought, also when it is reset: the kernel takes no
    /// other of a vCPU that has run.
    fn reset(&mut self, _: &str, _: u32, _: &[u8]) -> Result<(), StateError> {
        self.0.reset()
    }

    fn restore(&mut self, _: &str, _: u32, body: &[u8]) -> Result<(), StateError> {
        self.0.restore(body)
    }
}
