use super::*;
use crate::virtio::AllPresent;
use crate::virtio::testing::*;
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn the_buffers_are_filled_with_what_differs_each_time() {
    let mut driver = Driver::new(VirtioRng::new(), Arc::new(AllPresent));
    driver.start(1);
    driver.submit(0, &[(DATA, 3000, WRITE), (DATA + 0x1000, 8, WRITE)]);
    assert_eq!(driver.await_used(0), 3008);
    assert_ne!(driver.bytes(DATA, 32), driver.bytes(DATA + 1024, 32));
    assert_ne!(driver.bytes(DATA + 2968, 32), vec![0; 32]);
    assert_eq!(driver.bytes(DATA + 3000, 8), vec![0; 8]);
}

#[test]
fn a_request_without_room_is_completed_with_nothing() {
    let mut driver = Driver::new(VirtioRng::new(), Arc::new(AllPresent));
    driver.start(1);
    driver.submit(0, &[(DATA, 8, READ)]);
    assert_eq!(driver.await_used(0), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_guest_does_the_device_comes_to_rest(hostile in hostile()) {
        act(&mut Driver::new(VirtioRng::new(), Arc::new(AllPresent)), 1, &hostile);
    }
}
