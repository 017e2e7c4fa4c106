//! The clock that KVM keeps for a guest, in nanoseconds: Linux reads it as `kvm-clock`.

use crate::vm::Shared;
use accel::{ClockError, MachineClock, SavedClock};
use kvm_bindings::kvm_clock_data;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The clock of one VM. It runs from when the VM is made; values are nanoseconds.
#[derive(Debug)]
pub struct KvmClock {
    vm: Arc<Shared>,
    /// The last value that was read, should the kernel not tell one.
    last: AtomicU64,
}

impl KvmClock {
    pub(crate) fn new(vm: Arc<Shared>) -> Self {
        Self { vm, last: AtomicU64::new(0) }
    }
}

impl MachineClock for KvmClock {
    fn save(&self) -> SavedClock {
        match self.vm.slots.vm().get_clock() {
            Ok(kvm_clock_data { clock, .. }) => {
                self.last.store(clock, Ordering::Relaxed);
                SavedClock { ticks: clock }
            }
            Err(error) => {
                log::error!("KVM does not tell the guest's clock: {error}");
                SavedClock { ticks: self.last.load(Ordering::Relaxed) }
            }
        }
    }

    fn restore(&self, saved: SavedClock, pause: Duration) -> Result<(), ClockError> {
        let value = u64::try_from(pause.as_nanos())
            .ok()
            .and_then(|pause| saved.ticks.checked_add(pause))
            // The kernel counts in signed numbers.
            .filter(|value| i64::try_from(*value).is_ok());
        let Some(clock) = value else {
            return Err(ClockError::Overflow { ticks: saved.ticks, pause_ms: pause.as_millis() });
        };
        // No flags: the value, not one that the wall clocks of two hosts are to agree on.
        let data = kvm_clock_data { clock, ..Default::default() };
        self.vm.slots.vm().set_clock(&data).map_err(|error| ClockError::Refused(error.into()))
    }
}
