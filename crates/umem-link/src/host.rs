//! What the data plane asks of the machine above it, at each end.

use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_fault::FaultPlane;
use umem_memory::{DirtySource, FrozenRam, GuestRam, PageBitmap, PageIndex};
use umem_wire::{MachineDescription, Mode};

/// A guest that stands still.
pub struct StoppedGuest {
    /// All its state but RAM: a versioned package.
    pub package: Vec<u8>,
    /// Its RAM, which nobody writes any more.
    pub ram: FrozenRam,
    /// Pages that it is likely to touch first, the surest first; may be empty. Where all pages move after
    /// the stop they go out beside the state, unasked.
    pub working_set: Vec<PageIndex>,
    /// When it stopped.
    pub stopped_at: Instant,
    /// What the stop consisted of, in order, and how long each part took.
    pub parts: Vec<(&'static str, Duration)>,
}

/// RAM of a guest that runs, and who knows what it writes.
pub struct LiveRam {
    /// RAM. It is only ever copied from.
    pub ram: GuestRam,
    /// All that writes it: vCPUs, devices, loaders. Off; started and stopped by who asked for it.
    pub dirty: Arc<dyn DirtySource>,
}

/// The machine whose guest is to move. Called from the migration's thread alone, in the order of the
/// phases; every call ends in bounded time.
pub trait SourceVm: Send + Sync + 'static {
    /// The machine, for comparison with the destination's.
    fn describe(&self) -> MachineDescription;

    /// RAM of the guest as it runs, for precopy. Called at most once.
    ///
    /// # Errors
    /// Why its writes cannot be tracked.
    fn live_ram(&self) -> Result<LiveRam, String>;

    /// A round of precopy begins, from 1 up.
    fn round_begun(&self, round: u32);

    /// Takes so many per cent of their time from the vCPUs, 0 to 99, until told otherwise; 0 is none.
    fn throttle(&self, percent: u8);

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
    /// Compares the machine with ours, sees whether guests are taken in this mode, admits the memory.
    /// RAM is as new: it reads as zero.
    ///
    /// # Errors
    /// What does not fit, with the numbers.
    fn admit(&self, machine: &MachineDescription, mode: Mode) -> Result<GuestRam, String>;

    /// Puts RAM under a fault plane. Pages whose bit is set are there, all others are missing from
    /// now on. Called at most once a session, when nothing writes RAM.
    ///
    /// # Errors
    /// Why page faults cannot be had.
    fn begin_page_service(&self, placed: &PageBitmap) -> Result<Arc<FaultPlane>, String>;

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

    /// All pages are here; page service, where it was begun, is over.
    fn complete(&self);

    /// The session has ended before the handover: whatever came of the guest is void.
    fn abandon(&self);

    /// The phase has changed (see [`crate::MigrationStatus::phase`]).
    fn phase_changed(&self, phase: &str);
}
