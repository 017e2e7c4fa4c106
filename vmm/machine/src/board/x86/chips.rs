//! KVM's interrupt controllers and interval timer, as one part of the machine.

use accel_kvm::{KvmChips, SavedChips};
use devices::{Busy, Lifecycle};
use std::sync::Arc;
use std::time::Instant;
use umem_state::{SaveRestore, StateError};

/// The chips. They come to rest by themselves when no vCPU runs and no device drives a line.
pub(super) struct Chips(pub(super) Arc<KvmChips>);

impl Lifecycle for Chips {
    fn quiesce(&self, _: Instant) -> Result<(), Busy> {
        Ok(())
    }

    fn resume(&self) {}

    fn reset(&self) {}
}

impl SaveRestore for Chips {
    type Saved = SavedChips;

    const VERSION: u32 = KvmChips::VERSION;

    fn save(&self) -> SavedChips {
        self.0.save()
    }

    fn restore(&self, saved: SavedChips) -> Result<(), StateError> {
        self.0.restore(saved)
    }
}
