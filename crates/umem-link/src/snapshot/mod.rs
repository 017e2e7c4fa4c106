//! Snapshots: a guest saved to a file while it runs, and loaded from one, before it runs or as it
//! needs its pages. docs/snapshot.md has the format and the promises.

mod load;
mod pages;
mod save;

use crate::host::{DestinationVm, SourceVm};
use std::path::PathBuf;
use umem_memory::PageIndex;

pub use load::{LoadOptions, SnapshotLoad};
pub use save::{SaveOptions, SnapshotSave};

/// The path in `file:PATH`; `None` for an address of another kind.
#[must_use]
pub fn snapshot_path(uri: &str) -> Option<PathBuf> {
    uri.strip_prefix("file:").map(PathBuf::from)
}

/// The machine whose guest is saved: what a migration asks of it until the guest stands still, and one
/// more thing. Of [`SourceVm`] the calls from [`SourceVm::handover_begun`] on are not made, but
/// [`SourceVm::take_back`] when the save has come to nothing.
pub trait SnapshotSource: SourceVm {
    /// The snapshot is whole. The guest stays stopped, and is still this machine's: it goes on when it
    /// is told to.
    fn saved(&self);
}

/// The machine that a snapshot is loaded into: what a migration asks of it, and one more thing.
pub trait SnapshotDestination: DestinationVm {
    /// A page of the guest, which runs, cannot be read from the file, or is not as it was written. The
    /// guest is to be paused and this to be reported. The page stays missing: whoever touches it
    /// waits, until [`SnapshotLoad::retry`] finds it repaired. Called from the session's thread.
    fn page_lost(&self, page: PageIndex, why: &str);
}
