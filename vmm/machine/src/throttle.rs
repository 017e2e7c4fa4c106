//! Takes time from the vCPUs, so that rounds of precopy catch up with a guest that writes too fast.
//!
//! Time is cut into windows. In each, all vCPUs run for a part and rest at their gates for the rest:
//! a thread of its own kicks those that run. A rest ends at once when the vCPU is to stop or end.
//! Halted vCPUs are left alone; their interrupts come as late as a rest ends at most.

use crate::gate::{Activity, Gate};
use accel::VcpuHandle;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Length of a window.
const WINDOW: Duration = Duration::from_millis(10);

/// Most that can be taken, per cent.
const MOST: u8 = 99;

/// How long vCPUs run and rest in a window when so many per cent are taken from them.
fn parts(percent: u8) -> (Duration, Duration) {
    let rest = WINDOW * u32::from(percent.min(MOST)) / 100;
    (WINDOW - rest, rest)
}

#[derive(Default)]
struct State {
    percent: u8,
    has_thread: bool,
    ends: bool,
}

struct Inner {
    vcpus: Vec<(Arc<Gate>, VcpuHandle)>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The throttle of all vCPUs of a VM. At first it takes nothing.
pub(crate) struct Throttle {
    inner: Arc<Inner>,
}

impl Throttle {
    /// One for these vCPUs.
    #[must_use]
    pub(crate) fn new(vcpus: Vec<(Arc<Gate>, VcpuHandle)>) -> Self {
        let inner = Inner { vcpus, state: Mutex::default(), changed: Condvar::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Takes so many per cent of their time from the vCPUs from now on; 0 ends rests at once.
    pub(crate) fn set(&self, percent: u8) {
        let inner = &self.inner;
        let mut state = inner.state();
        state.percent = percent.min(MOST);
        if state.percent == 0 {
            inner.vcpus.iter().for_each(|(gate, _)| gate.end_rest());
        } else if !state.has_thread {
            let theirs = inner.clone();
            let spawned =
                std::thread::Builder::new().name("throttle".into()).spawn(move || theirs.run());
            match spawned {
                Ok(_) => state.has_thread = true,
                Err(error) => log::warn!("vCPUs cannot be throttled: {error}"),
            }
        }
        inner.changed.notify_all();
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.inner.state().ends = true;
        self.inner.changed.notify_all();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's body: goes on until nothing is taken any more.
    fn run(&self) {
        let mut state = self.state();
        loop {
            let (run, rest) = parts(state.percent);
            if state.ends || rest.is_zero() {
                state.has_thread = false;
                return;
            }
            state = self.pause(state, run);
            // Asked again: it may be other now, and none may be sent to rest after `set(0)`.
            let (_, rest) = parts(state.percent);
            if state.ends || rest.is_zero() {
                continue;
            }
            let until = Instant::now() + rest;
            for (gate, handle) in &self.vcpus {
                if gate.activity() == Activity::Running {
                    gate.rest_until(until);
                    handle.kick();
                }
            }
            state = self.pause(state, rest);
        }
    }

    /// Sleeps, or until something changes.
    fn pause<'a>(&self, state: MutexGuard<'a, State>, length: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, length).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Order;

    #[test]
    fn a_window_is_cut_by_per_cent() {
        let micros = |percent| {
            let (run, rest) = parts(percent);
            (run.as_micros(), rest.as_micros())
        };
        assert_eq!(micros(0), (10_000, 0));
        assert_eq!(micros(1), (9_900, 100));
        assert_eq!(micros(50), (5_000, 5_000));
        assert_eq!(micros(99), (100, 9_900));
        assert_eq!(micros(255), (100, 9_900), "some time is always left");
    }

    #[test]
    fn vcpus_that_run_are_sent_to_rest_and_none_once_nothing_is_taken() {
        let (gate, handle) = (Arc::new(Gate::new()), VcpuHandle::new());
        gate.order(Order::Run);
        assert!(gate.pass());
        let throttle = Throttle::new(vec![(gate.clone(), handle.clone())]);
        throttle.set(50);
        let started = Instant::now();
        while !handle.take_kick() {
            assert!(started.elapsed() < Duration::from_secs(30), "never kicked");
            std::thread::yield_now();
        }
        throttle.set(0);
        assert!(!gate.rests(), "at once");
        assert!(gate.may_enter());
        // The thread ends by itself, and one comes again when it is needed.
        while throttle.inner.state().has_thread {
            assert!(started.elapsed() < Duration::from_secs(30), "it never ends");
            std::thread::yield_now();
        }
        let _ = handle.take_kick();
        throttle.set(99);
        while !handle.take_kick() {
            assert!(started.elapsed() < Duration::from_secs(30), "never kicked again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn vcpus_that_do_not_run_are_left_alone() {
        let (gate, handle) = (Arc::new(Gate::new()), VcpuHandle::new());
        gate.set_activity(Activity::Halted);
        let throttle = Throttle::new(vec![(gate.clone(), handle.clone())]);
        throttle.set(99);
        std::thread::sleep(3 * WINDOW);
        assert!(!gate.rests() && !handle.take_kick());
    }
}
