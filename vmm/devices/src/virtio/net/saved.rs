//! A virtio-net's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a virtio-net, version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioNet {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether the link is up.
    pub link_up: bool,
    /// Whether the driver was asked to announce itself and has not acknowledged it.
    pub announce: bool,
    /// A frame taken from the tap for which the driver had no buffer yet; empty for none.
    #[serde(with = "umem_state::bytes")]
    pub frame: Vec<u8>,
}
