use super::*;
use crate::bus::MmioDevice;
use accel::AccessSize;
use std::sync::mpsc;

#[test]
fn the_three_requests_are_reported_and_nothing_else() {
    let (sender, requests) = mpsc::channel();
    let device = SifiveTest::new(Box::new(move |request| sender.send(request).unwrap()));
    device.write(0, AccessSize::Word, 0x5555);
    device.write(0, AccessSize::Word, 0x7777);
    device.write(0, AccessSize::Word, 0x002a_3333);
    device.write(0, AccessSize::Word, 0x1234);
    device.write(4, AccessSize::Word, 0x5555);
    device.write(0, AccessSize::Byte, 0x5555);
    assert_eq!(device.read(0, AccessSize::Word), 0);
    let expected = [TestRequest::PowerOff, TestRequest::Reset, TestRequest::Fail { code: 42 }];
    assert_eq!(requests.try_iter().collect::<Vec<_>>(), expected);
}
