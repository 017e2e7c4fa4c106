//! Where threads wait for pages.

use crate::interrupt::Interrupt;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PARKING_SPOTS};
use std::sync::{Arc, PoisonError};

struct Spot {
    /// Pages that threads wait for here.
    waiting: Mutex<Vec<u64>>,
    woken: Condvar,
}

/// A fixed number of places to wait at. Pages share them, so a thread may wake for nothing and
/// looks at its own page again.
pub(crate) struct Parking {
    spots: Box<[Spot]>,
    closed: AtomicBool,
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left<T> {
    /// What was waited for is so.
    Done(T),
    /// The interrupt was raised, or nobody may wait any more.
    Interrupted,
}

impl Parking {
    pub(crate) fn new() -> Self {
        let spot = || Spot { waiting: Mutex::new(Vec::new()), woken: Condvar::new() };
        let spots = (0..PARKING_SPOTS).map(|_| spot()).collect();
        Self { spots, closed: AtomicBool::new(false) }
    }

    fn spot_of(page: u64) -> usize {
        // Neighbours go to different spots.
        usize::try_from(page % PARKING_SPOTS as u64).unwrap_or(0)
    }

    /// Waits until `done` gives something. `done` must leave a mark at which the one who changes
    /// the page calls [`Self::wake`]; it runs with the spot locked, as the waking does, so none is
    /// lost in between.
    pub(crate) fn wait<T>(
        self: &Arc<Self>,
        page: u64,
        interrupt: &Interrupt,
        mut done: impl FnMut() -> Option<T>,
    ) -> Left<T> {
        let at = Self::spot_of(page);
        let Some(spot) = self.spots.get(at) else { return Left::Interrupted };
        interrupt.enter(self, at);
        let mut waiting = lock(&spot.waiting);
        waiting.push(page);
        let left = loop {
            if let Some(value) = done() {
                break Left::Done(value);
            }
            if interrupt.is_raised() || self.closed.load(Ordering::SeqCst) {
                break Left::Interrupted;
            }
            waiting = spot.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        };
        if let Some(mine) = waiting.iter().position(|&other| other == page) {
            waiting.swap_remove(mine);
        }
        drop(waiting);
        interrupt.leave(self, at);
        left
    }

    /// Lets those who wait for a page look at it.
    pub(crate) fn wake(&self, page: u64) {
        self.wake_spot(Self::spot_of(page));
    }

    pub(crate) fn wake_spot(&self, spot: usize) {
        if let Some(spot) = self.spots.get(spot) {
            let _waiting = lock(&spot.waiting);
            spot.woken.notify_all();
        }
    }

    /// Lets everybody go, now and later.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        (0..self.spots.len()).for_each(|spot| self.wake_spot(spot));
    }

    /// Whether everybody is let go.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Some of the pages that threads wait for.
    pub(crate) fn sample(&self, at_most: usize) -> Vec<u64> {
        let mut pages = Vec::new();
        for spot in &self.spots {
            for &page in lock(&spot.waiting).iter() {
                if pages.len() == at_most {
                    return pages;
                }
                if !pages.contains(&page) {
                    pages.push(page);
                }
            }
        }
        pages
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
