//! The device and its queues: what the worker works on.

use super::device::{Progress, VirtioDevice};
use super::memory::{PresentPages, Ram};
use super::requests::{QueueError, Requests, hold_rings};
use std::sync::atomic::AtomicBool;
use virtio_queue::{Queue, QueueT};

/// What the engine works with, and does not own.
pub(super) struct Surroundings<'a> {
    pub(super) ram: &'a Ram,
    pub(super) present: &'a dyn PresentPages,
    pub(super) stop: &'a AtomicBool,
    pub(super) notify: &'a dyn Fn(),
}

impl Surroundings<'_> {
    fn requests<'a>(&'a self, queue: &'a mut Queue, indirect: bool) -> Requests<'a> {
        Requests {
            queue,
            ram: self.ram,
            present: self.present,
            stop: self.stop,
            indirect,
            notify: self.notify,
        }
    }
}

pub(super) struct Engine<D> {
    pub(super) device: D,
    /// Queues that the driver has enabled, by number, from DRIVER_OK to reset.
    pub(super) queues: Vec<Option<Queue>>,
    /// Whether a driver may use indirect descriptors.
    pub(super) indirect: bool,
}

impl<D: VirtioDevice> Engine<D> {
    /// Does what the kicked queues hold. The queues that are to be looked at again, and the error
    /// after which the device needs a reset.
    pub(super) fn serve(
        &mut self,
        kicked: u64,
        around: &Surroundings<'_>,
    ) -> (u64, Option<String>) {
        let mut again = 0;
        for number in 0..self.queues.len().min(u64::BITS as usize) {
            let bit = 1 << number;
            if kicked & bit == 0 {
                continue;
            }
            match self.serve_queue(number, around) {
                Ok(()) => {}
                Err(QueueError::Interrupted) => again |= bit,
                Err(QueueError::Broken(text)) => return (0, Some(self.give_up(number, &text))),
            }
        }
        (again, None)
    }

    /// Nothing of the guest's memory is touched any more until a reset.
    fn give_up(&mut self, number: usize, text: &str) -> String {
        self.queues.iter_mut().for_each(|queue| *queue = None);
        self.device.abandon();
        format!("queue {number}: {text}")
    }

    /// Completes what is in flight. The error after which the device needs a reset.
    pub(super) fn settle(&mut self, around: &Surroundings<'_>) -> Option<String> {
        for number in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(number).and_then(Option::as_mut) else {
                continue;
            };
            let mut requests = around.requests(queue, self.indirect);
            if let Err(error) = self.device.settle(number, &mut requests) {
                return Some(self.give_up(number, &error.to_string()));
            }
        }
        // What belongs to no queue any more is completed to nobody.
        self.device.abandon();
        None
    }

    fn serve_queue(&mut self, number: usize, around: &Surroundings<'_>) -> Result<(), QueueError> {
        let Some(queue) = self.queues.get_mut(number).and_then(Option::as_mut) else {
            return Ok(());
        };
        hold_rings(queue, around.present)?;
        loop {
            queue.disable_notification(around.ram)?;
            let mut requests = around.requests(queue, self.indirect);
            let progress = self.device.process(number, &mut requests)?;
            // A request made available before the driver saw that it is to notify is found here.
            if progress == Progress::Blocked || !queue.enable_notification(around.ram)? {
                return Ok(());
            }
        }
    }
}
