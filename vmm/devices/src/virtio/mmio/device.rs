//! A virtio device on the bus.

use super::registers::{Action, Transport, identity};
use super::saved::{SavedQueue, SavedVirtioMmio};
use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use crate::line::InterruptLine;
use crate::virtio::device::{ConfigSpace, TransportHandle, Transporting, VirtioDevice};
use crate::virtio::engine::Engine;
use crate::virtio::memory::{PresentPages, Ram};
use crate::virtio::worker::Core;
use accel::AccessSize;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;
use umem_state::{SaveRestore, StateError};
use virtio_queue::QueueT;

/// Start of the configuration space.
const CONFIG: u64 = 0x100;

/// A slot of the board without a device: drivers find device ID 0 and leave it alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptySlot;

impl MmioDevice for EmptySlot {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        if size == AccessSize::Word { identity(offset, 0).into() } else { 0 }
    }

    fn write(&self, _offset: u64, _size: AccessSize, _value: u64) {}
}

/// A virtio device with its transport and its worker thread.
pub struct VirtioMmio<D: VirtioDevice> {
    name: String,
    core: Arc<Core<D>>,
    config: Arc<dyn ConfigSpace>,
}

impl<D: VirtioDevice> std::fmt::Debug for VirtioMmio<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let registers = self.core.transport(|transport| transport.clone());
        f.debug_struct("VirtioMmio")
            .field("name", &self.name)
            .field("registers", &registers)
            .finish()
    }
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Puts a device behind a transport. Its worker's thread is named `name`, and touches `ram` only
    /// where `present` has made it present.
    ///
    /// # Errors
    /// When the system has no thread left.
    ///
    /// # Panics
    /// When the device has more than 64 queues or one of an impossible size.
    pub fn new(
        name: &str,
        device: D,
        ram: Ram,
        line: Arc<dyn InterruptLine>,
        present: Arc<dyn PresentPages>,
    ) -> io::Result<Arc<Self>> {
        let sizes = device.queue_sizes();
        assert!(sizes.len() <= 64, "{} queues", sizes.len());
        assert!(sizes.iter().all(|size| size.is_power_of_two()), "queues of {sizes:?}");
        let config = device.config();
        let transport = Transport::new(D::ID, device.features(), sizes);
        let queues = sizes.iter().map(|_| None).collect();
        let engine = Engine { device, queues, indirect: false };
        let core = Arc::new(Core::new(engine, transport, line, present, ram));
        let weak = Arc::downgrade(&core);
        let transporting: Weak<dyn Transporting> = weak;
        core.exclusive(|engine| engine.device.connect(TransportHandle(transporting)));
        let worker = core.clone();
        // Not joined: a system call on a disk may take for ever. It ends with the device otherwise.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.work())?;
        Ok(Arc::new(Self { name: name.to_owned(), core, config }))
    }

    #[cfg(test)]
    pub(crate) fn with_device<T>(&self, use_it: impl FnOnce(&D) -> T) -> T {
        self.core.exclusive(|engine| use_it(&engine.device))
    }

    /// DRIVER_OK: the queues go to the engine.
    fn activate(&self) {
        let activated = self.core.exclusive(|engine| {
            self.core.transport(|transport| {
                // A reset by another vCPU may have come between.
                if !transport.is_active() {
                    return Ok(());
                }
                engine.queues = transport.build_queues(&self.core.ram)?;
                engine.indirect = transport.indirect();
                engine.device.activate(transport.driver_features);
                Ok::<(), String>(())
            })
        });
        match activated {
            // Drivers may have made requests available before.
            Ok(()) => self.core.kick_set(u64::MAX),
            Err(text) => {
                log::warn!("{}: {text}; it needs a reset", self.name);
                self.core.transport(Transport::need_reset);
            }
        }
    }

    /// When this returns the device touches no memory of the guest.
    fn reset_device(&self) {
        self.core.exclusive(|engine| {
            engine.queues.iter_mut().for_each(|queue| *queue = None);
            engine.device.reset();
            self.core.transport(Transport::reset);
        });
    }
}

impl<D: VirtioDevice> Drop for VirtioMmio<D> {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl<D: VirtioDevice> MmioDevice for VirtioMmio<D> {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let mut bytes = [0; 8];
            if let Some(read) = bytes.get_mut(..size.bytes()) {
                self.config.read(offset, read);
            }
            return u64::from_le_bytes(bytes);
        }
        if size != AccessSize::Word {
            return 0;
        }
        self.core.transport(|transport| transport.read(offset)).into()
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        let bytes = value.to_le_bytes();
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.config.write(offset, bytes.get(..size.bytes()).unwrap_or_default());
            return;
        }
        if size != AccessSize::Word {
            return;
        }
        let [a, b, c, d, ..] = bytes;
        let value = u32::from_le_bytes([a, b, c, d]);
        match self.core.transport(|transport| transport.write(offset, value)) {
            Action::None => {}
            Action::Kick(queue) => self.core.kick(usize::try_from(queue).unwrap_or(usize::MAX)),
            Action::Activate => self.activate(),
            Action::Disable(queue) => self.core.exclusive(|engine| {
                if let Some(queue) = engine.queues.get_mut(queue) {
                    *queue = None;
                }
            }),
            Action::Reset => self.reset_device(),
        }
    }
}

impl<D: VirtioDevice> Lifecycle for VirtioMmio<D> {
    fn quiesce(&self, deadline: Instant) -> Result<(), Busy> {
        if self.core.quiesce(deadline) {
            return Ok(());
        }
        let reason = "a request submitted to the host is not complete".to_owned();
        Err(Busy { device: self.name.clone(), reason })
    }

    fn resume(&self) {
        self.core.resume();
    }

    fn reset(&self) {
        self.reset_device();
    }
}

impl<D: VirtioDevice> SaveRestore for VirtioMmio<D> {
    type Saved = SavedVirtioMmio<D::Saved>;
    const VERSION: u32 = D::VERSION;

    fn save(&self) -> Self::Saved {
        let (device, positions) = self.core.exclusive(|engine| {
            let position = |queue: &Option<virtio_queue::Queue>| {
                queue.as_ref().map(|queue| (queue.next_avail(), queue.next_used()))
            };
            (engine.device.save(), engine.queues.iter().map(position).collect::<Vec<_>>())
        });
        let transport = self.core.transport(|transport| transport.clone());
        let with_position = |(queue, position): (SavedQueue, Option<(u16, u16)>)| {
            let (next_available, next_used) = position.unwrap_or_default();
            SavedQueue { next_available, next_used, ..queue }
        };
        SavedVirtioMmio {
            device_id: transport.device_id,
            status: transport.status,
            device_features_select: transport.device_features_select,
            driver_features_select: transport.driver_features_select,
            driver_features: transport.driver_features,
            queue_select: transport.queue_select,
            interrupt_status: transport.interrupt_status,
            config_generation: transport.config_generation,
            queues: transport.queues.into_iter().zip(positions).map(with_position).collect(),
            device,
        }
    }

    /// Checks everything before anything is taken over; no memory of the guest is touched.
    fn restore(&self, saved: Self::Saved) -> Result<(), StateError> {
        let refused = |reason: String| StateError::refused(&self.name, reason);
        if saved.device_id != D::ID {
            let reason = format!("saved from virtio device {}, this is {}", saved.device_id, D::ID);
            return Err(refused(reason));
        }
        let mut registers = self.core.transport(|transport| transport.clone());
        registers.status = saved.status;
        registers.device_features_select = saved.device_features_select;
        registers.driver_features_select = saved.driver_features_select;
        registers.driver_features = saved.driver_features;
        registers.queue_select = saved.queue_select;
        registers.interrupt_status = saved.interrupt_status;
        registers.config_generation = saved.config_generation;
        registers.queues = saved.queues;
        registers.check().map_err(refused)?;
        let active = registers.is_active();
        let queues = if active {
            registers.build_queues(&self.core.ram).map_err(refused)?
        } else {
            registers.queues.iter().map(|_| None).collect()
        };
        self.core.mark_quiescent();
        self.core.exclusive(|engine| {
            engine.device.restore(saved.device)?;
            engine.queues = queues;
            engine.indirect = registers.indirect();
            if active {
                engine.device.activate(registers.driver_features);
            }
            self.core.transport(|transport| *transport = registers);
            Ok(())
        })
    }

    fn decode(what: &str, version: u32, body: &[u8]) -> Result<Self::Saved, StateError> {
        let _ = version;
        umem_state::decode_body(what, body)
    }
}
