//! When threads that send pages may do so: switched on and off, held to a bandwidth.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time that unused bandwidth is kept for: longer pauses are not made up for by a burst.
const BURST: Duration = Duration::from_millis(10);

struct State {
    on: bool,
    over: bool,
    /// No limit, whatever the bandwidth.
    free: bool,
    /// Bytes a second of all lanes together; 0 is no limit.
    bandwidth: u64,
    /// When what was sent so far is paid for.
    paid_until: Instant,
    /// When it begins, whatever the bandwidth.
    begins: Instant,
}

impl State {
    /// How long nobody may pass; `None` when that is now.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let paid = if self.free || self.bandwidth == 0 { now } else { self.paid_until };
        let wait = paid.max(self.begins).saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }
}

/// Shared by all threads of a source that send what nobody waits for; they wait here.
pub(super) struct Pacer {
    state: Mutex<State>,
    changed: Condvar,
}

impl Pacer {
    pub(super) fn new(on: bool, bandwidth: u64) -> Self {
        let now = Instant::now();
        let state = State { on, over: false, free: false, bandwidth, paid_until: now, begins: now };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Whether it is on.
    pub(super) fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Switches it.
    pub(super) fn switch(&self, on: bool) {
        self.change(|state| state.on = on);
    }

    /// Limits it, from now on.
    pub(super) fn limit(&self, bandwidth: u64) {
        self.change(|state| {
            state.bandwidth = bandwidth;
            state.paid_until = Instant::now();
        });
    }

    /// Lifts the limit while there is haste, without forgetting it.
    pub(super) fn hurry(&self, haste: bool) {
        self.change(|state| {
            state.free = haste;
            state.paid_until = Instant::now();
        });
    }

    /// Lets nobody pass for so long.
    pub(super) fn begin_in(&self, wait: Duration) {
        self.change(|state| state.begins = Instant::now() + wait);
    }

    /// Bytes a second that are allowed now; 0 is no limit.
    pub(super) fn bandwidth(&self) -> u64 {
        let state = self.lock();
        if state.free { 0 } else { state.bandwidth }
    }

    /// Ends it for good.
    pub(super) fn end(&self) {
        self.change(|state| state.over = true);
    }

    /// Counts what a thread has sent, then waits until it may send on; `false` when all is over.
    pub(super) fn pass(&self, sent: u64) -> bool {
        let mut state = self.lock();
        if state.bandwidth > 0 {
            let cost = Duration::from_secs_f64(sent as f64 / state.bandwidth as f64);
            let earliest = Instant::now().checked_sub(BURST);
            state.paid_until =
                earliest.map_or(state.paid_until, |at| at.max(state.paid_until)) + cost;
        }
        loop {
            let now = Instant::now();
            if state.over {
                return false;
            }
            if !state.on {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if let Some(wait) = state.wait(now) {
                let waited = self.changed.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_background_takes_at_least_its_time() {
        let pacer = Pacer::new(true, 1_000_000);
        let started = Instant::now();
        for _ in 0..20 {
            assert!(pacer.pass(10_000));
        }
        // 200,000 bytes at a million a second, less what unused time may make up for.
        assert!(started.elapsed() >= Duration::from_millis(200) - 2 * BURST);
    }

    #[test]
    fn whoever_waits_for_bandwidth_or_for_the_switch_is_let_go() {
        for pacer in [Pacer::new(true, 1), Pacer::new(false, 0)] {
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| pacer.pass(1_000_000));
                pacer.limit(0);
                pacer.switch(true);
                assert!(waiter.join().unwrap());
                let waiter = scope.spawn(|| {
                    pacer.switch(false);
                    pacer.pass(1)
                });
                pacer.end();
                assert!(!waiter.join().unwrap());
            });
        }
    }

    #[test]
    fn nobody_passes_before_it_begins_however_great_the_haste() {
        let hour = Duration::from_secs(3600);
        let pacer = Pacer::new(true, 0);
        pacer.begin_in(hour);
        pacer.hurry(true);
        let now = Instant::now();
        assert!(pacer.lock().wait(now).is_some_and(|wait| wait > hour / 2));
        assert_eq!(pacer.lock().wait(now + hour), None);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pacer.pass(0));
            pacer.begin_in(Duration::ZERO);
            assert!(waiter.join().unwrap());
            pacer.begin_in(hour);
            let waiter = scope.spawn(|| pacer.pass(0));
            pacer.end();
            assert!(!waiter.join().unwrap());
        });
    }

    #[test]
    fn haste_lets_go_whoever_waits_for_bandwidth() {
        let pacer = Pacer::new(true, 1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pacer.pass(1_000_000));
            pacer.hurry(true);
            assert!(waiter.join().unwrap());
            assert!(pacer.pass(1_000_000));
        });
    }
}
