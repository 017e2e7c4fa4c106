//! The data plane: lanes, sockets and the threads that move pages.
//!
//! [`SourceSession`] moves a guest away, [`DestinationListener`] takes one in. What they ask of the
//! machine above is in [`SourceVm`] and [`DestinationVm`]. [`SnapshotSave`] and [`SnapshotLoad`] do the
//! same with a file between the two.

pub mod channel;
mod destination;
mod handshake;
mod host;
mod lane;
mod lanes;
mod latency;
mod meter;
mod snapshot;
pub mod socket;
mod source;
mod status;
mod uri;
mod wake;

pub use destination::{DestinationListener, DestinationOptions, StartError};
pub use host::{DestinationVm, LiveRam, SourceVm, StoppedGuest};
pub use latency::LowLatency;
pub use snapshot::{
    LoadOptions, SaveOptions, SnapshotDestination, SnapshotLoad, SnapshotSave, SnapshotSource,
    snapshot_path,
};
pub use source::{BULK_LANES, SourceOptions, SourceSession};
pub use status::{
    DowntimeParts, End, FaultLatency, MigrationStatus, PackedStatus, PageCounts, RoundsStatus,
};
pub use umem_migrate::{
    AutoConverge, Compression, Differences, Operator, Prefault, Rounds, Strategy, Switch,
};
pub use umem_wire::{Block, Codec, Features, MachineDescription, Mode};
pub use uri::{Endpoint, UriError};
pub use wake::Wake;
