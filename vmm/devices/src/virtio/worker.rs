//! The worker thread of a device, and how others bring it to rest.

use super::device::{Transporting, VirtioDevice};
use super::engine::{Engine, Surroundings};
use super::memory::{PresentPages, Ram};
use super::mmio::Transport;
use crate::line::InterruptLine;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Default)]
struct Control {
    /// Queues to look at, a bit each.
    kicked: u64,
    /// How many threads want the engine to themselves.
    exclusive: u32,
    quiescent: bool,
    /// Whether the worker works, or requests that it has taken are in flight.
    busy: bool,
    closed: bool,
}

/// What the worker is to do.
enum Work {
    /// Look at these queues, a bit each.
    Serve(u64),
    /// Complete what is in flight, and rest.
    Settle,
}

impl Control {
    fn rest_wanted(&self) -> bool {
        self.exclusive > 0 || self.quiescent || self.closed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A virtio device with its transport's registers and its worker. Lock order: engine, transport;
/// control is a leaf.
pub(super) struct Core<D> {
    control: Mutex<Control>,
    changed: Condvar,
    stop: AtomicBool,
    engine: Mutex<Engine<D>>,
    transport: Mutex<Transport>,
    line: Arc<dyn InterruptLine>,
    present: Arc<dyn PresentPages>,
    pub(super) ram: Ram,
}

impl<D: VirtioDevice> Core<D> {
    pub(super) fn new(
        engine: Engine<D>,
        transport: Transport,
        line: Arc<dyn InterruptLine>,
        present: Arc<dyn PresentPages>,
        ram: Ram,
    ) -> Self {
        Self {
            control: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            engine: Mutex::new(engine),
            transport: Mutex::new(transport),
            line,
            present,
            ram,
        }
    }

    /// Changes what is wanted of the worker, and has it and its waits for pages know.
    fn control<T>(&self, change: impl FnOnce(&mut Control) -> T) -> T {
        let mut control = lock(&self.control);
        let before = control.rest_wanted();
        let result = change(&mut control);
        let after = control.rest_wanted();
        if before != after {
            self.stop.store(after, Ordering::Release);
            self.present.interrupt(after);
        }
        self.changed.notify_all();
        result
    }

    /// Waits until the worker rests, at most until the deadline; whether it does.
    fn await_rest(&self, deadline: Option<Instant>) -> bool {
        let mut control = lock(&self.control);
        while control.busy {
            control = match deadline {
                None => self.changed.wait(control).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(control, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Changes the registers, and drives the interrupt line that follows from them.
    pub(super) fn transport<T>(&self, change: impl FnOnce(&mut Transport) -> T) -> T {
        let mut transport = lock(&self.transport);
        let result = change(&mut transport);
        self.line.set(transport.interrupts());
        result
    }

    /// Uses the engine while the worker rests. The wait is for the requests in flight at most: waits
    /// for pages end.
    pub(super) fn exclusive<T>(&self, use_it: impl FnOnce(&mut Engine<D>) -> T) -> T {
        self.control(|control| control.exclusive += 1);
        self.await_rest(None);
        let result = use_it(&mut lock(&self.engine));
        self.control(|control| control.exclusive -= 1);
        result
    }

    /// Brings the worker to rest until [`Core::resume`]; whether it was in time.
    pub(super) fn quiesce(&self, deadline: Instant) -> bool {
        self.control(|control| control.quiescent = true);
        let rests = self.await_rest(Some(deadline));
        if rests {
            lock(&self.engine).device.quiesce(deadline);
        }
        rests
    }

    /// Marks the device quiescent, of which the worker is known to rest.
    pub(super) fn mark_quiescent(&self) {
        self.control(|control| control.quiescent = true);
    }

    /// Lets the worker go on. Every queue counts as kicked: a kick may have been for a request that
    /// was given back, or have come to the source of a move.
    pub(super) fn resume(&self) {
        // A worker that never came to rest holds the engine, and its device was never quiesced. One
        // that rests stays at rest while the device is quiescent, so the lock is free soon.
        let rests = self.control(|control| control.quiescent && !control.busy);
        if rests {
            lock(&self.engine).device.resume();
        }
        self.control(|control| {
            control.quiescent = false;
            control.kicked = u64::MAX;
        });
    }

    pub(super) fn close(&self) {
        self.control(|control| control.closed = true);
    }

    /// Has the worker look at the queues in the set.
    pub(super) fn kick_set(&self, queues: u64) {
        self.control(|control| control.kicked |= queues);
    }

    /// The thread.
    pub(super) fn work(&self) {
        let (mut again, mut in_flight) = (0, false);
        while let Some(work) = self.next_work(again, in_flight) {
            let notify = || self.transport(Transport::queue_used);
            let around = Surroundings {
                ram: &self.ram,
                present: &*self.present,
                stop: &self.stop,
                notify: &notify,
            };
            let mut engine = lock(&self.engine);
            let error;
            (again, error) = match work {
                Work::Serve(kicked) => engine.serve(kicked, &around),
                Work::Settle => (0, engine.settle(&around)),
            };
            in_flight = engine.device.has_in_flight();
            drop(engine);
            if let Some(error) = error {
                log::warn!("virtio device {}: {error}; it needs a reset", D::ID);
                self.transport(Transport::need_reset);
            }
        }
    }

    /// Reports the worker at rest, unless something is in flight, and waits for work; `None` when
    /// the device is gone.
    fn next_work(&self, again: u64, in_flight: bool) -> Option<Work> {
        let mut control = lock(&self.control);
        control.busy = in_flight;
        control.kicked |= again;
        self.changed.notify_all();
        loop {
            if control.closed {
                control.busy = false;
                return None;
            }
            if control.rest_wanted() {
                if in_flight {
                    return Some(Work::Settle);
                }
            } else if control.kicked != 0 {
                control.busy = true;
                return Some(Work::Serve(std::mem::take(&mut control.kicked)));
            }
            control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<D: VirtioDevice> Transporting for Core<D> {
    fn kick(&self, queue: usize) {
        let bit = u32::try_from(queue).ok().and_then(|queue| 1u64.checked_shl(queue));
        self.kick_set(bit.unwrap_or(0));
    }

    fn config_changed(&self) {
        self.transport(Transport::config_changed);
    }
}
