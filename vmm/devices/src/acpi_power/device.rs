//! Three registers of one byte (ACPI specification 6.5, sections 4.8.3.6 "Reset Register" and 4.8.3.7
//! "Sleep Control and Status Registers"):
//!
//! ```text
//!  0  sleep control  bits 2..4 sleep type, bit 5 sleep; reads as 0
//!  1  sleep status   bit 7 says that a sleep is over; this machine never wakes up: reads as 0
//!  2  reset          reads as 0
//! ```
//! The device has no state, so it has no saved form.

use super::AcpiPowerConfig;
use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use accel::AccessSize;
use std::time::Instant;

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;

const SLEEP_TYPE_SHIFT: u32 = 2;
const SLEEP_TYPE: u8 = 7;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Switch off.
    PowerOff,
    /// Reset the board.
    Reset,
}

/// The device. Its callback runs on the vCPU's thread and only passes the request on.
pub struct AcpiPower {
    config: AcpiPowerConfig,
    report: Box<dyn Fn(PowerRequest) + Send + Sync>,
}

impl AcpiPower {
    /// Bytes of its window.
    pub const BYTES: u64 = 3;

    /// A device that reports to `report`.
    #[must_use]
    pub fn new(config: AcpiPowerConfig, report: Box<dyn Fn(PowerRequest) + Send + Sync>) -> Self {
        Self { config, report }
    }
}

impl std::fmt::Debug for AcpiPower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AcpiPower").field(&self.config).finish()
    }
}

impl MmioDevice for AcpiPower {
    fn read(&self, _offset: u64, _size: AccessSize) -> u64 {
        0
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        let [byte, ..] = value.to_le_bytes();
        if size != AccessSize::Byte {
            return;
        }
        match offset {
            // Other sleep types are of states that the machine does not have.
            SLEEP_CONTROL
                if byte & SLEEP_ENABLE != 0
                    && byte >> SLEEP_TYPE_SHIFT & SLEEP_TYPE == self.config.off_type =>
            {
                (self.report)(PowerRequest::PowerOff);
            }
            RESET if byte == self.config.reset_value => (self.report)(PowerRequest::Reset),
            _ => {}
        }
    }
}

impl Lifecycle for AcpiPower {
    fn quiesce(&self, _deadline: Instant) -> Result<(), Busy> {
        Ok(())
    }

    fn resume(&self) {}

    fn reset(&self) {}
}
