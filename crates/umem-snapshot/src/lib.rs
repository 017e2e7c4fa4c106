//! The snapshot file: a guest at rest, whose pages can be read one by one.
//!
//! docs/snapshot.md is normative. [`SnapshotWriter`] writes a file while the guest runs on: every page
//! has its place, and may be written again until [`SnapshotWriter::finish`]. [`Snapshot`] opens one,
//! verifies all but the pages, and verifies each page when it is read. No value read from a file is
//! believed: lengths are bounded before memory is taken for them.

mod error;
mod header;
mod index;
mod partial;
mod reader;
mod writer;

pub use error::{Part, SnapshotError};
pub use reader::{Limits, Snapshot};
pub use writer::{Finished, SnapshotWriter};
