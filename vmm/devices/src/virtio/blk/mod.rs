//! virtio-blk: a raw file as a disk (specification, section 5.2).

mod device;
mod disk;
mod pool;
mod request;
mod saved;
#[cfg(test)]
mod tests;

pub use device::VirtioBlk;
pub use disk::{Disk, DiskError};
pub use saved::SavedVirtioBlk;
