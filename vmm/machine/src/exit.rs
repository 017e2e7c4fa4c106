//! How a VM ends.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Why a VM has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// `quit`, or a signal.
    Quit,
    /// The guest powered itself off.
    GuestShutdown,
    /// An error of ours.
    Failed(String),
}

/// Set once, waited for by whoever must end with the VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExitLatch {
    inner: Arc<(Mutex<Option<ExitReason>>, Condvar)>,
}

impl ExitLatch {
    /// Sets the reason; a later one is ignored.
    pub(crate) fn set(&self, reason: ExitReason) {
        let (slot, changed) = &*self.inner;
        slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        changed.notify_all();
    }

    /// Whether it is set.
    #[must_use]
    pub(crate) fn is_set(&self) -> bool {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until it is set.
    #[must_use]
    pub(crate) fn wait(&self) -> ExitReason {
        let (slot, changed) = &*self.inner;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(reason) = &*slot {
                return reason.clone();
            }
            slot = changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let latch = ExitLatch::default();
        assert!(!latch.is_set());
        latch.set(ExitReason::Quit);
        latch.set(ExitReason::GuestShutdown);
        assert_eq!(latch.wait(), ExitReason::Quit);
    }
}
