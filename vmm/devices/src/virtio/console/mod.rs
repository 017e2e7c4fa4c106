//! virtio-console with one port (specification, section 5.3).

mod device;
mod input;
mod saved;
#[cfg(test)]
mod tests;

pub use device::VirtioConsole;
pub use saved::SavedVirtioConsole;
