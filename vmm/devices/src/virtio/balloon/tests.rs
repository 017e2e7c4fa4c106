use super::*;
use crate::Lifecycle;
use crate::virtio::testing::*;
use crate::virtio::{AllPresent, GuestRange};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use umem_state::SaveRestore;

const ALL: BalloonFeatures = BalloonFeatures { deflate_on_oom: true, free_page_reporting: true };

/// Writes down what was given back: address and bytes.
#[derive(Default)]
struct Ledger(Mutex<Vec<(u64, u64)>>);

impl GivenBack for Ledger {
    fn give_back(&self, range: GuestRange) {
        assert_eq!((range.address.0 % 4096, range.bytes % 4096), (0, 0));
        let end = range.address.0.checked_add(range.bytes).unwrap();
        assert!(range.address.0 >= RAM_BASE && end <= RAM_BASE + RAM_BYTES as u64);
        self.0.lock().unwrap().push((range.address.0, range.bytes));
    }
}

fn start() -> (Driver<VirtioBalloon>, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    let mut driver = Driver::new(VirtioBalloon::new(ALL, ledger.clone()), Arc::new(AllPresent));
    driver.start(3);
    (driver, ledger)
}

fn numbers(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_le_bytes()).collect()
}

const FIRST: u32 = (RAM_BASE >> 12) as u32;

#[test]
fn pages_that_come_into_the_balloon_are_given_back_in_runs() {
    let (mut driver, ledger) = start();
    let all = [FIRST + 80, FIRST + 81, FIRST + 82, FIRST + 90, FIRST + 70, 3, u32::MAX];
    driver.put(DATA, &numbers(&all));
    driver.submit(0, &[(DATA, 10, READ), (DATA + 10, 18, READ)]);
    assert_eq!(driver.await_used(0), 0);
    let page = |number: u64| RAM_BASE + number * 4096;
    let expected = [(page(80), 3 * 4096), (page(90), 4096), (page(70), 4096)];
    assert_eq!(*ledger.0.lock().unwrap(), expected);
    driver.submit(1, &[(DATA, 28, READ)]);
    driver.await_used(1);
    assert_eq!(ledger.0.lock().unwrap().len(), 3, "nothing is given back when they leave");
}

#[test]
fn free_pages_are_given_back_without_being_fetched() {
    let ledger = Arc::new(Ledger::default());
    let gate = Arc::new(Gate::default());
    let mut driver = Driver::new(VirtioBalloon::new(ALL, ledger.clone()), gate.clone());
    driver.start(3);
    gate.shut(DATA);
    driver.submit(2, &[(DATA, 0x8000, WRITE), (DATA + 0x9800, 0x2000, WRITE), (DATA, 8, WRITE)]);
    driver.await_used(2);
    let expected = [(DATA, 0x8000), (DATA + 0xa000, 0x1000)];
    assert_eq!(*ledger.0.lock().unwrap(), expected, "whole pages only");
}

#[test]
fn the_driver_is_told_of_a_new_target_and_says_how_far_it_came() {
    let (driver, _ledger) = start();
    let balloon = driver.device.with_device(VirtioBalloon::balloon);
    balloon.set_target(300);
    assert_eq!((driver.get(0x60), driver.get(0x100)), (2, 300));
    driver.set(0x104, 17);
    driver.set(0x100, 99);
    assert_eq!((balloon.target(), balloon.actual()), (300, 17));
    driver.device.quiesce(soon()).unwrap();
    let saved = driver.device.save();
    assert_eq!(saved.device, SavedVirtioBalloon { target_pages: 300, actual_pages: 17 });
    driver.device.reset();
    assert_eq!((balloon.target(), balloon.actual()), (300, 0));
    driver.device.restore(saved).unwrap();
    assert_eq!(balloon.actual(), 17);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_guest_does_the_device_comes_to_rest(hostile in hostile()) {
        let device = VirtioBalloon::new(ALL, Arc::new(Ledger::default()));
        act(&mut Driver::new(device, Arc::new(AllPresent)), 3, &hostile);
    }
}
