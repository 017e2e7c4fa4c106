//! The accelerator's part of dirty tracking: which pages the harts store to.

use accel::VcpuHandle;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use umem_memory::{DirtyError, DirtySource, PageBitmap};

const NAME: &str = "stores of the software CPU";

/// A hart answers within µs while it has a host CPU. One that does not for this long sits in the
/// kernel, waiting for a page of its own.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

struct Tracking {
    /// Where harts set bits: before the first store to a page since they last dropped their
    /// permissions.
    log: Arc<PageBitmap>,
    /// Bits taken from the log while not all harts have answered yet.
    taken: PageBitmap,
}

/// The stores of the harts of one VM, page-table marks and atomics among them.
///
/// While it is on, a hart caches the permission to write to a page only once the page's bit is set
/// in the log. Collecting takes the bits away and then has each hart drop those permissions; see
/// [`accel::Asks`] for how it answers.
pub struct HartWrites {
    pages: u64,
    harts: Vec<(u32, VcpuHandle)>,
    longest_wait: Duration,
    tracking: Mutex<Option<Tracking>>,
}

impl std::fmt::Debug for HartWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pages, harts, .. } = self;
        write!(f, "HartWrites {{ pages: {pages}, harts: {} }}", harts.len())
    }
}

impl HartWrites {
    /// For RAM of so many pages and all harts that run on it, by their numbers.
    #[must_use]
    pub fn new(pages: u64, harts: Vec<(u32, VcpuHandle)>) -> Self {
        Self { pages, harts, longest_wait: LONGEST_WAIT, tracking: Mutex::new(None) }
    }

    /// Another bound for the wait for harts.
    #[must_use]
    pub fn with_longest_wait(mut self, longest_wait: Duration) -> Self {
        self.longest_wait = longest_wait;
        self
    }

    fn tracking(&self) -> MutexGuard<'_, Option<Tracking>> {
        self.tracking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_log(&self, log: Option<&Arc<PageBitmap>>) {
        for (_, hart) in &self.harts {
            hart.asks().set_log(log.cloned());
        }
    }

    /// Asks all harts at once, then waits for each.
    fn revoke(&self) -> Result<(), DirtyError> {
        let asked: Vec<_> =
            self.harts.iter().map(|(number, hart)| (*number, hart, hart.revoke_writes())).collect();
        let deadline = Instant::now() + self.longest_wait;
        for (vcpu, hart, revocation) in asked {
            if !hart.await_asked(revocation, || Instant::now() >= deadline) {
                let milliseconds = self.longest_wait.as_millis();
                return Err(DirtyError::Vcpu { vcpu, milliseconds });
            }
        }
        Ok(())
    }

    /// Harts that have not answered go on logging to nowhere until they look around.
    fn end(&self) {
        self.set_log(None);
        for (_, hart) in &self.harts {
            let _ = hart.revoke_writes();
        }
    }
}

impl DirtySource for HartWrites {
    fn start(&self) -> Result<(), DirtyError> {
        let mut tracking = self.tracking();
        if tracking.is_some() {
            return Err(DirtyError::On(NAME));
        }
        let log = Arc::new(PageBitmap::new(self.pages));
        self.set_log(Some(&log));
        self.revoke().inspect_err(|_| self.end())?;
        *tracking = Some(Tracking { log, taken: PageBitmap::new(self.pages) });
        Ok(())
    }

    /// On an error `into` is as before.
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        let guard = self.tracking();
        let Some(Tracking { log, taken }) = guard.as_ref() else {
            return Err(DirtyError::Off(NAME));
        };
        if into.pages() != self.pages {
            return Err(DirtyError::Pages { pages: self.pages, given: into.pages() });
        }
        log.move_into(taken);
        self.revoke()?;
        Ok(taken.move_into(into))
    }

    fn stop(&self) {
        if self.tracking().take().is_some() {
            self.end();
        }
    }
}

impl Drop for HartWrites {
    fn drop(&mut self) {
        self.stop();
    }
}
