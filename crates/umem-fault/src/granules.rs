//! Memory whose host pages are larger than the pages that arrive: hugetlb.
//!
//! The kernel maps such memory a host page at a time, so the guest can have none of a host page's pages
//! before it has all of them: they are a *granule*. Arriving pages are written into the memory's file,
//! where nobody sees them. To the table they stay `Installing` until the last one of the granule is there;
//! then the granule is mapped, and all of them are `Present` at once.
//!
//! ```text
//! page:     Missing / Requested ── written into the file ──► Installing ── granule whole ──► Present
//! granule:  a count of pages written; the page that makes it whole has the granule mapped
//! ```
//!
//! Whoever needs one page claims, and asks for, all of its granule. If the source could not read one of
//! them, all of the granule are lost: the kernel can make a host page fail only as a whole.

use crate::error::FaultError;
use crate::install;
use crate::plane::FaultPlane;
use crate::state::{Arrival, Claim, PageState, Withdrawal};
use crate::sync::{AtomicU64, Ordering};
use crate::uffd::Partial;
use rustix::io::Errno;
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange, RamError};

/// A granule of which a page was lost, in its count.
const LOST: u64 = 1 << 63;

/// What is known of each granule: how many of its pages are written, and whether one is lost.
pub(crate) struct Granules {
    counts: Box<[AtomicU64]>,
    /// Base-2 logarithm of the pages in each.
    shift: u32,
}

impl Granules {
    /// Of RAM whose host pages are larger than its pages; those set in the bitmap are written already.
    pub(crate) fn of_ram(ram: &GuestRam, placed: &PageBitmap) -> Option<Self> {
        let shift = ram.host_page().shift() - ram.layout().page_size().shift();
        if shift == 0 {
            return None;
        }
        let granules = ram.layout().total_pages() >> shift;
        let granules = Self { counts: (0..granules).map(|_| AtomicU64::new(0)).collect(), shift };
        for run in placed.runs() {
            granules.each(run, |part| {
                granules.count(part.start).fetch_add(part.count, Ordering::Relaxed);
            });
        }
        Some(granules)
    }

    fn pages_each(&self) -> u64 {
        1 << self.shift
    }

    /// The granule of a page, as its pages.
    pub(crate) fn of(&self, page: PageIndex) -> PageRange {
        PageRange::new(PageIndex(page.0 >> self.shift << self.shift), self.pages_each())
    }

    fn count(&self, page: PageIndex) -> &AtomicU64 {
        let index = usize::try_from(page.0 >> self.shift).ok();
        let count = index.and_then(|index| self.counts.get(index));
        count.unwrap_or_else(|| panic!("{page} is in no granule of {}", self.counts.len()))
    }

    /// The parts of a range that lie in one granule each.
    fn each(&self, range: PageRange, mut act: impl FnMut(PageRange)) {
        let mut from = range.start.0;
        let end = range.start.0.saturating_add(range.count);
        while from < end {
            let granule = self.of(PageIndex(from));
            let to = end.min(granule.start.0 + granule.count);
            act(PageRange::new(PageIndex(from), to - from));
            from = to;
        }
    }

    /// Whether all pages of a page's granule are written.
    pub(crate) fn is_whole(&self, page: PageIndex) -> bool {
        self.count(page).load(Ordering::Acquire) & !LOST == self.pages_each()
    }

    /// Pages of one granule are written, or lost. Whether the granule is whole with them, and what it is.
    fn written(&self, part: PageRange, arrival: Arrival) -> Option<Arrival> {
        let count = self.count(part.start);
        if arrival == Arrival::Poisoned {
            count.fetch_or(LOST, Ordering::AcqRel);
        }
        let now = count.fetch_add(part.count, Ordering::AcqRel) + part.count;
        let whole = now & !LOST == self.pages_each();
        whole.then_some(if now & LOST == 0 { Arrival::Present } else { Arrival::Poisoned })
    }
}

impl FaultPlane {
    /// Pages that this thread won are written: finishes the granules that are whole with them.
    ///
    /// # Errors
    /// When the kernel does not map one; all its pages can be asked for again.
    pub(crate) fn granules_written(
        &self,
        granules: &Granules,
        run: PageRange,
        arrival: Arrival,
    ) -> Result<(), FaultError> {
        let mut result = Ok(());
        granules.each(run, |part| {
            if let Some(arrival) = granules.written(part, arrival) {
                let granule = granules.of(part.start);
                let finished = self.finish_granule(granule, arrival);
                if finished.is_err() {
                    granules.count(granule.start).store(0, Ordering::Release);
                    granule.pages().for_each(|page| self.table.abort_install(page));
                }
                if result.is_ok() {
                    result = finished;
                }
            }
        });
        result
    }

    fn finish_granule(&self, granule: PageRange, arrival: Arrival) -> Result<(), FaultError> {
        let page = granule.start;
        let failed = |Partial { error, .. }| FaultError::Install { page, error: error.into() };
        match arrival {
            Arrival::Present if self.place.maps_on_arrival() => match self.map_granule(granule) {
                // Nothing but zeroes came: a hole, which takes no memory until it is touched.
                Err(Partial { error: Errno::FAULT, .. }) | Ok(()) => {}
                Err(Partial { error: Errno::EXIST, .. }) => {
                    return Err(FaultError::Corrupt { page });
                }
                Err(partial) => return Err(failed(partial)),
            },
            Arrival::Present => {}
            Arrival::Poisoned => install::poison(self, granule).map_err(failed)?,
        }
        let mut waited = false;
        for page in granule.pages() {
            self.table.finish_install(page, arrival);
            waited |= self.note_arrival(page, arrival);
        }
        if waited && arrival == Arrival::Present {
            self.map_present(page);
        }
        Ok(())
    }

    fn map_granule(&self, granule: PageRange) -> Result<(), Partial> {
        let bytes = granule.count << self.regions.page_size().shift();
        let gone = Partial { done: 0, error: Errno::BADF };
        let uffd = self.uffd().map_err(|_| gone)?;
        let address = self.regions.address(granule);
        uffd.map(address.ok_or(Partial { done: 0, error: Errno::INVAL })?, bytes)
    }

    /// What must be there for one page to be: itself, or its granule.
    pub(crate) fn unit_of(&self, page: PageIndex) -> PageRange {
        match &self.granules {
            Some(granules) if page.0 < self.table.pages() => granules.of(page),
            _ => PageRange::one(page),
        }
    }

    /// Claims the rest of a page's granule, and adds those of its pages that must be asked for.
    pub(crate) fn claim_rest(&self, page: PageIndex, wanted: &mut Vec<PageIndex>) {
        if self.granules.is_none() {
            return;
        }
        let others = self.unit_of(page).pages().filter(|other| *other != page);
        wanted.extend(others.filter(|other| self.table.claim(*other) == Claim::Fetch));
    }

    /// Before RAM that holds some pages is used: granules that are whole are present; of the others what is
    /// there waits for the rest, out of the guest's sight.
    pub(crate) fn hide_parts(&self, ram: &GuestRam, placed: &PageBitmap) -> Result<(), RamError> {
        let Some(granules) = &self.granules else { return Ok(()) };
        let mut hidden = None;
        for page in placed.runs().flat_map(PageRange::pages) {
            if granules.is_whole(page) {
                continue;
            }
            let granule = granules.of(page);
            if hidden != Some(granule) {
                ram.unmap(granule)?;
                hidden = Some(granule);
            }
            let _ = self.table.begin_withdraw(page);
        }
        Ok(())
    }

    /// [`FaultPlane::withdraw_all`] where there are granules: those that lose a page are not whole any
    /// more, and the rest of them waits for it.
    pub(crate) fn withdraw_parts(
        &self,
        granules: &Granules,
        ram: &GuestRam,
        ranges: &[PageRange],
    ) -> Result<u64, FaultError> {
        let mut begun: Vec<PageRange> = Vec::new();
        let mut parts = Vec::new();
        ranges.iter().for_each(|range| granules.each(*range, |part| parts.push(part)));
        for part in &parts {
            let granule = granules.of(part.start);
            if granules.is_whole(part.start) {
                ram.unmap(granule)?;
                for page in granule.pages() {
                    let _ = self.table.begin_withdraw(page);
                }
            }
            let there = |page: &PageIndex| {
                self.table.begin_withdraw(*page) != Withdrawal::Absent
                    || self.table.state(*page) == PageState::Installing
            };
            for page in part.pages().filter(there) {
                granules.count(page).fetch_sub(1, Ordering::AcqRel);
                match begun.last_mut() {
                    Some(last) if last.checked_end() == Some(page.0) => last.count += 1,
                    _ => begun.push(PageRange::one(page)),
                }
            }
        }
        let dropped = ram.drop_runs(begun.iter().copied());
        let taken = begun.iter().flat_map(|run| run.pages());
        let count = taken.inspect(|page| self.table.finish_withdraw(*page)).count();
        dropped.map_err(FaultError::Ram)?;
        Ok(count as u64)
    }
}
