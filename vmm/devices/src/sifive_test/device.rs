//! The one register (QEMU's `hw/misc/sifive_test.c`; Linux drives it as a `syscon`).
//!
//! The device has no state, so it has no saved form.

use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use accel::AccessSize;
use std::time::Instant;

const FAIL: u64 = 0x3333;
const PASS: u64 = 0x5555;
const RESET: u64 = 0x7777;

/// What the guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestRequest {
    /// Switch off.
    PowerOff,
    /// Reset the board.
    Reset,
    /// Switch off; the guest says that it failed.
    Fail {
        /// The guest's code.
        code: u16,
    },
}

/// The device. Its callback runs on the vCPU's thread and only passes the request on.
pub struct SifiveTest {
    report: Box<dyn Fn(TestRequest) + Send + Sync>,
}

impl SifiveTest {
    /// A test device that reports to `report`.
    #[must_use]
    pub fn new(report: Box<dyn Fn(TestRequest) + Send + Sync>) -> Self {
        Self { report }
    }
}

impl std::fmt::Debug for SifiveTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SifiveTest")
    }
}

impl MmioDevice for SifiveTest {
    fn read(&self, _offset: u64, _size: AccessSize) -> u64 {
        0
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        if offset != 0 || !matches!(size, AccessSize::Half | AccessSize::Word) {
            return;
        }
        let [_, _, low, high, ..] = value.to_le_bytes();
        match value & 0xffff {
            FAIL => (self.report)(TestRequest::Fail { code: u16::from_le_bytes([low, high]) }),
            PASS => (self.report)(TestRequest::PowerOff),
            RESET => (self.report)(TestRequest::Reset),
            _ => {}
        }
    }
}

impl Lifecycle for SifiveTest {
    fn quiesce(&self, _deadline: Instant) -> Result<(), Busy> {
        Ok(())
    }

    fn resume(&self) {}

    fn reset(&self) {}
}
