//! The command port (Intel 8042; Linux resets by it when ACPI does not do, `arch/x86/kernel/reboot.c`).
//!
//! Its status reads as 0: ready for a command, and no key was pressed. There is no data port, so drivers
//! find no controller. The device has no state, so it has no saved form.

use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use accel::AccessSize;
use std::time::Instant;

/// Pulses output line 0, the processor's reset.
const RESET: u64 = 0xfe;

/// The device. Its callback runs on the vCPU's thread and only passes the request on.
pub struct KeyboardReset {
    report: Box<dyn Fn() + Send + Sync>,
}

impl KeyboardReset {
    /// Bytes of its window: the command port alone.
    pub const BYTES: u64 = 1;

    /// A device that calls `report` when the guest asks for a reset.
    #[must_use]
    pub fn new(report: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { report }
    }
}

impl std::fmt::Debug for KeyboardReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyboardReset")
    }
}

impl MmioDevice for KeyboardReset {
    fn read(&self, _offset: u64, _size: AccessSize) -> u64 {
        0
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        if (offset, size, value & 0xff) == (0, AccessSize::Byte, RESET) {
            (self.report)();
        }
    }
}

impl Lifecycle for KeyboardReset {
    fn quiesce(&self, _deadline: Instant) -> Result<(), Busy> {
        Ok(())
    }

    fn resume(&self) {}

    fn reset(&self) {}
}
