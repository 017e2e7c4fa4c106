//! virtio-rng: entropy from the host (specification, section 5.4).

mod device;
mod saved;
#[cfg(test)]
mod tests;

pub use device::VirtioRng;
pub use saved::SavedVirtioRng;
