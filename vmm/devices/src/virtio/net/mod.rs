//! virtio-net on a tap (specification, section 5.1).

mod announce;
mod device;
mod link;
mod poller;
mod saved;
mod tap;
#[cfg(test)]
mod tests;

pub use announce::Announcer;
pub use device::VirtioNet;
pub use link::{Link, LinkCounts};
pub use saved::SavedVirtioNet;
pub use tap::{Tap, TapError};
