//! A queue as a device sees it: requests to take and to complete.

use super::chain::{Chain, Table};
use super::memory::{Absent, GuestRange, PresentPages, Ram};
use std::sync::atomic::{AtomicBool, Ordering};
use umem_memory::GuestAddress;
use virtio_queue::desc::split::{Descriptor, VirtqUsedElem};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

/// Why a device cannot go on with its queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The worker is wanted at rest. The request is back in its queue.
    #[error("interrupted")]
    Interrupted,
    /// The driver has broken the rules, or memory that it needs cannot be read. The device needs a
    /// reset.
    #[error("{0}")]
    Broken(String),
}

impl QueueError {
    /// The driver has broken the rules.
    pub fn broken(text: impl Into<String>) -> Self {
        Self::Broken(text.into())
    }
}

impl From<Absent> for QueueError {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Interrupted => Self::Interrupted,
            Absent::Unreadable => Self::broken("a page of it could not be read at the source"),
        }
    }
}

impl From<virtio_queue::Error> for QueueError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// One queue while a device works on it.
pub struct Requests<'a> {
    pub(super) queue: &'a mut Queue,
    pub(super) ram: &'a Ram,
    pub(super) present: &'a dyn PresentPages,
    pub(super) stop: &'a AtomicBool,
    pub(super) indirect: bool,
    /// Tells the driver of completed requests.
    pub(super) notify: &'a dyn Fn(),
}

impl Requests<'_> {
    /// Guest memory.
    pub(crate) fn ram(&self) -> &Ram {
        self.ram
    }

    /// Ends what takes long when the worker is wanted at rest.
    ///
    /// # Errors
    /// [`QueueError::Interrupted`] then. The device gives its request back and returns the error.
    pub fn check_interrupted(&self) -> Result<(), QueueError> {
        if self.stop.load(Ordering::Acquire) { Err(QueueError::Interrupted) } else { Ok(()) }
    }

    /// Takes the next request; all its memory is present.
    ///
    /// # Errors
    /// When the worker is wanted at rest, or the queue is broken.
    pub fn take(&mut self) -> Result<Option<Chain>, QueueError> {
        let Some(chain) = self.take_absent()? else { return Ok(None) };
        let held = chain.hold(self.present);
        if held == Err(QueueError::Interrupted) {
            self.give_back();
        }
        held.map(|()| Some(chain))
    }

    /// Takes the next request, whose buffers may be missing: for a device that does not touch them.
    ///
    /// # Errors
    /// As of [`Requests::take`].
    pub fn take_absent(&mut self) -> Result<Option<Chain>, QueueError> {
        self.check_interrupted()?;
        hold_rings(self.queue, self.present)?;
        let Some(head) = self.queue.iter(self.ram)?.next().map(|chain| chain.head_index()) else {
            return Ok(None);
        };
        let table = Table {
            address: GuestAddress(self.queue.desc_table()),
            entries: self.queue.size(),
            may_refer: self.indirect,
        };
        let chain = Chain::read(self.ram, self.present, table, head);
        if chain == Err(QueueError::Interrupted) {
            self.give_back();
        }
        chain.map(Some)
    }

    /// Puts the request taken last back, as if it had not been taken.
    pub fn give_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Completes a request into whose writable buffers `written` bytes were written.
    ///
    /// # Errors
    /// When the queue is broken.
    pub fn complete(&mut self, head: u16, written: u64) -> Result<(), QueueError> {
        // A request of 4 GiB and more is illegal (section 2.7.5.2); what its driver reads does not
        // matter.
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.queue.add_used(self.ram, head, written)?;
        if self.queue.needs_notification(self.ram)? {
            (self.notify)();
        }
        Ok(())
    }
}

/// Makes a queue's table and rings present. They were checked to be RAM.
pub(super) fn hold_rings(queue: &Queue, present: &dyn PresentPages) -> Result<(), Absent> {
    let size = u64::from(queue.size());
    let range = |address, bytes| GuestRange { address: GuestAddress(address), bytes };
    // Flags, index, entries, event index (section 2.7).
    let available = 6 + size * size_of::<u16>() as u64;
    let used = 6 + size * size_of::<VirtqUsedElem>() as u64;
    let table = size * size_of::<Descriptor>() as u64;
    present.hold(&[
        range(queue.desc_table(), table),
        range(queue.avail_ring(), available),
        range(queue.used_ring(), used),
    ])
}
