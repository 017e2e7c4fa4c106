//! Virtio devices (Virtual I/O Device Version 1.2, OASIS; "the specification" below).
//!
//! ```text
//!  vCPU threads                      worker thread, one a device
//!  register access                   takes requests, does them, completes them
//!       |                                 |
//!  Transport (lock, short)  <-- raises ---+
//!       |  kick                           |
//!       +------------> Control ---------> Engine: device and its queues (lock, held while it works)
//! ```
//!
//! Nobody takes the engine's lock without bringing the worker to rest first. The worker waits for a
//! page of guest memory, for the disk or for nothing; the first two with none of the short locks
//! held. Waits for pages end when the worker is wanted at rest: the request is then given back to
//! its queue as if it had never been taken, and done again later, here or at a move's destination.

mod balloon;
mod blk;
mod chain;
mod console;
mod device;
mod engine;
mod memory;
mod mmio;
mod net;
mod requests;
mod rng;
mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use balloon::{Balloon, BalloonFeatures, GivenBack, SavedVirtioBalloon, VirtioBalloon};
pub use blk::{Disk, DiskError, SavedVirtioBlk, VirtioBlk};
pub use chain::{Buffers, Chain};
pub use console::{SavedVirtioConsole, VirtioConsole};
pub use device::{ConfigSpace, Progress, TransportHandle, VirtioDevice};
pub use memory::{Absent, AllPresent, GuestRange, PresentPages};
pub use mmio::{EmptySlot, SavedQueue, SavedVirtioMmio, VirtioMmio};
pub use net::{Announcer, Link, LinkCounts, SavedVirtioNet, Tap, TapError, VirtioNet};
pub use requests::{QueueError, Requests};
pub use rng::{SavedVirtioRng, VirtioRng};
