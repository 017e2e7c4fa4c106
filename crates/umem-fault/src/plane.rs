//! The fault plane: from "this page is missing" to "it is here".

use crate::error::FaultError;
use crate::granules::Granules;
use crate::outstanding::Outstanding;
use crate::placement::{Place, Placement};
use crate::reader::Reader;
use crate::regions::{ForeignRegion, Regions};
use crate::state::{Arrival, Claim, PageState, Waited};
use crate::stats::{FaultCause, FaultStats, Recorder};
use crate::table::PageTable;
use crate::uffd::{Features, Userfaultfd};
use crate::{Interrupt, install};
use rustix::fd::OwnedFd;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange, PageSize};

/// Takes requests for pages to where they come from. Must not block: it is called on the threads
/// of vCPUs and on the one that reads faults.
pub trait PageRequester: Send + Sync {
    /// Asks for pages. All that are needed at once come in one call.
    fn request(&self, pages: &[PageIndex]);

    /// The calling thread is about to ask for pages: takes in what has arrived and not been read, which may
    /// be those. Waits for nothing.
    fn look(&self) {}

    /// The calling thread, which has asked for pages or knows that they were asked for, waits: what
    /// arrives may be taken in by it, until there is `enough`. May return at any time before, and does
    /// before long if nothing comes.
    fn attend(&self, enough: &dyn Fn() -> bool) {
        let _ = enough;
    }

    /// As [`Self::request`], by a thread that attends next: nobody else has to.
    fn request_attended(&self, pages: &[PageIndex]) {
        self.request(pages);
    }

    /// Says that the content of these pages does not matter any more. They will come all the same, as
    /// zeroes where the source can still spare them; who has no way to say so does nothing.
    fn remove(&self, runs: &[PageRange]) {
        let _ = runs;
    }
}

/// What became of a range of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Installed {
    /// Pages that this call put in place.
    pub installed: u64,
    /// Pages that were there already, or that others are putting in place.
    pub duplicate: u64,
}

/// What pages are to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// One byte, over and over.
    Fill(u8),
    /// Nothing: the source cannot read them.
    Unreadable,
}

/// Memory whose pages arrive while it is used.
pub struct FaultPlane {
    pub(crate) table: PageTable,
    pub(crate) regions: Regions,
    pub(crate) place: Place,
    /// Where host pages are larger than pages.
    pub(crate) granules: Option<Granules>,
    /// The memory, where it is this process's own.
    pub(crate) ram: Option<GuestRam>,
    /// Gone once the plane is closed or released.
    pub(crate) uffd: RwLock<Option<Arc<Userfaultfd>>>,
    /// The same afterwards, while threads still put pages in place.
    gone: Mutex<Weak<Userfaultfd>>,
    pub(crate) outstanding: Outstanding,
    pub(crate) recorder: Recorder,
    requester: RwLock<Option<Arc<dyn PageRequester>>>,
    pub(crate) reader: Mutex<Option<Reader>>,
}

impl std::fmt::Debug for FaultPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultPlane").field("counts", &self.table.counts()).finish_non_exhaustive()
    }
}

impl FaultPlane {
    /// Empties RAM and watches it: all its pages are missing from now on.
    ///
    /// # Errors
    /// When this host has no userfaultfd for this user or not for such memory.
    pub fn for_ram(ram: &GuestRam) -> Result<Arc<Self>, FaultError> {
        Self::for_ram_with(ram, Userfaultfd::open()?, Placement::default())
    }

    /// As [`Self::for_ram`], with pages placed in a way of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::for_ram`], and when this RAM or kernel does not allow it.
    pub fn for_ram_placed(ram: &GuestRam, placement: Placement) -> Result<Arc<Self>, FaultError> {
        Self::for_ram_with(ram, Userfaultfd::open()?, placement)
    }

    /// As [`Self::for_ram`], with a userfaultfd of the caller's choice.
    ///
    /// # Errors
    /// When it does not watch such memory.
    pub fn for_ram_with(
        ram: &GuestRam,
        uffd: Userfaultfd,
        placement: Placement,
    ) -> Result<Arc<Self>, FaultError> {
        let none = PageBitmap::new(ram.layout().total_pages());
        Self::for_ram_keeping_with(ram, uffd, &none, placement)
    }

    /// Takes over memory of another process, which made the userfaultfd and registered the
    /// regions. Nothing of it may have been touched yet.
    ///
    /// # Errors
    /// When the regions are not the pages from 0 on, each once.
    pub fn from_received(
        fd: OwnedFd,
        features: Features,
        regions: &[ForeignRegion],
        page: PageSize,
    ) -> Result<Arc<Self>, FaultError> {
        let regions = Regions::new(regions, page).map_err(FaultError::Regions)?;
        let table = PageTable::new(regions.total_pages());
        Ok(Arc::new(Self::new(
            Userfaultfd::from_received(fd, features),
            regions,
            table,
            Place::Copy,
            None,
        )))
    }

    pub(crate) fn new(
        uffd: Userfaultfd,
        regions: Regions,
        table: PageTable,
        place: Place,
        ram: Option<GuestRam>,
    ) -> Self {
        Self {
            table,
            regions,
            place,
            granules: None,
            ram,
            uffd: RwLock::new(Some(Arc::new(uffd))),
            gone: Mutex::default(),
            outstanding: Outstanding::default(),
            recorder: Recorder::new(),
            requester: RwLock::new(None),
            reader: Mutex::new(None),
        }
    }

    /// Says where pages are asked for. What was asked for before, of nobody or of another, is
    /// not asked for again: see [`Self::reopen_requests`].
    pub fn set_requester(&self, requester: Arc<dyn PageRequester>) {
        *self.requester.write().unwrap_or_else(PoisonError::into_inner) = Some(requester);
    }

    /// Where pages are asked for. Without one they stay marked as requested, for the link to come.
    fn requester(&self) -> Option<Arc<dyn PageRequester>> {
        self.requester.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn request(&self, pages: &[PageIndex]) {
        if let Some(requester) = self.requester().filter(|_| !pages.is_empty()) {
            requester.request(pages);
        }
    }

    /// Asks for pages, and takes in what arrives until there is `enough`, or the requester has had its
    /// time.
    fn fetch(&self, wanted: &[PageIndex], enough: &dyn Fn() -> bool) {
        let Some(requester) = self.requester() else { return };
        if !wanted.is_empty() {
            requester.request_attended(wanted);
        }
        requester.attend(enough);
    }

    /// The guest does not need what these pages hold. Those that are missing, and that nobody waits for,
    /// need not be sent: the source is told. All others stay as they are. Number of pages that it is
    /// told of.
    pub fn give_up(&self, range: PageRange) -> u64 {
        let mut runs: Vec<PageRange> = Vec::new();
        for page in range.pages() {
            if self.table.state(page) != PageState::Missing {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.checked_end() == Some(page.0) => last.count += 1,
                _ => runs.push(PageRange::one(page)),
            }
        }
        if let Some(requester) = self.requester().filter(|_| !runs.is_empty()) {
            requester.remove(&runs);
        }
        runs.iter().map(|run| run.count).sum()
    }

    pub(crate) fn uffd(&self) -> Result<Arc<Userfaultfd>, FaultError> {
        let uffd = self.uffd.read().unwrap_or_else(PoisonError::into_inner).clone();
        uffd.ok_or(FaultError::Closed)
    }

    /// Whether system calls that touch a missing page fail instead of waiting.
    #[must_use]
    pub fn user_mode_only(&self) -> bool {
        self.uffd().is_ok_and(|uffd| uffd.user_mode_only())
    }

    /// The state of the pages.
    #[must_use]
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// Claims a page and fills it at once if it was discarded. Whether it must be asked for.
    pub(crate) fn claim(&self, page: PageIndex) -> Claim {
        match self.table.claim(page) {
            Claim::Zero => {
                if let Err(error) = install::discarded(self, page) {
                    log::error!("{error}");
                }
                self.table.claim(page)
            }
            claim => claim,
        }
    }

    /// Makes a page present: asks for it if nobody has, and waits.
    #[must_use]
    pub fn resolve(&self, page: PageIndex, cause: FaultCause, interrupt: &Interrupt) -> Waited {
        self.resolve_all(&[page], cause, interrupt)
    }

    /// Makes pages present: asks for all that nobody asked for at once, and waits for all. Ends
    /// at the first that will not come.
    #[must_use]
    pub fn resolve_all(
        &self,
        pages: &[PageIndex],
        cause: FaultCause,
        interrupt: &Interrupt,
    ) -> Waited {
        let absent = |page: &PageIndex| !self.table.is_present(*page);
        if !pages.iter().any(absent) {
            self.map_if_in_cache(pages);
            return Waited::Present;
        }
        let started = Instant::now();
        if let Some(requester) = self.requester() {
            requester.look();
        }
        let mut wanted = Vec::new();
        for &page in pages {
            match self.claim(page) {
                Claim::Present | Claim::Poisoned => continue,
                Claim::Fetch => wanted.push(page),
                Claim::Wait | Claim::Zero => {}
            }
            self.claim_rest(page, &mut wanted);
        }
        let settled = |page: &PageIndex| self.table.is_settled(*page);
        let over = || interrupt.is_raised() || self.table.is_closed();
        self.fetch(&wanted, &|| pages.iter().all(settled) || over());
        for &page in pages {
            if self.table.is_present(page) {
                continue;
            }
            match self.table.wait(page, interrupt) {
                Waited::Present => {}
                otherwise => return otherwise,
            }
        }
        self.map_if_in_cache(pages);
        self.recorder.record(cause, started.elapsed());
        Waited::Present
    }

    /// Whoever asked may be about to touch the pages where a minor fault cannot be taken.
    fn map_if_in_cache(&self, pages: &[PageIndex]) {
        if self.place.in_cache() {
            pages.iter().for_each(|page| self.map_present(*page));
        }
    }

    /// Puts pages in place, as far as they are not there yet.
    ///
    /// # Errors
    /// When the range or the length is wrong, the kernel refuses, or memory turns out corrupt.
    /// Pages that were installed until then stay; the others can be asked for again.
    pub fn install(&self, range: PageRange, bytes: &[u8]) -> Result<Installed, FaultError> {
        self.install_each(range, Content::Bytes(bytes), &|_| ())
    }

    /// Puts pages in place, and tells of those that this call did put there, as runs.
    ///
    /// # Errors
    /// As [`Self::install`]. What was told of is in place even then.
    pub fn install_each(
        &self,
        range: PageRange,
        content: Content<'_>,
        placed: &dyn Fn(PageRange),
    ) -> Result<Installed, FaultError> {
        match content {
            Content::Bytes(bytes) => install::bytes(self, range, bytes, placed),
            Content::Fill(byte) => install::fill(self, range, byte, placed),
            Content::Unreadable => install::unreadable(self, range, placed),
        }
    }

    /// Fills pages with one byte, as far as they are not there yet.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn install_fill(&self, range: PageRange, byte: u8) -> Result<Installed, FaultError> {
        self.install_each(range, Content::Fill(byte), &|_| ())
    }

    /// Gives up pages that the source cannot read: whoever touches them gets an error. On a
    /// kernel without `UFFDIO_POISON` only those learn it who look at the table; a touch that
    /// the kernel holds then waits until the plane is closed.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn install_unreadable(&self, range: PageRange) -> Result<Installed, FaultError> {
        self.install_each(range, Content::Unreadable, &|_| ())
    }

    /// All pages that were asked for and have not come, to be asked for on a new link. They stay
    /// requested.
    #[must_use]
    pub fn reopen_requests(&self) -> Vec<PageIndex> {
        self.table.requested_pages()
    }

    /// Some of the pages that threads wait for, at most 16.
    #[must_use]
    pub fn waiting(&self) -> Vec<PageIndex> {
        let mut pages = self.table.waiting();
        for page in self.outstanding.sample(16) {
            if pages.len() < 16 && !pages.contains(&page) {
                pages.push(page);
            }
        }
        pages
    }

    /// How long faults took so far.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        self.recorder.snapshot()
    }

    /// Starts the thread that reads faults from the kernel.
    ///
    /// # Errors
    /// When there can be no such thread, or the plane is closed.
    pub fn start_reader(self: &Arc<Self>) -> io::Result<()> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.is_none() {
            *reader = Some(Reader::start(self)?);
        }
        Ok(())
    }

    /// All pages are present: gives the memory back to the kernel.
    ///
    /// # Errors
    /// When pages are missing (nothing is done then), or the kernel refuses.
    pub fn release(&self) -> Result<(), FaultError> {
        let missing = self.table.counts().missing();
        if missing > 0 {
            return Err(FaultError::Missing(missing));
        }
        let poisons = |uffd: Arc<Userfaultfd>| uffd.features().contains(Features::POISON);
        if self.table.counts().poisoned > 0 && !self.uffd().is_ok_and(poisons) {
            // Only the userfaultfd keeps an unreadable page from being read as zeroes.
            log::warn!("memory stays watched: some of it could not be read at the source");
            return Ok(());
        }
        self.let_go()
    }

    /// Ends the plane whatever is missing, without blocking. Threads that wait for a page go on:
    /// those at the table as interrupted, those in the kernel with a page of zeroes. So vCPUs
    /// must be on their way out.
    pub fn close(&self) {
        self.table.close();
        if let Err(error) = self.let_go() {
            log::warn!("{error}");
        }
    }

    /// As [`Self::close`], and waits until no thread is putting a page in place, at most `bound`; whether
    /// that is so. The memory may be used for something else then.
    #[must_use]
    pub fn close_within(&self, bound: Duration) -> bool {
        self.close();
        let until = Instant::now() + bound;
        let busy = || self.gone.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0;
        while busy() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        !busy()
    }

    /// A page is here: wakes nobody (that is done), but notes how long it took. Whether a thread
    /// waited for it in the kernel.
    pub(crate) fn note_arrival(&self, page: PageIndex, arrival: Arrival) -> bool {
        let latency = self.outstanding.take(page);
        if let Some(latency) = latency
            && arrival == Arrival::Present
        {
            self.recorder.record(FaultCause::Userfault, latency);
        }
        latency.is_some()
    }

    fn let_go(&self) -> Result<(), FaultError> {
        let uffd = {
            let mut uffd = self.uffd.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(uffd) = &*uffd {
                *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(uffd);
            }
            uffd.take()
        };
        // Nobody asks any more; and what it asked knows where pages go, which is here: each would keep the
        // other for ever.
        let requester = self.requester.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(requester);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut result = Ok(());
        if let Some(uffd) = uffd {
            // Before the descriptor goes: another thread may hold it for a moment still, and
            // waiting threads should not wait for that.
            for (start, bytes) in self.regions.spans() {
                if let Err(error) = uffd.unregister(start, bytes) {
                    result = Err(FaultError::Register { bytes, error: error.into() });
                }
            }
        }
        if let Some(reader) = reader {
            reader.stop();
        }
        result
    }
}

impl Drop for FaultPlane {
    fn drop(&mut self) {
        // The reader holds no plane, so it would run on.
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.stop();
        }
    }
}
