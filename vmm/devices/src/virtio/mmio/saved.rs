//! A virtio device's state as it moves.

use serde::{Deserialize, Serialize};

/// One queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedQueue {
    /// Number of descriptors.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    /// Position in the available ring of the next request to take.
    pub next_available: u16,
    /// Position in the used ring of the next completion.
    pub next_used: u16,
}

/// Saved form of a virtio-mmio transport with its device, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVirtioMmio<S> {
    /// Device ID.
    pub device_id: u32,
    /// Device status.
    pub status: u32,
    /// Half of the device's features that is shown.
    pub device_features_select: u32,
    /// Half of the driver's features that is written.
    pub driver_features_select: u32,
    /// Features that the driver accepts.
    pub driver_features: u64,
    /// Queue that the queue registers speak of.
    pub queue_select: u32,
    /// Interrupts that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// Counts changes of the configuration space.
    pub config_generation: u32,
    /// All queues of the device.
    pub queues: Vec<SavedQueue>,
    /// The device's own state.
    pub device: S,
}
