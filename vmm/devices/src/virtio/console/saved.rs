//! A virtio-console's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a virtio-console, version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioConsole {
    /// Bytes typed that the driver has not received.
    pub input: Vec<u8>,
    /// Bytes printed that the host's writer has not taken.
    pub output: Vec<u8>,
    /// Bytes of the next request to print that were taken over already.
    pub sent: u64,
}
