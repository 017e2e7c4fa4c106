use super::*;
use crate::bus::MmioDevice;
use accel::AccessSize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn the_reset_command_is_reported_and_no_other() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = resets.clone();
    let report = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let device = KeyboardReset::new(Box::new(report));
    for command in 0..=0xff {
        // As Linux does: not before the controller is ready for a command.
        assert_eq!(device.read(0, AccessSize::Byte) & 2, 0);
        device.write(0, AccessSize::Byte, command);
        assert_eq!(resets.load(Ordering::Relaxed), usize::from(command >= 0xfe), "{command:#x}");
    }
}
