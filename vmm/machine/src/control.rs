//! What a monitor may ask of a VM. The monitor crate knows the VM by this trait alone.

use serde::Serialize;
use umem_link::MigrationStatus;

/// What the VM does at this moment, in QEMU's words where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Created, never run (`-S`).
    Prelaunch,
    /// Waits for an incoming migration.
    Inmigrate,
    /// vCPUs run.
    Running,
    /// Stopped by `stop`.
    Paused,
    /// Stopped by an outgoing migration that has not handed over yet.
    FinishMigrate,
    /// Handed over: this process never runs the guest again.
    Postmigrate,
    /// The guest has powered itself off.
    Shutdown,
    /// An error of ours or of the accelerator stopped it.
    InternalError,
}

impl RunState {
    /// The word that monitors print.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Inmigrate => "inmigrate",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::FinishMigrate => "finish-migrate",
            Self::Postmigrate => "postmigrate",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
        }
    }
}

/// Answer to `info status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmStatus {
    /// State.
    pub status: RunState,
    /// Whether vCPUs run.
    pub running: bool,
    /// What is worth knowing beside it: who owns the guest, which pages a vCPU waits for.
    pub notes: Vec<String>,
}

/// Answer to `info cpus`, one hart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuStatus {
    /// Hart number.
    pub index: u32,
    /// What its thread does: `running`, `halted`, `stopped`, `waiting for page …`.
    pub state: String,
    /// Kernel thread id.
    pub thread_id: Option<i32>,
}

/// Answer to `info block`, one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStatus {
    /// Name.
    pub device: String,
    /// Image file.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether this process holds the image's lock.
    pub locked: bool,
}

/// Answer to `info memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryStatus {
    /// Name, guest physical address, bytes of each RAM block.
    pub blocks: Vec<(String, u64, u64)>,
    /// Page size of the host mapping, bytes.
    pub page_bytes: u64,
    /// Pages present; all of them unless a postcopy is under way.
    pub pages_present: u64,
    /// Pages in all.
    pub pages_total: u64,
}

/// `migrate [-p [-n] [-m]] URI [forward [backward]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// Where to.
    pub uri: String,
    /// `-p`: pure postcopy.
    pub postcopy: bool,
    /// Not `-n`: the background sends too.
    pub background: bool,
    /// `-m`: the background goes on behind the last page served.
    pub move_background: bool,
    /// Pages sent beyond a demanded one.
    pub prefault_forward: u64,
    /// Pages sent before a demanded one.
    pub prefault_backward: u64,
}

/// What holds for every migration away from here until it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationParameters {
    /// Whether the background sends.
    pub postcopy_background: bool,
    /// Bytes a second that the background may send; 0 is no limit. Demanded pages are never limited.
    pub max_postcopy_bandwidth: u64,
    /// Connections for the background, 1 to [`MigrationParameters::MOST_CHANNELS`].
    pub multifd_channels: u8,
}

impl MigrationParameters {
    /// Most connections for the background.
    pub const MOST_CHANNELS: u8 = 16;
}

impl Default for MigrationParameters {
    fn default() -> Self {
        Self { postcopy_background: true, max_postcopy_bandwidth: 0, multifd_channels: 1 }
    }
}

/// Which end the operator declares to own the guest, when a handover's outcome cannot be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The guest runs here again; the destination is known not to run it.
    Source,
    /// The guest runs at the destination; it never runs here again.
    Destination,
}

/// What monitors tell their clients without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// vCPUs stopped.
    Stop,
    /// vCPUs run again.
    Resume,
    /// The guest powered off, or `quit`.
    Shutdown,
    /// The guest was reset.
    Reset,
    /// The migration is in another phase (see [`MigrationStatus::phase`]).
    Migration {
        /// Phase.
        phase: String,
    },
}

/// A refusal: lower case, with the numbers and the way out.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("{0}")]
pub struct ControlError(pub String);

impl ControlError {
    /// A refusal with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A VM as monitors see it. No call waits for a page, a peer or the guest for longer than about a
/// second: what takes longer is started here and watched through the status calls.
pub trait VmControl: Send + Sync {
    /// State, for `info status`.
    fn status(&self) -> VmStatus;
    /// Harts, for `info cpus`.
    fn cpus(&self) -> Vec<CpuStatus>;
    /// Registers of a hart as text, for `info registers`.
    ///
    /// # Errors
    /// No such hart, or it waits for a page and cannot be stopped to be looked at.
    fn registers(&self, hart: u32) -> Result<String, ControlError>;
    /// Disks, for `info block`.
    fn block(&self) -> Vec<BlockStatus>;
    /// RAM, for `info memory`.
    fn memory(&self) -> MemoryStatus;
    /// The newest migration of this VM, either way; `None` before the first.
    fn migration(&self) -> Option<MigrationStatus>;

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// Names the page that a vCPU waits for when it cannot stop within a second.
    fn stop(&self) -> Result<(), ControlError>;
    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// When this process may not run the guest (handed over, or its outcome not known).
    fn cont(&self) -> Result<(), ControlError>;
    /// Resets the machine.
    ///
    /// # Errors
    /// When this process may not run the guest.
    fn system_reset(&self) -> Result<(), ControlError>;
    /// Asks the guest to power off, or powers it off where the board has no such button.
    ///
    /// # Errors
    /// When this process may not run the guest.
    fn system_powerdown(&self) -> Result<(), ControlError>;
    /// Ends this process's VM, at once, whatever it waits for.
    fn quit(&self);

    /// Starts an outgoing migration; its course is seen through [`VmControl::migration`].
    ///
    /// # Errors
    /// What is wrong with the request or the moment (pages still missing, one under way).
    fn migrate(&self, request: MigrateRequest) -> Result<(), ControlError>;
    /// Starts to listen (`-incoming defer`).
    ///
    /// # Errors
    /// Not started with `-incoming defer`, already listening, or the URI cannot be listened on.
    fn migrate_incoming(&self, uri: &str) -> Result<(), ControlError>;
    /// Gives up an outgoing migration; the guest goes on here.
    ///
    /// # Errors
    /// None under way, or the handover has begun.
    fn migrate_cancel(&self) -> Result<(), ControlError>;
    /// The operator's decision when the outcome of the handover cannot be learned.
    ///
    /// # Errors
    /// When the outcome is not in doubt.
    fn migrate_resolve(&self, owner: Owner) -> Result<(), ControlError>;
    /// Parameters of this or the next migration.
    fn parameters(&self) -> MigrationParameters;
    /// Changes them. What can change in flight does: the background's switch and its bandwidth.
    ///
    /// # Errors
    /// Values that make no sense, with those that do.
    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError>;

    /// A queue of events from now on. Bounded: a reader that falls far behind misses some.
    fn events(&self) -> crossbeam_channel::Receiver<VmEvent>;
}
