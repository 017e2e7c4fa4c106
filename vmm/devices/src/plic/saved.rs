//! A PLIC's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a PLIC, version 1. Sets of sources are words with a bit for each source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlic {
    /// Priority of each source, by number.
    pub priorities: Vec<u8>,
    /// Levels of the sources' lines.
    pub levels: u64,
    /// Pending sources.
    pub pending: u64,
    /// Claimed and not completed.
    pub claimed: u64,
    /// Enabled sources of each context.
    pub enabled: Vec<u64>,
    /// Threshold of each context.
    pub thresholds: Vec<u8>,
}
