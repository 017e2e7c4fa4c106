//! Which harts are on: the Hart State Management of the SBI (specification 2.0, chapter 9).
//!
//! ```text
//!            hart_start                its thread boots it
//!  Stopped ─────────────► Starting ─────────────────────────► Started
//!     ▲                                                          │
//!     └──────────────────────── hart_stop ───────────────────────┘
//! ```
//! All but the boot hart are stopped at power-on. The state moves with the guest.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a hart stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum Power {
    /// It executes instructions, or waits for an interrupt.
    #[default]
    Started,
    /// It executes nothing until another hart starts it.
    Stopped,
    /// It was started and has not executed anything yet.
    Starting {
        /// Its first instruction.
        pc: u64,
        /// What it finds in `a1`.
        argument: u64,
    },
}

/// The switch of one hart. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct PowerSwitch(Arc<Mutex<Power>>);

impl PowerSwitch {
    /// A switch that stands so.
    #[must_use]
    pub(crate) fn new(power: Power) -> Self {
        Self(Arc::new(Mutex::new(power)))
    }

    fn lock(&self) -> MutexGuard<'_, Power> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    #[must_use]
    pub(crate) fn get(&self) -> Power {
        *self.lock()
    }

    /// Replaces the state: a restore, or the hart's own stop.
    pub(crate) fn set(&self, power: Power) {
        *self.lock() = power;
    }

    /// Starts a hart that is stopped; whether it was. The caller kicks its vCPU.
    #[must_use]
    pub(crate) fn start(&self, pc: u64, argument: u64) -> bool {
        let mut power = self.lock();
        let stopped = *power == Power::Stopped;
        if stopped {
            *power = Power::Starting { pc, argument };
        }
        stopped
    }

    /// The hart's side: how it stands; one that is starting is started with this.
    #[must_use]
    pub(crate) fn take(&self) -> Power {
        let mut power = self.lock();
        let before = *power;
        if matches!(before, Power::Starting { .. }) {
            *power = Power::Started;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hart_is_started_once_and_boots_once() {
        let switch = PowerSwitch::new(Power::Stopped);
        assert_eq!(switch.take(), Power::Stopped);
        assert!(switch.start(8, 9));
        assert!(!switch.start(10, 11), "it is starting");
        assert_eq!(switch.take(), Power::Starting { pc: 8, argument: 9 });
        assert_eq!(switch.take(), Power::Started);
        assert!(!switch.start(10, 11), "it runs");
    }
}
