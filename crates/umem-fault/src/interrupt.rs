//! A way out of waiting for a page.

use crate::parking::Parking;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use std::sync::{Arc, PoisonError};

/// Where a thread waits: which parking lot, and at which spot.
type Place = (Arc<Parking>, usize);

struct Inner {
    raised: AtomicBool,
    /// Where threads wait that this is the way out for.
    places: Mutex<Vec<Place>>,
}

/// A flag that ends waiting for pages. It stays raised, so that waiting ends at once, until it is
/// cleared. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

impl Default for Interrupt {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").field("raised", &self.is_raised()).finish()
    }
}

impl Interrupt {
    /// One that is not raised.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner { raised: AtomicBool::new(false), places: Mutex::new(Vec::new()) };
        Self { inner: Arc::new(inner) }
    }

    /// Ends waiting, now and later. Never blocks for long.
    pub fn raise(&self) {
        self.inner.raised.store(true, Ordering::SeqCst);
        // A waiter takes its place first and looks at the flag then: it is either seen here or
        // sees the flag.
        let places = self.places().clone();
        for (parking, spot) in places {
            parking.wake_spot(spot);
        }
    }

    /// Lets threads wait again.
    pub fn clear(&self) {
        self.inner.raised.store(false, Ordering::SeqCst);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.inner.raised.load(Ordering::SeqCst)
    }

    pub(crate) fn enter(&self, parking: &Arc<Parking>, spot: usize) {
        self.places().push((parking.clone(), spot));
    }

    pub(crate) fn leave(&self, parking: &Arc<Parking>, spot: usize) {
        let mut places = self.places();
        let mine = |place: &Place| place.1 == spot && Arc::ptr_eq(&place.0, parking);
        if let Some(at) = places.iter().position(mine) {
            places.swap_remove(at);
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.inner.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
