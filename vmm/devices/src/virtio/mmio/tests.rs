use crate::virtio::testing::*;
use crate::virtio::{AllPresent, EmptySlot, VirtioRng};
use crate::{Lifecycle, MmioDevice};
use accel::AccessSize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use umem_state::SaveRestore;

fn driver() -> Driver<VirtioRng> {
    Driver::new(VirtioRng::new(), Arc::new(AllPresent))
}

const BUFFER: &[(u64, u32, u16)] = &[(DATA, 64, WRITE)];

#[test]
fn a_driver_finds_the_device_and_its_features() {
    let driver = driver();
    assert_eq!(driver.get(0), 0x7472_6976);
    assert_eq!(driver.get(4), 2);
    assert_eq!(driver.get(8), 4);
    driver.set(0x14, 1);
    assert_eq!(driver.get(0x10), 1, "VERSION_1");
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10), 3 << 28);
    driver.set(0x14, 2);
    assert_eq!(driver.get(0x10), 0);
    assert_eq!(driver.device.read(0, AccessSize::Byte), 0, "registers are words");
}

#[test]
fn an_empty_slot_has_device_id_0() {
    assert_eq!(EmptySlot.read(0, AccessSize::Word), 0x7472_6976);
    assert_eq!(EmptySlot.read(8, AccessSize::Word), 0);
}

#[test]
fn features_that_are_not_offered_or_lack_version_1_are_not_accepted() {
    for (low, high) in [(1, 1), (0, 0), (0, 3)] {
        let driver = driver();
        driver.set(0x70, 3);
        driver.set(0x24, 0);
        driver.set(0x20, low);
        driver.set(0x24, 1);
        driver.set(0x20, high);
        driver.set(0x70, 11);
        assert_eq!(driver.get(0x70), 3);
        driver.set(0x70, 15);
        assert_eq!(driver.get(0x70), 3, "no DRIVER_OK without FEATURES_OK");
    }
}

#[test]
fn a_completed_request_interrupts_until_it_is_acknowledged() {
    let mut driver = driver();
    driver.start(1);
    driver.submit(0, BUFFER);
    assert_eq!(driver.await_used(0), 64);
    await_that("no interrupt", || driver.line.load(Ordering::SeqCst));
    assert_eq!(driver.get(0x60), 1);
    driver.set(0x64, 1);
    assert_eq!(driver.get(0x60), 0);
    assert!(!driver.line.load(Ordering::SeqCst));
}

#[test]
fn a_reset_clears_the_registers_and_the_device_starts_again() {
    let mut driver = driver();
    for _ in 0..3 {
        driver.start(1);
        driver.submit(0, BUFFER);
        driver.await_used(0);
        driver.set(0x70, 0);
        assert_eq!((driver.get(0x70), driver.get(0x60), driver.get(0x44)), (0, 0, 0));
        assert!(!driver.line.load(Ordering::SeqCst));
    }
}

#[test]
fn a_queue_that_is_ready_or_of_an_odd_size_is_not_changed() {
    let mut driver = driver();
    driver.start(1);
    driver.set(0x38, 8);
    driver.set(0x80, 0xdead_0000);
    driver.submit(0, BUFFER);
    assert_eq!(driver.await_used(0), 64);
    let saved = driver.device.save();
    assert_eq!((saved.queues[0].size, saved.queues[0].descriptors), (QUEUE_SIZE, RAM_BASE));
}

#[test]
fn rings_outside_of_ram_need_a_reset() {
    let driver = driver();
    driver.set(0x70, 3);
    driver.set(0x24, 1);
    driver.set(0x20, 1);
    driver.set(0x70, 11);
    driver.set(0x80, 0x1000);
    driver.set(0x44, 1);
    driver.set(0x70, 15);
    driver.await_needs_reset();
    assert_eq!(driver.get(0x60), 2);
    driver.set(0x70, 0);
    assert_eq!(driver.get(0x70), 0);
}

#[track_caller]
fn needs_reset(descriptors: &[(u64, u32, u16, u16)]) {
    let mut driver = driver();
    driver.start(1);
    for (index, parts) in descriptors.iter().enumerate() {
        driver.write_descriptor(0, index as u16, *parts);
    }
    driver.offer(0, 0);
    driver.await_needs_reset();
    assert_eq!(driver.used(0), 0);
    driver.start(1);
    driver.submit(0, BUFFER);
    assert_eq!(driver.await_used(0), 64);
}

#[test]
fn a_chain_that_breaks_the_rules_needs_a_reset() {
    needs_reset(&[(DATA, 8, WRITE | 1, 0)]);
    needs_reset(&[(DATA, 8, WRITE | 1, 999)]);
    needs_reset(&[(0x1000, 8, WRITE, 0)]);
    needs_reset(&[(u64::MAX - 3, 8, WRITE, 0)]);
    needs_reset(&[(RAM_BASE, u32::MAX, WRITE, 0)]);
    needs_reset(&[(DATA, 8, WRITE | 1, 1), (DATA, 8, READ, 0)]);
    needs_reset(&[(DATA, 16, 4, 0)]);
}

#[test]
fn a_request_that_waits_for_a_page_is_given_back_and_done_after_resume() {
    let gate = Arc::new(Gate::default());
    let mut driver = Driver::new(VirtioRng::new(), gate.clone());
    driver.start(1);
    gate.shut(DATA);
    driver.submit(0, BUFFER);
    await_that("no wait", || gate.is_waited_for());
    driver.device.quiesce(soon()).unwrap();
    let saved = driver.device.save();
    assert_eq!((saved.queues[0].next_available, saved.queues[0].next_used), (0, 0));
    driver.device.resume();
    await_that("no wait", || gate.is_waited_for());
    gate.open();
    assert_eq!(driver.await_used(0), 64);
}

#[test]
fn reset_and_drop_do_not_wait_for_a_page() {
    let gate = Arc::new(Gate::default());
    let mut driver = Driver::new(VirtioRng::new(), gate.clone());
    for _ in 0..2 {
        driver.start(1);
        gate.shut(DATA);
        driver.submit(0, BUFFER);
        await_that("no wait", || gate.is_waited_for());
        driver.set(0x70, 0);
        assert!(!gate.is_waited_for());
        gate.open();
    }
    drop(driver);
    await_that("the worker does not end", || Arc::strong_count(&gate) == 1);
}

#[test]
fn a_restored_device_does_what_the_source_did_not() {
    let mut source = driver();
    source.start(1);
    source.submit(0, BUFFER);
    source.await_used(0);
    source.device.quiesce(soon()).unwrap();
    source.submit(0, BUFFER);
    let saved = source.device.save();
    let target = Driver::with_ram(VirtioRng::new(), Arc::new(AllPresent), source.ram.clone());
    target.device.restore(saved.clone()).unwrap();
    assert_eq!(target.device.save(), saved);
    let target = source.moved(target);
    assert_eq!(target.used(0), 1, "quiescent until resumed");
    target.device.resume();
    assert_eq!(target.await_used(0), 64);
}

#[test]
fn a_state_of_another_device_or_with_impossible_queues_is_refused() {
    let mut driver = driver();
    driver.start(1);
    driver.device.quiesce(Instant::now()).unwrap_or_default();
    let good = driver.device.save();
    let mut other = good.clone();
    other.device_id = 2;
    assert!(driver.device.restore(other).is_err());
    let mut large = good.clone();
    large.queues[0].size = 3;
    assert!(driver.device.restore(large).is_err());
    let mut outside = good.clone();
    outside.queues[0].used = 0;
    assert!(driver.device.restore(outside).is_err());
    let mut none = good.clone();
    none.queues.clear();
    assert!(driver.device.restore(none).is_err());
    driver.device.restore(good).unwrap();
}

/// Pages whose wait cannot be interrupted, as a system call on a disk cannot.
#[derive(Default)]
struct Stuck(std::sync::Mutex<()>);

impl crate::PresentPages for Stuck {
    fn hold(&self, _ranges: &[crate::GuestRange]) -> Result<(), crate::Absent> {
        drop(self.0.lock().unwrap());
        Ok(())
    }

    fn interrupt(&self, _on: bool) {}
}

#[test]
fn a_device_that_does_not_come_to_rest_in_time_is_named_and_goes_on() {
    let stuck = Arc::new(Stuck::default());
    let mut driver = Driver::new(VirtioRng::new(), stuck.clone());
    driver.start(1);
    let guard = stuck.0.lock().unwrap();
    driver.submit(0, BUFFER);
    await_that("never busy", || {
        driver.device.quiesce(Instant::now()).is_err() || {
            driver.device.resume();
            false
        }
    });
    let busy = driver.device.quiesce(Instant::now()).unwrap_err();
    assert_eq!(busy.device, "test0");
    driver.device.resume();
    drop(guard);
    assert_eq!(driver.await_used(0), 64);
}
