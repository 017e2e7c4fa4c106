//! The guest's clock: monotonic, stopped with the VM, moved with the guest.
//!
//! The clock goes on by the length of a pause: after a move it shows the value at the stop plus the
//! time that passed until the guest ran again, as both hosts' monotonic clocks saw it. Wall clocks
//! of two hosts are never compared.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rate of the guest's `time` register: 10 MHz, as on QEMU's `virt` board.
pub const TICKS_PER_SECOND: u64 = 10_000_000;

const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// A saved clock that cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The pause would carry the clock past its range.
    #[error("guest clock of {ticks} ticks cannot go on by {pause_ms} ms")]
    Overflow {
        /// Saved value.
        ticks: u64,
        /// Length of the pause, milliseconds.
        pause_ms: u128,
    },
    /// The host does not set the clock.
    #[error("the host does not set the guest's clock")]
    Refused(#[source] std::io::Error),
}

/// The clock as it moves with the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedClock {
    /// Its value when the guest stopped, in units of the board's clock (RISC-V: ticks; x86-64: ns of KVM's
    /// clock).
    pub ticks: u64,
}

/// The time that a guest sees, as the machine stops it, moves it and lets it go on.
pub trait MachineClock: Send + Sync {
    /// The value to move with the guest.
    fn save(&self) -> SavedClock;

    /// Goes on from a saved value after a pause of the given length.
    ///
    /// # Errors
    /// When the sum does not fit, or the host refuses; the clock is then unchanged.
    fn restore(&self, saved: SavedClock, pause: Duration) -> Result<(), ClockError>;
}

/// Ticks since the guest's first start, shared by all vCPUs. Reading it is wait-free.
#[derive(Debug)]
pub struct GuestClock {
    origin: Instant,
    /// Added (wrapping) to the nanoseconds since `origin`.
    offset_nanoseconds: AtomicU64,
}

impl Default for GuestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestClock {
    /// A clock that shows 0 now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now(), offset_nanoseconds: AtomicU64::new(0) }
    }

    fn elapsed_nanoseconds(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The value now, in ticks.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        let offset = self.offset_nanoseconds.load(Ordering::Relaxed);
        self.elapsed_nanoseconds().wrapping_add(offset) / NANOSECONDS_PER_TICK
    }

    /// The host's instant at which the clock will show `ticks`; now, if that is past.
    /// `None` when it lies beyond what the host's clock can express.
    #[must_use]
    pub fn instant_of(&self, ticks: u64) -> Option<Instant> {
        let ahead = ticks.saturating_sub(self.now());
        Instant::now().checked_add(Duration::from_nanos(ahead.checked_mul(NANOSECONDS_PER_TICK)?))
    }
}

impl MachineClock for GuestClock {
    fn save(&self) -> SavedClock {
        SavedClock { ticks: self.now() }
    }

    fn restore(&self, saved: SavedClock, pause: Duration) -> Result<(), ClockError> {
        let overflow = || ClockError::Overflow { ticks: saved.ticks, pause_ms: pause.as_millis() };
        let pause_nanoseconds = u64::try_from(pause.as_nanos()).map_err(|_| overflow())?;
        let value = saved
            .ticks
            .checked_mul(NANOSECONDS_PER_TICK)
            .and_then(|ns| ns.checked_add(pause_nanoseconds))
            .ok_or_else(overflow)?;
        let offset = value.wrapping_sub(self.elapsed_nanoseconds());
        self.offset_nanoseconds.store(offset, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_goes_on_by_the_pause() {
        let clock = GuestClock::new();
        clock.restore(SavedClock { ticks: 5_000_000_000 }, Duration::from_millis(250)).unwrap();
        let now = clock.now();
        assert!(now >= 5_002_500_000, "{now}");
        assert!(now < 5_002_500_000 + 60 * TICKS_PER_SECOND, "{now}");
    }

    #[test]
    fn an_absurd_clock_is_refused_and_changes_nothing() {
        let clock = GuestClock::new();
        assert!(clock.restore(SavedClock { ticks: u64::MAX }, Duration::ZERO).is_err());
        assert!(clock.now() < 60 * TICKS_PER_SECOND);
    }
}
