//! Since when faults that the kernel told of are unresolved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use umem_memory::PageIndex;

/// As many faults can be outstanding as a VM has threads; more are not timed.
const AT_MOST: usize = 4096;

#[derive(Default)]
pub(crate) struct Outstanding {
    since: Mutex<HashMap<PageIndex, Instant>>,
    /// Its length, so that installing pages that nobody waits for takes no lock.
    count: AtomicUsize,
}

impl Outstanding {
    fn since(&self) -> MutexGuard<'_, HashMap<PageIndex, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes faults. To be called before the pages are claimed: who finishes a page after the
    /// claim finds it then.
    pub(crate) fn note(&self, pages: &[PageIndex], now: Instant) {
        let mut since = self.since();
        for &page in pages {
            if since.len() < AT_MOST {
                since.entry(page).or_insert(now);
            }
        }
        self.count.store(since.len(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// A page is there: since when it was waited for, if it was. To be called after the table
    /// says so.
    pub(crate) fn take(&self, page: PageIndex) -> Option<Duration> {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut since = self.since();
        let started = since.remove(&page)?;
        self.count.store(since.len(), Ordering::SeqCst);
        Some(started.elapsed())
    }

    /// Some of the pages.
    pub(crate) fn sample(&self, at_most: usize) -> Vec<PageIndex> {
        self.since().keys().copied().take(at_most).collect()
    }
}
