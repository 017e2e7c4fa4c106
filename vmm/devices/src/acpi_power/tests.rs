use super::*;
use crate::bus::MmioDevice;
use accel::AccessSize;
use std::sync::mpsc;

#[test]
fn the_two_requests_are_reported_and_nothing_else() {
    let (sender, requests) = mpsc::channel();
    let config = AcpiPowerConfig { off_type: 5, reset_value: 1 };
    let device = AcpiPower::new(config, Box::new(move |request| sender.send(request).unwrap()));
    let asked = |offset, size, value| {
        device.write(offset, size, value);
        requests.try_iter().collect::<Vec<_>>()
    };
    // Sleep type 5 and "sleep", as the test guest and Linux write it.
    assert_eq!(asked(0, AccessSize::Byte, 0x34), [PowerRequest::PowerOff]);
    assert_eq!(asked(2, AccessSize::Byte, 1), [PowerRequest::Reset]);
    let sleep_in_another_state = 0x24;
    let type_alone = 0x14;
    for (offset, size, value) in [
        (0, AccessSize::Byte, sleep_in_another_state),
        (0, AccessSize::Byte, type_alone),
        (0, AccessSize::Half, 0x34),
        (1, AccessSize::Byte, 0x34),
        (1, AccessSize::Byte, 0x80),
        (2, AccessSize::Byte, 0),
        (2, AccessSize::Byte, 6),
        (2, AccessSize::Word, 1),
    ] {
        assert_eq!(asked(offset, size, value), [], "{value:#x} at {offset}");
    }
    for offset in 0..AcpiPower::BYTES {
        assert_eq!(device.read(offset, AccessSize::Byte), 0);
    }
}
