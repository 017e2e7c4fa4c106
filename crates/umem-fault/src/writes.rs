//! Dirty tracking by the kernel: pages are write-protected, the first write to one takes the
//! protection off by itself (`UFFD_FEATURE_WP_ASYNC`), and `PAGEMAP_SCAN` finds the pages without it
//! and protects them again, each in one step.
//!
//! It notes every write through the mappings it was given, whoever makes it: threads of the process
//! that has them, and the kernel for them. Not noted are writes through other mappings of the same
//! memory, and by hardware into pages that were pinned before they were protected.

use crate::regions::{ForeignRegion, Regions};
use crate::uffd::{Features, Userfaultfd};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use umem_memory::pagemap::{self, Query};
use umem_memory::{DirtyError, DirtySource, GuestRam, PageBitmap, PageIndex, PageRange, PageSize};

const NAME: &str = "writes noted by the kernel";

const NEEDED: Features = Features(Features::WP_ASYNC.0 | Features::WP_UNPOPULATED.0);

/// Finds written pages and protects them again.
const WRITTEN: Query = Query {
    flags: pagemap::PROTECT_FOUND | pagemap::CHECK_ASYNC,
    none_of: 0,
    any_of: pagemap::WRITTEN,
};

const WAY_OUT: &str = "use Linux 6.7 or later, or move by postcopy";

#[derive(Default)]
struct State {
    on: bool,
    /// While it is on; and one of another process while it is off.
    uffd: Option<Userfaultfd>,
}

/// The pages written through some mappings, of this process or of another.
pub struct MappingWrites {
    regions: Regions,
    pagemap: File,
    /// Whether the userfaultfd is another process's. One for this process is opened at each start.
    foreign: bool,
    state: Mutex<State>,
}

impl std::fmt::Debug for MappingWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappingWrites").field("regions", &self.regions).finish_non_exhaustive()
    }
}

fn nonsense(reason: &'static str) -> DirtyError {
    let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
    DirtyError::System { what: "use these regions", error }
}

impl MappingWrites {
    /// Writes to a RAM through its mappings in this process.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn of_ram(ram: &GuestRam) -> Result<Self, DirtyError> {
        let regions = Regions::of_ram(ram).map_err(nonsense)?;
        let pagemap = File::open("/proc/self/pagemap");
        let pagemap = pagemap
            .map_err(|error| DirtyError::System { what: "open /proc/self/pagemap", error })?;
        Ok(Self::new(regions, pagemap, None))
    }

    /// Writes of another process, which made the userfaultfd; `pagemap` is its
    /// `/proc/PID/pagemap`. All pages must have arrived: a watch for missing pages ends.
    ///
    /// # Errors
    /// When the regions are not the pages from 0 on, each once.
    pub fn of_process(
        uffd: Userfaultfd,
        regions: &[ForeignRegion],
        page: PageSize,
        pagemap: File,
    ) -> Result<Self, DirtyError> {
        let regions = Regions::new(regions, page).map_err(nonsense)?;
        Ok(Self::new(regions, pagemap, Some(uffd)))
    }

    fn new(regions: Regions, pagemap: File, received: Option<Userfaultfd>) -> Self {
        let foreign = received.is_some();
        let state = Mutex::new(State { on: false, uffd: received });
        Self { regions, pagemap, foreign, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers all regions and protects all pages.
    fn arm(&self, uffd: &Userfaultfd) -> Result<(), DirtyError> {
        let unsupported = |what, error: Errno| DirtyError::Unsupported {
            what,
            error: error.into(),
            way_out: WAY_OUT,
        };
        if !uffd.features().contains(NEEDED) {
            return Err(unsupported("userfaultfd that notes writes (WP_ASYNC)", Errno::OPNOTSUPP));
        }
        for (start, bytes) in self.regions.spans() {
            uffd.register_writes(start, bytes).map_err(|error| match error {
                Errno::BUSY => DirtyError::System {
                    what: "watch memory whose pages are still arriving; wait until all are there",
                    error: error.into(),
                },
                _ => DirtyError::System { what: "watch memory", error: error.into() },
            })?;
        }
        for (start, bytes) in self.regions.spans() {
            let end = start + bytes;
            pagemap::scan(&self.pagemap, start, end, WRITTEN, &mut |_, _| {}).map_err(|error| {
                match error {
                    Errno::NOTTY | Errno::INVAL => unsupported("PAGEMAP_SCAN", error),
                    _ => DirtyError::System { what: "protect memory", error: error.into() },
                }
            })?;
        }
        Ok(())
    }

    /// Gives the regions back to the kernel, which takes the protection away.
    fn disarm(&self, state: &mut State) {
        state.on = false;
        if let Some(uffd) = &state.uffd {
            for (start, bytes) in self.regions.spans() {
                // One that was never registered is refused; nothing is left to do for it.
                let _ = uffd.unregister(start, bytes);
            }
        }
        if !self.foreign {
            state.uffd = None;
        }
    }

    /// The pages between two addresses of one region.
    fn pages(&self, start: u64, end: u64) -> PageRange {
        let first = self.regions.page_at(start);
        match (first, self.regions.page_at(end.saturating_sub(1))) {
            (Some(first), Some(last)) => PageRange::new(first, last.0 - first.0 + 1),
            // The kernel reports nothing outside of what it was asked for.
            _ => PageRange::new(PageIndex(0), 0),
        }
    }
}

impl DirtySource for MappingWrites {
    fn start(&self) -> Result<(), DirtyError> {
        let mut state = self.state();
        if state.on {
            return Err(DirtyError::On(NAME));
        }
        let opened = match state.uffd.take() {
            Some(uffd) => Ok(uffd),
            None => Userfaultfd::open(),
        };
        let uffd = opened.map_err(|error| DirtyError::System {
            what: "open a userfaultfd",
            error: io::Error::other(error),
        })?;
        let armed = self.arm(&uffd);
        *state = State { on: true, uffd: Some(uffd) };
        if armed.is_err() {
            self.disarm(&mut state);
        }
        armed
    }

    /// The kernel protects a page in the moment it reports it, and no processor writes to it with
    /// an older permission once the call has returned.
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        let state = self.state();
        if !state.on {
            return Err(DirtyError::Off(NAME));
        }
        let (pages, given) = (self.regions.total_pages(), into.pages());
        if pages != given {
            return Err(DirtyError::Pages { pages, given });
        }
        let mut added = 0;
        for (start, bytes) in self.regions.spans() {
            let mut report = |from, to| added += into.set(self.pages(from, to));
            let end = start + bytes;
            pagemap::scan(&self.pagemap, start, end, WRITTEN, &mut report).map_err(|error| {
                // Pages may have been protected and not reported: all count as written.
                into.set(self.pages(start, end));
                DirtyError::System { what: "find written pages", error: error.into() }
            })?;
        }
        Ok(added)
    }

    fn stop(&self) {
        let mut state = self.state();
        if state.on {
            self.disarm(&mut state);
        }
    }
}

impl Drop for MappingWrites {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
