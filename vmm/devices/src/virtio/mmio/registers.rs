//! The register file (specification, section 4.2.2) and the device status (sections 2.1 and 3.1).

use super::saved::SavedQueue;
use crate::virtio::memory::Ram;
use umem_memory::GuestAddress;
use virtio_queue::{Queue, QueueT};

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "umem", little-endian.
const VENDOR: u32 = 0x6d65_6d75;

const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 64;
/// The bits that a driver sets.
const STATUS_DRIVER_BITS: u32 = 1 | 2 | STATUS_DRIVER_OK | STATUS_FEATURES_OK | 128;

const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

const FEATURE_INDIRECT: u64 = 1 << 28;
const FEATURE_EVENT_INDEX: u64 = 1 << 29;
const FEATURE_VERSION_1: u64 = 1 << 32;
/// Features of the transport and the queues, offered for every device.
const FEATURES: u64 = FEATURE_INDIRECT | FEATURE_EVENT_INDEX | FEATURE_VERSION_1;

/// Register offsets.
mod at {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub(super) const QUEUE_SELECT: u64 = 0x30;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const DESCRIPTORS_LOW: u64 = 0x80;
    pub(super) const DESCRIPTORS_HIGH: u64 = 0x84;
    pub(super) const AVAILABLE_LOW: u64 = 0x90;
    pub(super) const AVAILABLE_HIGH: u64 = 0x94;
    pub(super) const USED_LOW: u64 = 0xa0;
    pub(super) const USED_HIGH: u64 = 0xa4;
    pub(super) const SHARED_MEMORY: std::ops::RangeInclusive<u64> = 0xb0..=0xbc;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
}

/// What a register write asks for beyond the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// The driver tells of requests in a queue.
    Kick(u32),
    /// DRIVER_OK: the queues go to the engine.
    Activate,
    /// A queue is taken away from the engine.
    Disable(usize),
    Reset,
}

/// Registers of a slot without a device, or the constant ones of a slot with one.
pub(super) fn identity(offset: u64, device_id: u32) -> u32 {
    match offset {
        at::MAGIC => MAGIC,
        at::VERSION => VERSION,
        at::DEVICE_ID => device_id,
        at::VENDOR => VENDOR,
        _ => 0,
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => (value & u64::from(u32::MAX)) as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, new: u32) {
    let new = u64::from(new);
    match select {
        0 => *value = *value & !u64::from(u32::MAX) | new,
        1 => *value = *value & u64::from(u32::MAX) | new << 32,
        _ => {}
    }
}

/// The registers of a device.
#[derive(Debug, Clone)]
pub(in crate::virtio) struct Transport {
    pub(super) device_id: u32,
    offered: u64,
    sizes: &'static [u16],
    pub(super) status: u32,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) interrupt_status: u32,
    pub(super) config_generation: u32,
    /// As the driver has set them up. Positions are the engine's.
    pub(super) queues: Vec<SavedQueue>,
}

impl Transport {
    pub(super) fn new(device_id: u32, features: u64, sizes: &'static [u16]) -> Self {
        let queue = |&size| SavedQueue { size, ..SavedQueue::default() };
        Self {
            device_id,
            offered: features | FEATURES,
            sizes,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            interrupt_status: 0,
            config_generation: 0,
            queues: sizes.iter().map(queue).collect(),
        }
    }

    /// As new, but for what counts on over resets.
    pub(super) fn reset(&mut self) {
        let config_generation = self.config_generation;
        *self = Self::new(self.device_id, self.offered, self.sizes);
        self.config_generation = config_generation;
    }

    /// The interrupt line.
    pub(in crate::virtio) fn interrupts(&self) -> bool {
        self.interrupt_status != 0
    }

    /// Requests were completed.
    pub(in crate::virtio) fn queue_used(&mut self) {
        self.interrupt_status |= INTERRUPT_USED;
    }

    /// The configuration space has changed.
    pub(in crate::virtio) fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.is_active() {
            self.interrupt_status |= INTERRUPT_CONFIG;
        }
    }

    /// The driver has broken the device (section 2.1.2).
    pub(in crate::virtio) fn need_reset(&mut self) {
        self.status |= STATUS_NEEDS_RESET;
        if self.status & STATUS_DRIVER_OK != 0 {
            self.interrupt_status |= INTERRUPT_CONFIG;
        }
    }

    /// Whether the engine is to work.
    pub(super) fn is_active(&self) -> bool {
        self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK
    }

    pub(super) fn indirect(&self) -> bool {
        self.driver_features & FEATURE_INDIRECT != 0
    }

    /// Why these registers cannot have come from a device like this one.
    pub(super) fn check(&self) -> Result<(), String> {
        let unknown = self.driver_features & !self.offered;
        if self.status & STATUS_FEATURES_OK != 0 && unknown != 0 {
            return Err(format!("features {unknown:#x} are not offered here"));
        }
        if self.queues.len() != self.sizes.len() {
            return Err(format!("{} queues, this one has {}", self.queues.len(), self.sizes.len()));
        }
        for (queue, &most) in self.queues.iter().zip(self.sizes) {
            if queue.size > most || !queue.size.is_power_of_two() {
                return Err(format!("a queue of {} descriptors, {most} at most", queue.size));
            }
        }
        Ok(())
    }

    /// The queues as the engine works on them.
    pub(super) fn build_queues(&self, ram: &Ram) -> Result<Vec<Option<Queue>>, String> {
        let event_index = self.driver_features & FEATURE_EVENT_INDEX != 0;
        let build = |(number, queue): (usize, &SavedQueue)| {
            let build = || build_queue(queue, event_index, ram);
            queue.ready.then(build).transpose().map_err(|text| format!("queue {number}: {text}"))
        };
        self.queues.iter().enumerate().map(build).collect()
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let queue = usize::try_from(self.queue_select).ok().and_then(|at| self.queues.get(at));
        let size = usize::try_from(self.queue_select).ok().and_then(|at| self.sizes.get(at));
        match offset {
            at::DEVICE_FEATURES => half(self.offered, self.device_features_select),
            at::QUEUE_SIZE_MAX => size.copied().unwrap_or(0).into(),
            at::QUEUE_READY => queue.is_some_and(|queue| queue.ready).into(),
            at::INTERRUPT_STATUS => self.interrupt_status,
            at::STATUS => self.status,
            // No shared memory region exists.
            offset if at::SHARED_MEMORY.contains(&offset) => u32::MAX,
            at::CONFIG_GENERATION => self.config_generation,
            _ => identity(offset, self.device_id),
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) -> Action {
        match offset {
            at::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            at::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            at::DRIVER_FEATURES if self.status & STATUS_FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            at::QUEUE_SELECT => self.queue_select = value,
            at::QUEUE_NOTIFY => return Action::Kick(value),
            at::INTERRUPT_ACKNOWLEDGE => self.interrupt_status &= !value,
            at::STATUS => return self.write_status(value),
            _ => return self.write_queue(offset, value),
        }
        Action::None
    }

    /// Bits are added one after the other; only a reset clears them.
    fn write_status(&mut self, value: u32) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        let mut added = value & STATUS_DRIVER_BITS & !self.status;
        let acceptable = self.driver_features & !self.offered == 0
            && self.driver_features & FEATURE_VERSION_1 != 0;
        if !acceptable {
            added &= !STATUS_FEATURES_OK;
        }
        if (self.status | added) & STATUS_FEATURES_OK == 0 {
            added &= !STATUS_DRIVER_OK;
        }
        self.status |= added;
        if added & STATUS_DRIVER_OK != 0 { Action::Activate } else { Action::None }
    }

    /// Queues are set up before they are made ready; then they stay as they are.
    fn write_queue(&mut self, offset: u64, value: u32) -> Action {
        let number = usize::try_from(self.queue_select).unwrap_or(usize::MAX);
        let Some(queue) = self.queues.get_mut(number) else { return Action::None };
        if offset == at::QUEUE_READY {
            let wanted = value & 1 != 0;
            let running = self.status & STATUS_DRIVER_OK != 0;
            if wanted && running {
                return Action::None;
            }
            queue.ready = wanted;
            return if running { Action::Disable(number) } else { Action::None };
        }
        if queue.ready {
            return Action::None;
        }
        match offset {
            at::QUEUE_SIZE => {
                let most = self.sizes.get(number).copied().unwrap_or(0);
                let size = u16::try_from(value).ok();
                // A size that cannot be is not taken; the driver's rings do not fit then.
                if let Some(size) = size.filter(|size| size.is_power_of_two() && *size <= most) {
                    queue.size = size;
                }
            }
            at::DESCRIPTORS_LOW => set_half(&mut queue.descriptors, 0, value),
            at::DESCRIPTORS_HIGH => set_half(&mut queue.descriptors, 1, value),
            at::AVAILABLE_LOW => set_half(&mut queue.available, 0, value),
            at::AVAILABLE_HIGH => set_half(&mut queue.available, 1, value),
            at::USED_LOW => set_half(&mut queue.used, 0, value),
            at::USED_HIGH => set_half(&mut queue.used, 1, value),
            _ => {}
        }
        Action::None
    }
}

fn build_queue(saved: &SavedQueue, event_index: bool, ram: &Ram) -> Result<Queue, String> {
    let text = |error: virtio_queue::Error| error.to_string();
    let mut queue = Queue::new(saved.size).map_err(text)?;
    queue.try_set_desc_table_address(GuestAddress(saved.descriptors)).map_err(text)?;
    queue.try_set_avail_ring_address(GuestAddress(saved.available)).map_err(text)?;
    queue.try_set_used_ring_address(GuestAddress(saved.used)).map_err(text)?;
    queue.set_event_idx(event_index);
    queue.set_next_avail(saved.next_available);
    queue.set_next_used(saved.next_used);
    queue.set_ready(true);
    if queue.is_valid(ram) { Ok(queue) } else { Err("its rings are not in RAM".to_owned()) }
}
