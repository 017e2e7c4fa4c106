//! RAM as vCPUs and devices see it while some of its pages may not have arrived.

use accel::PagePresence;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use umem_fault::{FaultCause, FaultPlane, Interrupt, Waited};
use umem_memory::{GuestAddress, GuestRam, PageIndex};

/// How waiting for a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It is there.
    Present,
    /// The wait was interrupted; the page may come yet.
    Interrupted,
    /// The source could not read it: it will never be there.
    Unreadable,
}

/// Why guest memory could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
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
pub struct GuestPages {
    ram: GuestRam,
    arrival: Arc<Arrival>,
}

impl GuestPages {
    /// RAM whose pages are all there.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        Self { ram, arrival: Arc::default() }
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// From now on pages are missing until the plane has them.
    pub fn arm(&self, plane: Arc<FaultPlane>) {
        *self.arrival.plane.write().unwrap_or_else(PoisonError::into_inner) = Some(plane);
        self.arrival.incomplete.store(true, Ordering::Release);
    }

    /// All pages are there, or the RAM's content no longer matters.
    pub fn disarm(&self) {
        self.arrival.incomplete.store(false, Ordering::Release);
        *self.arrival.plane.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The plane, while pages may be missing.
    #[must_use]
    pub fn plane(&self) -> Option<Arc<FaultPlane>> {
        if !self.arrival.incomplete.load(Ordering::Acquire) {
            return None;
        }
        self.arrival.plane.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a page is there, asking the source for it if nobody has.
    #[must_use]
    pub fn fetch(&self, page: PageIndex, cause: FaultCause, interrupt: &Interrupt) -> Fetched {
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
    pub fn fetch_range(
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
    pub fn read(
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
