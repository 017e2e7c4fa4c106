//! A virtio-balloon's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a virtio-balloon, version 1. Which pages are in it is the guest's to know; what was
/// given back reads as zeroes and moves as such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioBalloon {
    /// Pages of 4 KiB that the driver is asked to have in the balloon.
    pub target_pages: u32,
    /// Pages that it says are in it.
    pub actual_pages: u32,
}
