//! The one place that promises that nobody writes guest RAM.
#![allow(unsafe_code)]

use crate::hardware::Hardware;
use umem_memory::FrozenRam;

/// What proves that the guest stands still: made by the driver once every vCPU's thread stood at its
/// gate and every device was quiescent, and given back before any of them goes on.
pub(crate) struct StandsStill(());

impl StandsStill {
    /// To be called only by [`crate::vm::Vm::halt_guest`]'s callers after it succeeded.
    pub(crate) fn after_halt() -> Self {
        Self(())
    }
}

/// RAM of a guest that stands still.
pub(crate) fn freeze(hardware: &Hardware, still: &StandsStill) -> FrozenRam {
    let StandsStill(()) = still;
    // SAFETY: RAM is written by vCPUs, by devices, and by the loader on the driver's thread. vCPUs and
    // devices stand still. They go on only through `Vm::start_guest`, which an outgoing migration
    // reaches only by `SourceVm::take_back`; that is called after all lanes, the only users of this
    // value, have ended and been joined. Until then the VM's ownership (`Lifecycle::require_owner`)
    // keeps the driver from starting, resetting or loading the guest.
    unsafe { hardware.pages.ram().freeze() }
}
