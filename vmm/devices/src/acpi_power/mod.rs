//! ACPI's registers of a hardware-reduced machine: the guest switches it off or resets it.

mod config;
mod device;
#[cfg(test)]
mod tests;

pub use config::AcpiPowerConfig;
pub use device::{AcpiPower, PowerRequest};
