//! What the data plane asks of the machine above it, at each end.

use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_fault::FaultPlane;
use umem_memory::FrozenRam;
use umem_wire::MachineDescription;

/// A guest that stands still.
pub struct StoppedGuest {
    /// All its state but RAM: a versioned package.
    pub package: Vec<u8>,
    /// Its RAM, which nobody writes any more.
    pub ram: FrozenRam,
    /// When it stopped.
    pub stopped_at: Instant,
    /// What the stop consisted of, in order, and how long each part took.
    pub parts: Vec<(&'static str, Duration)>,
}

/// The machine whose guest is to move. Called from the migration's thread alone, in the order of the
/// phases; every call ends in bounded time.
pub trait SourceVm: Send + Sync + 'static {
    /// The machine, for comparison with the destination's.
    fn describe(&self) -> MachineDescription;

    /// Stops vCPUs, completes submitted I/O, unlocks disks and saves the guest. What the guest was
    /// doing is remembered in the package.
    ///
    /// # Errors
    /// Why it cannot be stopped. The guest then goes on here as before.
    fn stop(&self) -> Result<StoppedGuest, String>;

    /// The handover is about to be sent: from now on nobody here may run the guest.
    fn handover_begun(&self);

    /// The guest is ours again: it goes on if it ran.
    fn take_back(&self);

    /// The destination runs the guest. It never runs here again.
    fn handed_over(&self);

    /// The destination needs nothing from here any more.
    fn released(&self);

    /// The phase has changed (see [`crate::MigrationStatus::phase`]).
    fn phase_changed(&self, phase: &str);
}

/// The machine that takes a guest in. Called from the session's thread alone, in the order of the
/// phases; every call ends in bounded time.
pub trait DestinationVm: Send + Sync + 'static {
    /// Compares the machine with ours, admits its memory, and puts RAM under a fault plane.
    ///
    /// # Errors
    /// What does not fit, with the numbers.
    fn prepare(&self, machine: &MachineDescription) -> Result<Arc<FaultPlane>, String>;

    /// Loads the guest's state.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(&self, package: &[u8]) -> Result<(), String>;

    /// Takes over disks and lets the guest go on, if it ran. Its clock goes on by `pause`.
    ///
    /// # Errors
    /// Why it cannot run here. The source is told, and goes on with it.
    fn run(&self, pause: Duration) -> Result<(), String>;

    /// All pages are here.
    fn complete(&self);

    /// The session has ended before the handover: whatever came of the guest is void.
    fn abandon(&self);

    /// The phase has changed (see [`crate::MigrationStatus::phase`]).
    fn phase_changed(&self, phase: &str);
}
