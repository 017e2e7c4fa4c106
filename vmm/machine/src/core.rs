//! A vCPU with what its architecture has around it: what a vCPU's thread runs.

use crate::gate::Gate;
use crate::memory::GuestPages;
use crate::requests::ResetRequest;
use accel::{Vcpu, VmEntry, VmExit};
use std::sync::{Arc, Mutex};
use umem_fault::Interrupt;
use umem_state::StateError;

/// A core that its thread runs, and others look at while it stands still.
pub(crate) type SharedCore = Arc<Mutex<dyn Core>>;

/// What a core reaches beside its vCPU while its thread runs it.
pub(crate) struct Context {
    /// Where the thread says what it does.
    pub gate: Arc<Gate>,
    /// Ends waits for pages when the vCPU is to stop.
    pub interrupt: Interrupt,
    /// RAM, and the pages that have not arrived.
    pub pages: GuestPages,
}

/// How a vCPU goes on after an exit that its architecture has served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// With this answer.
    Enter(VmEntry),
    /// Not until the machine has done what the guest asked for.
    Asks(ResetRequest),
    /// Not at all.
    Failed(String),
}

/// A vCPU and what its architecture has around it.
pub(crate) trait Core: Send {
    /// The vCPU.
    fn vcpu(&self) -> &dyn Vcpu;

    /// The vCPU, to be run or changed.
    fn vcpu_mut(&mut self) -> &mut dyn Vcpu;

    /// Whether the vCPU may execute its next instruction. One that may not has waited for that, in bounded
    /// time, and is asked again.
    fn may_run(&mut self, context: &Context) -> bool {
        let _ = context;
        true
    }

    /// Serves an exit that not every architecture has.
    fn serve(&mut self, exit: VmExit, context: &Context) -> Served {
        let _ = context;
        Served::Failed(format!("an exit that this board does not know: {exit:?}"))
    }

    /// Its state as it moves, and the version of that form.
    ///
    /// # Errors
    /// When the accelerator cannot read it.
    fn save(&self, name: &str) -> Result<(u32, Vec<u8>), StateError>;

    /// Newest version of the saved form.
    fn saved_version(&self) -> u32;

    /// Takes the state over in which it was saved at power-on. As [`Self::restore`].
    ///
    /// # Errors
    /// As [`Self::restore`].
    fn reset(&mut self, name: &str, version: u32, body: &[u8]) -> Result<(), StateError> {
        self.restore(name, version, body)
    }

    /// Takes a saved state over; `name` is for errors.
    ///
    /// # Errors
    /// When the bytes are none of this core's. It is then unchanged.
    fn restore(&mut self, name: &str, version: u32, body: &[u8]) -> Result<(), StateError>;
}
