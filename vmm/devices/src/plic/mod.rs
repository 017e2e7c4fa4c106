//! Platform-level interrupt controller, in SiFive's layout as on QEMU's `virt` board.

mod config;
mod device;
mod saved;
#[cfg(test)]
mod tests;

pub use config::PlicConfig;
pub use device::Plic;
pub use saved::SavedPlic;
