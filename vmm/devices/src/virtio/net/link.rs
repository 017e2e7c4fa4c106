//! The link: configuration space, state and counts, shared by vCPUs, the worker and the monitor.

use crate::virtio::device::{ConfigSpace, TransportHandle, read_from};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) mac: [u8; 6],
    pub(super) up: bool,
    pub(super) announce: bool,
}

/// Frames since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Given to the guest.
    pub received: u64,
    /// Given to the host.
    pub sent: u64,
    /// Dropped in either direction: the link was down, the host refused, no buffer was long enough.
    pub dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A network device's link. Its methods are for any thread and do not wait.
pub struct Link {
    state: Mutex<LinkState>,
    transport: Mutex<Option<TransportHandle>>,
    pub(super) counters: Counters,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.state()).field(&self.counters).finish()
    }
}

impl Link {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Self {
            state: Mutex::new(LinkState { mac, up: true, announce: false }),
            transport: Mutex::default(),
            counters: Counters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> LinkState {
        *self.lock()
    }

    pub(super) fn connect(&self, transport: TransportHandle) {
        *self.transport.lock().unwrap_or_else(PoisonError::into_inner) = Some(transport);
    }

    fn transport(&self) -> Option<TransportHandle> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the state without telling the driver.
    pub(super) fn alter(&self, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.lock());
    }

    /// Changes the state, and tells the driver if it is another then.
    pub(super) fn change(&self, change: impl FnOnce(&mut LinkState)) {
        let mut state = self.lock();
        let before = *state;
        change(&mut state);
        let changed = *state != before;
        drop(state);
        if let Some(transport) = self.transport().filter(|_| changed) {
            transport.config_changed();
        }
    }

    /// Hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.state().mac
    }

    /// Whether the link is up. While it is not, frames are dropped.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state().up
    }

    /// Plugs the cable in or out; the driver is told.
    pub fn set_up(&self, up: bool) {
        self.change(|state| state.up = up);
    }

    /// Frames so far.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let Counters { received, sent, dropped } = &self.counters;
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounts { received: now(received), sent: now(sent), dropped: now(dropped) }
    }
}

impl ConfigSpace for Link {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        // Section 5.1.4: mac, status.
        let LinkState { mac, up, announce } = self.state();
        let mut space = mac.to_vec();
        let up = if up { STATUS_LINK_UP } else { 0 };
        let announce = if announce { STATUS_ANNOUNCE } else { 0 };
        space.extend((up | announce).to_le_bytes());
        read_from(&space, offset, bytes);
    }
}
