//! A virtio-blk's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a virtio-blk, version 1. The disk's contents are shared or moved by other means;
/// what is here says which disk the guest expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioBlk {
    /// Size of the disk in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}
