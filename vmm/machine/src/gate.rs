//! Stops vCPU threads and starts them again.
//!
//! Each vCPU thread asks its gate before it enters the guest. Who stops a vCPU closes the gate,
//! kicks the vCPU, and waits, in bounded time, until the thread says that it stands at the gate. A
//! thread that waits for a missing page says so, for whoever waits in vain.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use umem_memory::PageIndex;

/// What a vCPU thread is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Enter the guest.
    Run,
    /// Stand at the gate.
    Stop,
    /// End the thread.
    End,
}

/// What a vCPU thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Stands at the gate; its vCPU may be saved, restored and looked at.
    Stopped,
    /// Runs the guest.
    Running,
    /// Waits for an interrupt on the guest's behalf.
    Halted,
    /// Waits for a page that has not arrived.
    WaitsFor(PageIndex),
    /// Has ended.
    Ended,
}

#[derive(Debug)]
struct State {
    order: Order,
    activity: Activity,
    /// Until when the thread is to rest before it enters the guest (see `throttle`).
    rest: Option<Instant>,
}

/// The gate of one vCPU thread.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate with the thread at it.
    #[must_use]
    pub(crate) fn new() -> Self {
        let state = State { order: Order::Stop, activity: Activity::Stopped, rest: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order. The caller kicks the vCPU after that.
    pub(crate) fn order(&self, order: Order) {
        let mut state = self.lock();
        if state.order != Order::End {
            state.order = order;
        }
        state.rest = None;
        self.changed.notify_all();
    }

    /// What the thread does.
    #[must_use]
    pub(crate) fn activity(&self) -> Activity {
        self.lock().activity
    }

    /// Waits until the thread stands at the gate or has ended, at most `bound`; then what it does.
    #[must_use]
    pub(crate) fn await_stopped(&self, bound: Duration) -> Activity {
        let deadline = Instant::now() + bound;
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if matches!(state.activity, Activity::Stopped | Activity::Ended) || left.is_zero() {
                return state.activity;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the thread has ended, at most `bound`; whether it has.
    #[must_use]
    pub(crate) fn await_ended(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        let mut state = self.lock();
        while state.activity != Activity::Ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Has the thread rest until then, when it comes out of the guest. Any order ends it.
    pub(crate) fn rest_until(&self, until: Instant) {
        let mut state = self.lock();
        if state.order == Order::Run {
            state.rest = Some(until);
        }
    }

    /// Ends a rest.
    pub(crate) fn end_rest(&self) {
        self.lock().rest = None;
        self.changed.notify_all();
    }

    /// Whether the thread rests, or is about to.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        self.lock().rest.is_some()
    }

    /// The thread's side: rests if it is to, and says whether to enter the guest without standing at
    /// the gate.
    #[must_use]
    pub(crate) fn may_enter(&self) -> bool {
        let mut state = self.lock();
        while let Some(until) = state.rest {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.rest = None;
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.order == Order::Run
    }

    /// The thread's side: stands at the gate until it opens. `false` is the order to end.
    #[must_use]
    pub(crate) fn pass(&self) -> bool {
        let mut state = self.lock();
        loop {
            match state.order {
                Order::Run => {
                    state.activity = Activity::Running;
                    return true;
                }
                Order::End => return false,
                Order::Stop => {
                    if state.activity != Activity::Stopped {
                        state.activity = Activity::Stopped;
                        self.changed.notify_all();
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The thread's side: says what it does.
    pub(crate) fn set_activity(&self, activity: Activity) {
        let mut state = self.lock();
        state.activity = activity;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_stopped_thread_is_seen_and_goes_on_when_told() {
        let gate = Arc::new(Gate::new());
        let theirs = gate.clone();
        let thread = std::thread::spawn(move || {
            let mut rounds = 0u32;
            while theirs.pass() {
                rounds += 1;
                std::thread::yield_now();
            }
            theirs.set_activity(Activity::Ended);
            rounds
        });
        gate.order(Order::Run);
        while gate.activity() != Activity::Running {
            std::thread::yield_now();
        }
        gate.order(Order::Stop);
        assert_eq!(gate.await_stopped(Duration::from_secs(10)), Activity::Stopped);
        assert!(!gate.await_ended(Duration::ZERO), "it stands at the gate");
        gate.order(Order::End);
        assert!(gate.await_ended(Duration::from_secs(10)));
        assert!(thread.join().unwrap() > 0);
        assert_eq!(gate.activity(), Activity::Ended);
    }

    #[test]
    fn waiting_for_a_thread_that_waits_for_a_page_ends_and_names_it() {
        let gate = Gate::new();
        gate.set_activity(Activity::WaitsFor(PageIndex(7)));
        assert_eq!(gate.await_stopped(Duration::from_millis(5)), Activity::WaitsFor(PageIndex(7)));
    }

    #[test]
    fn a_rest_ends_at_once_when_the_thread_is_to_stop() {
        let far = Instant::now() + Duration::from_secs(3600);
        for order in [Order::Stop, Order::End] {
            let gate = Arc::new(Gate::new());
            gate.order(Order::Run);
            gate.rest_until(far);
            let theirs = gate.clone();
            let thread = std::thread::spawn(move || theirs.may_enter());
            gate.order(order);
            assert!(!thread.join().unwrap());
            gate.rest_until(far);
            assert!(!gate.may_enter(), "one that is stopped has no rest to take");
        }
        let gate = Arc::new(Gate::new());
        gate.order(Order::Run);
        gate.rest_until(far);
        let theirs = gate.clone();
        let thread = std::thread::spawn(move || theirs.may_enter());
        gate.end_rest();
        assert!(thread.join().unwrap());
        gate.rest_until(Instant::now());
        assert!(gate.may_enter(), "it is over by itself");
    }

    #[test]
    fn the_order_to_end_is_final() {
        let gate = Gate::new();
        gate.order(Order::End);
        gate.order(Order::Run);
        assert!(!gate.pass());
    }
}
