//! A driver for tests: it probes a device as Linux does and lays its rings out in guest memory.

use super::device::VirtioDevice;
use super::memory::{Absent, GuestRange, PresentPages, Ram};
use super::mmio::VirtioMmio;
use crate::bus::MmioDevice;
use accel::AccessSize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use umem_memory::GuestAddress;
use vm_memory::Bytes;

pub(crate) const RAM_BASE: u64 = 0x8000_0000;
pub(crate) const RAM_BYTES: usize = 1 << 20;
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Where tests put their buffers.
pub(crate) const DATA: u64 = RAM_BASE + 0x1_0000;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 2;

pub(crate) fn ram() -> Ram {
    Ram::from_ranges(&[(GuestAddress(RAM_BASE), RAM_BYTES)]).unwrap()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[track_caller]
pub(crate) fn await_that(what: &str, condition: impl Fn() -> bool) {
    let end = soon();
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Pages of which those from an address on are missing while the gate is shut.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    missing_from: Option<u64>,
    interrupted: bool,
    waiting: bool,
}

impl Gate {
    pub(crate) fn shut(&self, missing_from: u64) {
        self.state.lock().unwrap().missing_from = Some(missing_from);
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().missing_from = None;
        self.changed.notify_all();
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.state.lock().unwrap().waiting
    }
}

impl PresentPages for Gate {
    fn hold(&self, ranges: &[GuestRange]) -> Result<(), Absent> {
        let mut state = self.state.lock().unwrap();
        loop {
            let from = state.missing_from.unwrap_or(u64::MAX);
            if ranges.iter().all(|range| range.bytes == 0 || range.address.0 + range.bytes <= from)
            {
                state.waiting = false;
                return Ok(());
            }
            if state.interrupted {
                state.waiting = false;
                return Err(Absent::Interrupted);
            }
            state.waiting = true;
            state = self.changed.wait(state).unwrap();
        }
    }

    fn interrupt(&self, on: bool) {
        self.state.lock().unwrap().interrupted = on;
        self.changed.notify_all();
    }
}

pub(crate) struct Driver<D: VirtioDevice> {
    pub(crate) device: Arc<VirtioMmio<D>>,
    pub(crate) ram: Ram,
    pub(crate) line: Arc<AtomicBool>,
    /// Low half of the features that it accepts.
    pub(crate) features: u32,
    /// Position in the available ring, by queue.
    available: Vec<u16>,
}

impl<D: VirtioDevice> Driver<D> {
    pub(crate) fn new(device: D, present: Arc<dyn PresentPages>) -> Self {
        Self::with_ram(device, present, ram())
    }

    pub(crate) fn with_ram(device: D, present: Arc<dyn PresentPages>, ram: Ram) -> Self {
        let line = Arc::new(AtomicBool::new(false));
        let driven = line.clone();
        let line_of_device = Arc::new(move |high| driven.store(high, Ordering::SeqCst));
        let device =
            VirtioMmio::new("test0", device, ram.clone(), line_of_device, present).unwrap();
        Self { device, ram, line, features: 0, available: vec![0; 3] }
    }

    /// The same driver after a move to another device.
    pub(crate) fn moved(&self, to: Self) -> Self {
        Self { available: self.available.clone(), features: self.features, ..to }
    }

    pub(crate) fn get(&self, offset: u64) -> u32 {
        self.device.read(offset, AccessSize::Word) as u32
    }

    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.device.write(offset, AccessSize::Word, value.into());
    }

    pub(crate) fn rings(queue: u64) -> [u64; 3] {
        let base = RAM_BASE + queue * 0x3000;
        [base, base + 0x1000, base + 0x2000]
    }

    /// From reset to DRIVER_OK, as drivers/virtio/virtio_mmio.c goes.
    pub(crate) fn start(&mut self, queues: u64) {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        self.set(0x24, 1);
        self.set(0x20, 1);
        self.set(0x24, 0);
        self.set(0x20, self.features);
        self.set(0x70, 11);
        assert_eq!(self.get(0x70), 11);
        for queue in 0..queues {
            self.set(0x30, queue as u32);
            assert_eq!(self.get(0x44), 0);
            assert!(self.get(0x34) >= QUEUE_SIZE.into());
            self.set(0x38, QUEUE_SIZE.into());
            for (at, address) in [0x80, 0x90, 0xa0].into_iter().zip(Self::rings(queue)) {
                self.set(at, address as u32);
                self.set(at + 4, (address >> 32) as u32);
                if at != 0x80 {
                    self.ram.write_slice(&[0; 256], GuestAddress(address)).unwrap();
                }
            }
            self.set(0x44, 1);
            assert_eq!(self.get(0x44), 1);
        }
        self.available = vec![0; 3];
        self.set(0x70, 15);
    }

    pub(crate) fn write_descriptor(&self, queue: u64, index: u16, parts: (u64, u32, u16, u16)) {
        let [table, ..] = Self::rings(queue);
        let mut bytes = parts.0.to_le_bytes().to_vec();
        bytes.extend(parts.1.to_le_bytes());
        bytes.extend(parts.2.to_le_bytes());
        bytes.extend(parts.3.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(table + u64::from(index) * 16)).unwrap();
    }

    /// Makes the chain at descriptor `head` available and tells the device.
    pub(crate) fn offer(&mut self, queue: u64, head: u16) {
        let [_, ring, _] = Self::rings(queue);
        let position = &mut self.available[queue as usize];
        let slot = ring + 4 + u64::from(*position % QUEUE_SIZE) * 2;
        self.ram.write_obj(head, GuestAddress(slot)).unwrap();
        *position = position.wrapping_add(1);
        self.ram.write_obj(*position, GuestAddress(ring + 2)).unwrap();
        self.set(0x50, queue as u32);
    }

    /// Offers a request of these buffers: address, length, flags.
    pub(crate) fn submit(&mut self, queue: u64, buffers: &[(u64, u32, u16)]) {
        for (index, (address, bytes, flags)) in buffers.iter().enumerate() {
            let next = u16::from(index + 1 < buffers.len());
            let parts = (*address, *bytes, flags | next, index as u16 + 1);
            self.write_descriptor(queue, index as u16, parts);
        }
        self.offer(queue, 0);
    }

    pub(crate) fn used(&self, queue: u64) -> u16 {
        let [_, _, used] = Self::rings(queue);
        self.ram.read_obj(GuestAddress(used + 2)).unwrap()
    }

    /// Waits until all offered requests are completed; bytes written by the last.
    #[track_caller]
    pub(crate) fn await_used(&self, queue: u64) -> u32 {
        let wanted = self.available[queue as usize];
        await_that("request is not completed", || self.used(queue) == wanted);
        let [_, _, used] = Self::rings(queue);
        let slot = u64::from(wanted.wrapping_sub(1) % QUEUE_SIZE);
        self.ram.read_obj(GuestAddress(used + 4 + slot * 8 + 4)).unwrap()
    }

    #[track_caller]
    pub(crate) fn await_needs_reset(&self) {
        await_that("device does not need a reset", || self.get(0x70) & 64 != 0);
    }

    pub(crate) fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}

/// What a hostile guest does.
#[derive(Debug, Clone)]
pub(crate) enum Hostile {
    Register(u64, u32),
    /// With these of the features that are offered.
    Start(u32),
    Descriptor(u64, u16, (u64, u32, u16, u16)),
    Offer(u64, u16),
    Ring(u64, u16, u16),
    Memory(u64, u64),
    Rest,
    Move,
}

pub(crate) fn hostile() -> impl proptest::strategy::Strategy<Value = Vec<Hostile>> {
    use proptest::prelude::*;
    let address = prop_oneof![
        6 => (0..RAM_BYTES as u64).prop_map(|at| RAM_BASE + at),
        1 => any::<u64>(),
    ];
    let bytes = prop_oneof![3 => 0u32..1025, 1 => Just(512), 1 => Just(16), 1 => any::<u32>()];
    let parts = (address, bytes, 0u16..8, 0u16..20);
    let value = prop_oneof![0u32..20, any::<u32>(), Just(RAM_BASE as u32)];
    let action = prop_oneof![
        4 => ((0u64..80).prop_map(|at| at * 4), value).prop_map(|(at, v)| Hostile::Register(at, v)),
        3 => any::<u32>().prop_map(Hostile::Start),
        8 => (0u64..3, 0u16..QUEUE_SIZE, parts).prop_map(|(q, i, p)| Hostile::Descriptor(q, i, p)),
        6 => (0u64..3, 0u16..20).prop_map(|(q, head)| Hostile::Offer(q, head)),
        1 => (0u64..3, any::<u16>(), any::<u16>()).prop_map(|(q, f, i)| Hostile::Ring(q, f, i)),
        2 => (0..RAM_BYTES as u64 / 8, any::<u64>()).prop_map(|(at, v)| Hostile::Memory(at * 8, v)),
        1 => Just(Hostile::Rest),
        1 => Just(Hostile::Move),
    ];
    proptest::collection::vec(action, 1..80)
}

/// Does it all; then the device comes to rest, is reset and starts again.
pub(crate) fn act<D: VirtioDevice>(driver: &mut Driver<D>, queues: u64, all: &[Hostile]) {
    use crate::Lifecycle;
    use umem_state::SaveRestore;
    for action in all {
        match *action {
            Hostile::Register(at, value) => driver.set(at, value),
            Hostile::Start(features) => {
                driver.set(0x14, 0);
                driver.features = features & driver.get(0x10);
                driver.start(queues);
            }
            Hostile::Descriptor(queue, index, parts) => {
                driver.write_descriptor(queue, index, parts);
            }
            Hostile::Offer(queue, head) => driver.offer(queue, head),
            Hostile::Ring(queue, flags, index) => {
                let [_, ring, _] = Driver::<D>::rings(queue);
                driver.put(ring, &[flags.to_le_bytes(), index.to_le_bytes()].concat());
                driver.set(0x50, queue as u32);
            }
            Hostile::Memory(at, value) => driver.put(RAM_BASE + at, &value.to_le_bytes()),
            Hostile::Rest => {
                driver.device.quiesce(soon()).unwrap();
                driver.device.resume();
            }
            Hostile::Move => {
                driver.device.quiesce(soon()).unwrap();
                let saved = driver.device.save();
                // A guest may have pointed its rings out of RAM; then this is refused.
                let _ = driver.device.restore(saved);
                driver.device.resume();
            }
        }
    }
    driver.device.quiesce(soon()).unwrap();
    driver.device.reset();
    driver.device.resume();
    driver.start(queues);
    assert_eq!(driver.get(0x70) & 15, 15);
}
