//! A virtio-rng's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a virtio-rng, version 1: it has no state of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioRng {}
