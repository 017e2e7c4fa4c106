//! Events to whoever listens: monitors, tests.

use crate::control::VmEvent;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::sync::{Mutex, PoisonError};

/// Events that a listener may be behind before it misses the newest.
const BACKLOG: usize = 256;

/// Hands each event to every listener and never waits for one.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    listeners: Mutex<Vec<Sender<VmEvent>>>,
}

impl EventHub {
    /// A queue of the events from now on. Dropping it ends the listening.
    pub(crate) fn listen(&self) -> Receiver<VmEvent> {
        let (queue, events) = crossbeam_channel::bounded(BACKLOG);
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(queue);
        events
    }

    /// Tells everybody.
    pub(crate) fn tell(&self, event: &VmEvent) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|queue| {
            !matches!(queue.try_send(event.clone()), Err(TrySendError::Disconnected(_)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_does_not_listen_delays_nobody_and_one_that_left_is_forgotten() {
        let hub = EventHub::default();
        let slow = hub.listen();
        drop(hub.listen());
        for _ in 0..=BACKLOG {
            hub.tell(&VmEvent::Resume);
        }
        assert_eq!(slow.len(), BACKLOG);
        assert_eq!(hub.listeners.lock().unwrap().len(), 1);
    }
}
