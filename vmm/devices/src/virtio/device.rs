//! What a virtio device is to its transport.

use super::requests::{QueueError, Requests};
use std::sync::{Arc, Weak};
use std::time::Instant;
use umem_state::SaveRestore;

/// The device configuration space. It is read and written by vCPUs while the device works.
pub trait ConfigSpace: Send + Sync {
    /// Reads from `offset` on; bytes beyond the end stay as they are (0).
    fn read(&self, offset: u64, bytes: &mut [u8]);

    /// Writes from `offset` on. Most fields are read-only.
    fn write(&self, offset: u64, bytes: &[u8]) {
        let _ = (offset, bytes);
    }
}

/// A configuration space as bytes that never change.
impl ConfigSpace for Vec<u8> {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        read_from(self, offset, bytes);
    }
}

/// Copies from `space` at `offset` what is there.
pub(crate) fn read_from(space: &[u8], offset: u64, bytes: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    for (to, from) in bytes.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}

/// How far a device came with a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The queue is empty.
    Drained,
    /// Requests are left that the device cannot do now; it kicks its queue when it can.
    Blocked,
}

/// A device behind a virtio transport. Its methods are called by one thread at a time: the worker,
/// or another while the worker is at rest.
pub trait VirtioDevice: SaveRestore + Send + 'static {
    /// Device ID (specification, section 5).
    const ID: u32;

    /// Device-specific feature bits that it offers.
    fn features(&self) -> u64;

    /// Greatest size of each queue; powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// Called once with the way back to the transport.
    fn connect(&mut self, transport: TransportHandle) {
        let _ = transport;
    }

    /// The driver is ready; these features were negotiated. Called after a restore too.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// Does the requests of a queue until none is left or it cannot go on.
    ///
    /// # Errors
    /// Those of [`Requests`], passed on.
    fn process(
        &mut self,
        queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError>;

    /// Whether requests were taken that are neither completed nor given back: threads of the
    /// device's own work on them. Each of them ends without a page of guest memory being waited for.
    fn has_in_flight(&self) -> bool {
        false
    }

    /// Waits for the requests in flight of a queue and completes them. Called before the worker
    /// comes to rest.
    ///
    /// # Errors
    /// Those of [`Requests`], passed on.
    fn settle(&mut self, queue: usize, requests: &mut Requests<'_>) -> Result<(), QueueError> {
        let _ = (queue, requests);
        Ok(())
    }

    /// The queues are gone: waits for what is in flight and forgets it, so that nothing touches
    /// guest memory any more.
    fn abandon(&mut self) {}

    /// The worker rests; what the device does beside it comes to rest as well.
    fn quiesce(&mut self, deadline: Instant) {
        let _ = deadline;
    }

    /// It goes on.
    fn resume(&mut self) {}

    /// The state in which it was made.
    fn reset(&mut self) {}
}

/// What a device may ask of its transport, from any thread.
pub(crate) trait Transporting: Send + Sync {
    /// Has the worker look at a queue.
    fn kick(&self, queue: usize);

    /// Tells the driver that the configuration space has changed.
    fn config_changed(&self);
}

/// A device's way to its transport. It does nothing once the transport is gone.
#[derive(Clone)]
pub struct TransportHandle(pub(crate) Weak<dyn Transporting>);

impl TransportHandle {
    /// Has the worker look at a queue.
    pub fn kick(&self, queue: usize) {
        if let Some(transport) = self.0.upgrade() {
            transport.kick(queue);
        }
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        if let Some(transport) = self.0.upgrade() {
            transport.config_changed();
        }
    }
}
