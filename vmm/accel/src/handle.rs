//! What other threads may do to a vCPU while it runs.

use crate::{Asks, Fence};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use umem_memory::PageBitmap;

/// Interrupt lines into a RISC-V hart. The discriminant is the bit in `sip`
/// (RISC-V privileged specification, "Supervisor Interrupt Registers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptKind {
    /// Software interrupt (IPI).
    Software = 1,
    /// Timer interrupt, where the timer is kept outside the vCPU.
    Timer = 5,
    /// External interrupt (PLIC).
    External = 9,
}

/// Brings a vCPU out of the guest.
type Kicker = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    lines: AtomicU64,
    kicked: AtomicBool,
    attention: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    asks: Asks<PageBitmap>,
    kicker: OnceLock<Kicker>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lines, kicked, attention, .. } = self;
        f.debug_struct("Shared")
            .field("lines", lines)
            .field("kicked", kicked)
            .field("attention", attention)
            .finish_non_exhaustive()
    }
}

/// Raises interrupt lines of one vCPU, kicks it, and puts its thread to sleep until either.
///
/// Cheap to clone; all clones speak of the same vCPU.
#[derive(Debug, Clone, Default)]
pub struct VcpuHandle {
    shared: Arc<Shared>,
}

impl VcpuHandle {
    /// A handle with all lines low.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drives an interrupt line. A rising line wakes a sleeping vCPU.
    pub fn set_line(&self, kind: InterruptKind, high: bool) {
        let _ = self.swap_line(kind, high);
    }

    /// As [`Self::set_line`]; whether the line was high, in one step: who lowers it and finds it high has
    /// taken what another thread raised.
    #[must_use]
    pub fn swap_line(&self, kind: InterruptKind, high: bool) -> bool {
        let bit = 1u64 << kind as u32;
        let before = if high {
            let before = self.shared.lines.fetch_or(bit, Ordering::SeqCst);
            self.attend();
            before
        } else {
            self.shared.lines.fetch_and(!bit, Ordering::SeqCst)
        };
        before & bit != 0
    }

    /// The lines that are high, as bits of `sip`.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.shared.lines.load(Ordering::SeqCst)
    }

    /// Replaces all lines, for restore.
    pub fn restore_lines(&self, lines: u64) {
        self.shared.lines.store(lines, Ordering::SeqCst);
        self.attend();
    }

    /// Makes [`crate::Vcpu::run`] return [`crate::VmExit::Kicked`] soon, or at its next call.
    pub fn kick(&self) {
        self.shared.kicked.store(true, Ordering::SeqCst);
        self.attend();
        if let Some(kicker) = self.shared.kicker.get() {
            kicker();
        }
    }

    /// Says how a vCPU is brought out of the guest that does not look at [`Self::take_attention`] there:
    /// for its accelerator. Called after every kick is noted, from any thread. The first one stays.
    pub fn on_kick(&self, kicker: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.kicker.set(Box::new(kicker));
    }

    /// Whether a kick is pending.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        self.shared.kicked.load(Ordering::SeqCst)
    }

    /// Whether a kick is pending; takes it.
    #[must_use]
    pub fn take_kick(&self) -> bool {
        self.shared.kicked.swap(false, Ordering::SeqCst)
    }

    /// Whether lines or kicks changed since the last call. One relaxed load when nothing did:
    /// the accelerator polls it between blocks of instructions.
    #[inline]
    #[must_use]
    pub fn take_attention(&self) -> bool {
        self.shared.attention.load(Ordering::Relaxed)
            && self.shared.attention.swap(false, Ordering::SeqCst)
    }

    /// Sleeps until attention is asked for or `deadline` passes (`None`: no deadline).
    pub fn sleep_until(&self, deadline: Option<Instant>) {
        let mut guard = self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.shared.attention.load(Ordering::SeqCst) {
            guard = match deadline {
                None => self.shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let now = Instant::now();
                    if now >= at {
                        return;
                    }
                    let waited = self.shared.wake.wait_timeout(guard, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What others ask of the vCPU: for its accelerator, which looks at every attention and when it
    /// begins to run.
    #[inline]
    #[must_use]
    pub fn asks(&self) -> &Asks<PageBitmap> {
        &self.shared.asks
    }

    /// Has the vCPU drop the write permissions that it has cached; the number to wait for. One that
    /// sleeps sleeps on.
    #[must_use]
    pub fn revoke_writes(&self) -> u64 {
        self.asked(self.shared.asks.revoke())
    }

    /// Has the vCPU forget what it has cached; the number to wait for. One that sleeps sleeps on.
    #[must_use]
    pub fn fence(&self, what: Fence) -> u64 {
        self.asked(self.shared.asks.fence(what))
    }

    fn asked(&self, (number, inside): (u64, bool)) -> u64 {
        if inside {
            self.shared.attention.store(true, Ordering::SeqCst);
        }
        number
    }

    /// Waits until the vCPU has done what it was asked or stands still, or `give_up` says so; whether
    /// it did.
    #[must_use]
    pub fn await_asked(&self, number: u64, mut give_up: impl FnMut() -> bool) -> bool {
        /// It looks around every few µs while it runs: not worth a sleep.
        const YIELDS: u32 = 64;
        let mut yields = 0;
        while !self.shared.asks.is_acknowledged(number) {
            if give_up() {
                return false;
            }
            if yields < YIELDS {
                yields += 1;
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        true
    }

    fn attend(&self) {
        self.shared.attention.store(true, Ordering::SeqCst);
        // The lock orders the store before a sleeper's check or after its wait has begun.
        drop(self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_raised_before_sleep_is_not_lost() {
        let handle = VcpuHandle::new();
        handle.set_line(InterruptKind::External, true);
        handle.sleep_until(None);
        assert_eq!(handle.lines(), 1 << 9);
    }

    #[test]
    fn a_kick_wakes_a_sleeper_and_is_taken_once() {
        let handle = VcpuHandle::new();
        let other = handle.clone();
        let sleeper = std::thread::spawn(move || {
            other.sleep_until(None);
            other.take_kick()
        });
        std::thread::sleep(Duration::from_millis(20));
        handle.kick();
        assert!(sleeper.join().unwrap());
        assert!(!handle.take_kick());
    }

    #[test]
    fn a_deadline_ends_sleep() {
        let handle = VcpuHandle::new();
        handle.sleep_until(Some(Instant::now() + Duration::from_millis(5)));
        assert!(!handle.take_attention());
    }
}
