//! The session's thread: from the file's header to the last page.

use super::{Shared, Stage};
use crate::lanes::give_way;
use crate::snapshot::pages::{CHUNK_PAGES, News, PageServer, Requests, alike_runs, read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange};
use umem_migrate::{SendPlan, Tally};
use umem_snapshot::{Limits, Snapshot};
use umem_wire::{Cause, Mode, PageKind};

impl Shared {
    pub(super) fn run(self: &Arc<Self>) {
        if let Err(why) = self.load() {
            self.void(&why);
            self.vm.abandon();
            // The plane was closed for a reason; what failed because of that is not the cause.
            let cause = match &*self.stage() {
                Stage::Void(cause) => cause.clone(),
                _ => why,
            };
            self.meter.end();
            log::warn!("no guest is loaded: {cause}");
            self.enter("failed", Some(&cause));
        }
        self.ended.store(true, Ordering::Release);
    }

    fn load(self: &Arc<Self>) -> Result<(), String> {
        let limits = Limits { ram_bytes: self.layout.total_bytes() };
        let snapshot = Snapshot::open(&self.path, limits).map_err(|error| error.to_string())?;
        let mode = if self.options.postcopy { Mode::POSTCOPY } else { Mode::PRECOPY };
        let ram = self.vm.admit(snapshot.machine(), mode)?;
        let (page, pages) = (snapshot.page_size(), snapshot.pages());
        if (page, pages) != (ram.layout().page_size(), ram.layout().total_pages()) {
            return Err(format!(
                "{}: the snapshot has {pages} pages of {} bytes, this VM {} of {}",
                self.path.display(),
                page.bytes(),
                ram.layout().total_pages(),
                ram.layout().page_size().bytes(),
            ));
        }
        let snapshot = Arc::new(snapshot);
        if !self.options.postcopy {
            self.enter("active", None);
            self.read_all(&snapshot, &ram)?;
            self.start_guest(&snapshot)?;
            self.complete();
            return Ok(());
        }
        self.begin_page_service(&snapshot)?;
        self.start_guest(&snapshot)?;
        // From here on nothing may end page service but the last page or the process.
        self.gate.guest_runs();
        self.enter("postcopy-active", None);
        self.supervise();
        Ok(())
    }

    fn require_going_on(&self) -> Result<(), String> {
        match &*self.stage() {
            Stage::Void(why) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Reads all pages into RAM, which nobody uses and which reads as zero.
    fn read_all(&self, snapshot: &Snapshot, ram: &GuestRam) -> Result<(), String> {
        let mut buffer = Vec::new();
        for block in ram.layout().blocks() {
            let end = block.first_page.0 + block.pages;
            for start in (block.first_page.0..end).step_by(CHUNK_PAGES as usize) {
                self.require_going_on()?;
                let chunk = PageRange::new(PageIndex(start), CHUNK_PAGES.min(end - start));
                for (range, kind) in alike_runs(snapshot, chunk) {
                    let placed = match kind {
                        PageKind::Fill(0) => Ok(()),
                        PageKind::Fill(byte) => ram.fill_pages(range, byte),
                        _ => {
                            let bytes = read(snapshot, range, &mut buffer, &self.counts)?;
                            ram.write_pages(range, bytes)
                        }
                    };
                    placed.map_err(|error| error.to_string())?;
                    let mut tally = Tally::default();
                    for page in range.pages() {
                        tally.add(page.0, snapshot.kind(page).unwrap_or(PageKind::Unreadable));
                    }
                    self.counts.add(Cause::Precopy, tally, matches!(kind, PageKind::Fill(_)));
                }
            }
        }
        match self.layout.total_pages().saturating_sub(self.counts.tally().pages) {
            0 => Ok(()),
            missing => Err(format!("{missing} pages are not in {}", self.path.display())),
        }
    }

    /// All pages are missing from now on, and come when they are asked for.
    fn begin_page_service(self: &Arc<Self>, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let none = PageBitmap::new(self.layout.total_pages());
        let plane = self.vm.begin_page_service(&none)?;
        *self.plane() = Some(plane.clone());
        // Abandoned before there was a plane to close.
        self.require_going_on()?;
        plane.set_requester(Arc::new(Requests(self.asks.0.clone())));
        plane.start_reader().map_err(|error| format!("cannot read page faults: {error}"))?;
        let shared = self.clone();
        let server = Arc::new(PageServer {
            snapshot: snapshot.clone(),
            plane,
            plan: SendPlan::new(self.layout.clone(), self.options.prefault),
            layout: self.layout.clone(),
            gate: self.gate.clone(),
            counts: self.counts.clone(),
            news: self.news.0.clone(),
            losing: Box::new(move |why| shared.losing(why)),
        });
        // Loading the state may need pages already.
        self.spawn("snapshot-demand", &server, |shared, server| {
            server.serve_demand(&shared.asks.1);
        })?;
        self.spawn("snapshot-rest", &server, |_, server| {
            give_way();
            server.serve_background();
        })
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        server: &Arc<PageServer>,
        body: impl FnOnce(&Shared, &PageServer) + Send + 'static,
    ) -> Result<(), String> {
        let (shared, server) = (self.clone(), server.clone());
        let spawned =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared, &server));
        spawned.map(|_| ()).map_err(|error| format!("no thread: {error}"))
    }

    fn start_guest(&self, snapshot: &Snapshot) -> Result<(), String> {
        self.enter("device", None);
        let started = Instant::now();
        self.vm.load(snapshot.state())?;
        self.meter.part("load", started.elapsed());
        {
            let mut stage = self.stage();
            if let Stage::Void(why) = &*stage {
                return Err(why.clone());
            }
            *stage = Stage::Running;
        }
        let started = Instant::now();
        // However long it lay in the file, the guest's clock stood still.
        self.vm.run(Duration::ZERO)?;
        self.meter.part("run", started.elapsed());
        self.meter.handed_over();
        Ok(())
    }

    /// The guest runs: waits for its last page, and says what goes wrong meanwhile.
    fn supervise(&self) {
        for news in &self.news.1 {
            match news {
                News::Lost(page, why) => {
                    // Another thread may have brought it since.
                    if self.counts.lost().contains_key(&page) {
                        self.enter("postcopy-paused", None);
                        self.vm.page_lost(page, &why);
                    }
                }
                News::Found => {
                    if self.counts.lost().is_empty() {
                        self.enter("postcopy-active", None);
                    }
                }
                News::AllPages => {
                    self.end_service();
                    return self.complete();
                }
                News::GivenUp => {
                    self.end_service();
                    self.meter.end();
                    return self.enter("completed", None);
                }
                News::Abandoned => return,
            }
        }
    }

    fn complete(&self) {
        self.meter.drained();
        self.vm.complete();
        // Kept for its figures: those who waited for the last pages have yet to say how long.
        if let Some(plane) = self.plane().clone()
            && let Err(error) = plane.release()
        {
            log::warn!("all pages are here, but page service stays: {error}");
        }
        self.verified.store(true, Ordering::Release);
        self.meter.end();
        self.enter("completed", None);
    }
}
