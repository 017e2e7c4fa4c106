//! RAM as vCPUs and devices see it while some of its pages may not have arrived.

use accel::PagePresence;
use devices::{Absent, GuestRange, PresentPages};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use umem_fault::{FaultCause, FaultPlane, Interrupt, Waited};
use umem_memory::{GuestAddress, GuestRam, PageIndex};

/// How waiting for a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It is there.
    Present,
    /// The wait was interrupted; the page may come yet.
    Interrupted,
    /// The source could not read it: it will never be there.
    Unreadable,
}

/// Why guest memory could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// No RAM there, or not all of it.
    NotRam,
    /// A page of it did not arrive.
    Page(Fetched),
}

#[derive(Default)]
struct Arrival {
    /// Set while pages may be missing: the cheap question on the way.
    incomplete: AtomicBool,
    plane: RwLock<Option<Arc<FaultPlane>>>,
}

/// RAM, and the fault plane while a postcopy fills it. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct GuestPages {
    ram: GuestRam,
    arrival: Arc<Arrival>,
}

impl GuestPages {
    /// RAM whose pages are all there.
    #[must_use]
    pub(crate) fn new(ram: GuestRam) -> Self {
        Self { ram, arrival: Arc::default() }
    }

    /// The RAM.
    #[must_use]
    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// From now on pages are missing until the plane has them.
    pub(crate) fn arm(&self, plane: Arc<FaultPlane>) {
        *self.arrival.plane.write().unwrap_or_else(PoisonError::into_inner) = Some(plane);
        self.arrival.incomplete.store(true, Ordering::Release);
    }

    /// All pages are there, or the RAM's content no longer matters.
    pub(crate) fn disarm(&self) {
        self.arrival.incomplete.store(false, Ordering::Release);
        *self.arrival.plane.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The plane, while pages may be missing.
    #[must_use]
    pub(crate) fn plane(&self) -> Option<Arc<FaultPlane>> {
        if !self.arrival.incomplete.load(Ordering::Acquire) {
            return None;
        }
        self.arrival.plane.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a page is there, asking the source for it if nobody has.
    #[must_use]
    pub(crate) fn fetch(
        &self,
        page: PageIndex,
        cause: FaultCause,
        interrupt: &Interrupt,
    ) -> Fetched {
        match self.plane() {
            None => Fetched::Present,
            Some(plane) => match plane.resolve(page, cause, interrupt) {
                Waited::Present => Fetched::Present,
                Waited::Poisoned => Fetched::Unreadable,
                Waited::Interrupted => Fetched::Interrupted,
            },
        }
    }

    /// Makes all pages of a range of guest memory present.
    ///
    /// # Errors
    /// When it is not RAM, or a page did not come.
    pub(crate) fn fetch_range(
        &self,
        address: GuestAddress,
        bytes: u64,
        cause: FaultCause,
        interrupt: &Interrupt,
    ) -> Result<(), ReadError> {
        let layout = self.ram.layout();
        let last = address.0.checked_add(bytes.max(1) - 1).ok_or(ReadError::NotRam)?;
        let first = layout.page_of(address).ok_or(ReadError::NotRam)?;
        let last = layout.page_of(GuestAddress(last)).ok_or(ReadError::NotRam)?;
        for page in first.0..=last.0 {
            match self.fetch(PageIndex(page), cause, interrupt) {
                Fetched::Present => {}
                failed => return Err(ReadError::Page(failed)),
            }
        }
        Ok(())
    }

    /// Reads guest memory, waiting for its pages.
    ///
    /// # Errors
    /// When it is not RAM, or a page did not come.
    pub(crate) fn read(
        &self,
        address: GuestAddress,
        bytes: u64,
        cause: FaultCause,
        interrupt: &Interrupt,
    ) -> Result<Vec<u8>, ReadError> {
        self.fetch_range(address, bytes, cause, interrupt)?;
        let mut content = vec![0; usize::try_from(bytes).map_err(|_| ReadError::NotRam)?];
        self.ram.read_at(address, &mut content).map_err(|_| ReadError::NotRam)?;
        Ok(content)
    }
}

impl PagePresence for GuestPages {
    fn is_present(&self, page: PageIndex) -> bool {
        self.plane().is_none_or(|plane| plane.table().is_present(page))
    }
}

/// Guest memory as one device reaches it: its waits end when the device is to rest.
pub(crate) struct DevicePages {
    pages: GuestPages,
    interrupt: Interrupt,
}

impl DevicePages {
    pub(crate) fn new(pages: GuestPages) -> Self {
        Self { pages, interrupt: Interrupt::new() }
    }
}

impl PresentPages for DevicePages {
    fn hold(&self, ranges: &[GuestRange]) -> Result<(), Absent> {
        let Some(plane) = self.pages.plane() else { return Ok(()) };
        let layout = self.pages.ram().layout();
        let mut pages = Vec::new();
        for range in ranges.iter().filter(|range| range.bytes > 0) {
            let last = GuestAddress(range.address.0.saturating_add(range.bytes - 1));
            // The ranges are known to be RAM, which is one block.
            if let (Some(first), Some(last)) = (layout.page_of(range.address), layout.page_of(last))
            {
                pages.extend((first.0..=last.0).map(PageIndex));
            }
        }
        match plane.resolve_all(&pages, FaultCause::Device, &self.interrupt) {
            Waited::Present => Ok(()),
            Waited::Interrupted => Err(Absent::Interrupted),
            Waited::Poisoned => Err(Absent::Unreadable),
        }
    }

    fn interrupt(&self, on: bool) {
        if on {
            self.interrupt.raise();
        } else {
            self.interrupt.clear();
        }
    }
}
