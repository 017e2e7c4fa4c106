//! What a monitor may ask of a VM. The monitor crate knows the VM by this trait alone.

use serde::Serialize;
use umem_link::{BULK_LANES, MigrationStatus};

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

/// Answer to `info cpus`, one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuStatus {
    /// Its number.
    pub index: u32,
    /// The guest's architecture, by the name of QEMU's target.
    pub target: &'static str,
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

/// Answer to `info network`, one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkStatus {
    /// Name of its tap.
    pub id: String,
    /// Where frames go, for people.
    pub tap: String,
    /// Hardware address.
    pub mac: String,
    /// Whether the link is up.
    pub up: bool,
    /// Frames given to the guest.
    pub received: u64,
    /// Frames given to the host.
    pub sent: u64,
    /// Frames dropped, in either direction.
    pub dropped: u64,
}

/// Answer to `info balloon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BalloonStatus {
    /// Bytes of RAM that are not in the balloon, by the guest's word.
    pub actual: u64,
    /// Bytes of RAM that it was asked to keep.
    pub target: u64,
    /// Bytes that it has given back to the host here, by the balloon or as free pages; some perhaps more
    /// than once.
    pub given_back: u64,
}

/// Answer to `info memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryStatus {
    /// Name, guest physical address, bytes of each RAM block.
    pub blocks: Vec<(String, u64, u64)>,
    /// Size of the pages that are counted, bytes.
    pub page_bytes: u64,
    /// What the kernel has it made of.
    pub kind: String,
    /// Size of the host's pages, bytes: what is mapped, and arrives, as a whole.
    pub host_page_bytes: u64,
    /// Huge pages that were joined from small ones after the last postcopy, and places where one could
    /// have been; `None` when that never began.
    pub collapsed: Option<(u64, u64)>,
    /// Pages present; all of them unless a postcopy is under way.
    pub pages_present: u64,
    /// Pages in all.
    pub pages_total: u64,
}

/// How `migrate` was asked to move the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrateMode {
    /// `migrate URI`: precopy. With the capability `postcopy-ram`, pages may follow after the switch.
    Precopy,
    /// `migrate -p URI`: all pages follow after the switch.
    Postcopy,
    /// `migrate -p --precopy N URI`: at most so many rounds (at least 1), then the switch.
    Hybrid {
        /// Most rounds.
        rounds: u32,
    },
}

/// `migrate [-p [-n] [-m] [--precopy N]] URI [forward [backward]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// Where to: `tcp:`, `unix:`, `fd:` or `file:`.
    pub uri: String,
    /// Before and after the switch.
    pub mode: MigrateMode,
    /// Not `-n`: the background sends too.
    pub background: bool,
    /// `-m`: the background goes on behind the last page served.
    pub move_background: bool,
    /// Neither `-m` nor a count is given: a postcopy sends ahead what the guest's runs through memory call for.
    pub prefault_adaptive: bool,
    /// Pages sent beyond a demanded one.
    pub prefault_forward: u64,
    /// Pages sent before a demanded one.
    pub prefault_backward: u64,
}

/// When a migration that may go over to postcopy does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostcopySwitch {
    /// By itself, when more rounds would gain nothing, or when told.
    Auto,
    /// Only when told (`migrate_start_postcopy`).
    Manual,
}

/// How pages are packed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageCompression {
    /// Not at all.
    None,
    /// By LZ4.
    Lz4,
    /// By Zstandard.
    Zstd,
    /// As the link and the pages are found to be; a fast link sees no packing.
    Auto,
}

/// Something that is done, or not, or decided when it is due. What each means stands where it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnOffAuto {
    /// As it pays.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What holds for every migration away from here until it is changed. Names as QEMU's where it has
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationParameters {
    /// Longest time that the guest may stand still at the end of a precopy, milliseconds, as it is
    /// predicted.
    pub downtime_limit: u64,
    /// Bytes a second that rounds of precopy may send while the guest runs; 0 is no limit.
    pub max_bandwidth: u64,
    /// Bytes a second that the background may send; 0 is no limit. Demanded pages are never limited.
    pub max_postcopy_bandwidth: u64,
    /// Whether the background sends.
    pub postcopy_background: bool,
    /// Whether, once all pages of a postcopy are here, the small pages that they came in are joined to
    /// transparent huge ones.
    pub postcopy_collapse: bool,
    /// When rounds end and postcopy begins, where both may be.
    pub postcopy_switch: PostcopySwitch,
    /// Connections for pages, 1 to [`MigrationParameters::MOST_CHANNELS`].
    pub multifd_channels: u8,
    /// How pages are packed, where the destination can unpack them.
    pub multifd_compression: PageCompression,
    /// Whether pages that rounds send again go as their difference from the copy sent before: auto, where pages are
    /// packed anyway; on, wherever such a copy is kept.
    pub xor_delta: OnOffAuto,
    /// Bytes of copies that are kept for that at most, up to [`MigrationParameters::LARGEST_CACHE`].
    pub xbzrle_cache_size: u64,
    /// Whether the host of the end where it is set is asked to keep its CPUs from sleeping, from the guest's stop until all
    /// pages are there: auto, for 1 s at most.
    pub low_cpu_latency: OnOffAuto,
    /// Pause before the second announcement of a guest that has arrived, milliseconds.
    pub announce_initial: u64,
    /// By how much each pause is longer than the one before, milliseconds.
    pub announce_step: u64,
    /// Longest pause, milliseconds.
    pub announce_max: u64,
    /// Announcements in all, at most 100.
    pub announce_rounds: u8,
    /// First share of the vCPUs' time taken by auto-converge, per cent, 1 to 99.
    pub cpu_throttle_initial: u8,
    /// By how much it grows, per cent, 1 to 99.
    pub cpu_throttle_increment: u8,
    /// Where it ends, per cent, 1 to 99.
    pub max_cpu_throttle: u8,
}

impl MigrationParameters {
    /// Most connections for pages.
    pub const MOST_CHANNELS: u8 = 16;
    /// Longest `downtime-limit`, milliseconds, as in QEMU.
    pub const LONGEST_DOWNTIME: u64 = 2_000_000;
    /// Largest `xbzrle-cache-size`, bytes.
    pub const LARGEST_CACHE: u64 = 1 << 40;
}

impl Default for MigrationParameters {
    fn default() -> Self {
        Self {
            downtime_limit: 300,
            max_bandwidth: 0,
            max_postcopy_bandwidth: 0,
            postcopy_background: true,
            postcopy_collapse: true,
            postcopy_switch: PostcopySwitch::Auto,
            multifd_channels: BULK_LANES,
            multifd_compression: PageCompression::Auto,
            xor_delta: OnOffAuto::Auto,
            xbzrle_cache_size: 64 << 20,
            low_cpu_latency: OnOffAuto::Auto,
            announce_initial: 50,
            announce_step: 100,
            announce_max: 550,
            announce_rounds: 5,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            max_cpu_throttle: 99,
        }
    }
}

/// What a migration may do. Names as QEMU's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationCapabilities {
    /// At the source: `migrate URI` may go over to postcopy. At the destination: guests are taken in
    /// that may be missing pages when they begin to run, as with `-postcopy`; there it can be changed
    /// until a guest comes in.
    pub postcopy_ram: bool,
    /// Precopy takes time from the vCPUs when they write faster than it sends.
    pub auto_converge: bool,
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
    /// The guest's balloon has another size.
    BalloonChange {
        /// Bytes of RAM that are not in it.
        actual: u64,
    },
    /// vCPUs stopped.
    Stop,
    /// vCPUs run again.
    Resume,
    /// The machine is switched off, or this VM ends by `quit`.
    Shutdown {
        /// Whether the guest asked for it.
        guest: bool,
    },
    /// The machine was reset.
    Reset {
        /// Whether the guest asked for it.
        guest: bool,
    },
    /// A round of precopy begins.
    MigrationPass {
        /// Its number, from 1 up.
        pass: u32,
    },
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
    /// Registers of a vCPU as text, for `info registers`.
    ///
    /// # Errors
    /// No such vCPU, or it waits for a page and cannot be stopped to be looked at.
    fn registers(&self, number: u32) -> Result<String, ControlError>;
    /// Disks, for `info block`.
    fn block(&self) -> Vec<BlockStatus>;
    /// RAM, for `info memory`.
    fn memory(&self) -> MemoryStatus;
    /// Network devices.
    fn networks(&self) -> Vec<NetworkStatus>;
    /// The balloon; `None` when the guest has none.
    fn balloon(&self) -> Option<BalloonStatus>;
    /// Asks the guest to keep so many bytes of its RAM and put the rest into its balloon.
    ///
    /// # Errors
    /// Without a balloon.
    fn set_balloon(&self, bytes: u64) -> Result<(), ControlError>;
    /// Announces the guest on its networks.
    ///
    /// # Errors
    /// When the guest is not this process's.
    fn announce_self(&self) -> Result<(), ControlError>;
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
    /// Rounds end as soon as they can, and postcopy begins. Fine as well when it has begun.
    ///
    /// # Errors
    /// None under way, or the migration was started without postcopy.
    fn migrate_start_postcopy(&self) -> Result<(), ControlError>;
    /// Holds back all pages of a postcopy whose guest has been handed over (`postcopy-paused` at the
    /// source); the guest waits for those that it needs.
    ///
    /// # Errors
    /// None in that phase.
    fn migrate_pause(&self) -> Result<(), ControlError>;
    /// Ends [`VmControl::migrate_pause`].
    ///
    /// # Errors
    /// None is paused.
    fn migrate_resume(&self) -> Result<(), ControlError>;
    /// The operator's decision when the outcome of the handover cannot be learned.
    ///
    /// # Errors
    /// When the outcome is not in doubt.
    fn migrate_resolve(&self, owner: Owner) -> Result<(), ControlError>;
    /// Parameters of this or the next migration.
    fn parameters(&self) -> MigrationParameters;
    /// Changes them. What can change in flight does: all but the number of connections and
    /// auto-converge's figures.
    ///
    /// # Errors
    /// Values that make no sense, with those that do.
    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError>;

    /// What this or the next migration may do.
    fn capabilities(&self) -> MigrationCapabilities;
    /// Changes it, for the next migration.
    ///
    /// # Errors
    /// While a migration is under way.
    fn set_capabilities(&self, capabilities: MigrationCapabilities) -> Result<(), ControlError>;

    /// A queue of events from now on. Bounded: a reader that falls far behind misses some.
    fn events(&self) -> crossbeam_channel::Receiver<VmEvent>;
}
