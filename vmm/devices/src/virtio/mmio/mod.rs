//! Virtio over MMIO, version 2 (specification, section 4.2).

mod device;
mod registers;
mod saved;
#[cfg(test)]
mod tests;

pub use device::{EmptySlot, VirtioMmio};
pub use saved::{SavedQueue, SavedVirtioMmio};

pub(super) use registers::Transport;
