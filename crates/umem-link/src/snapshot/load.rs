//! Loading: the whole guest before it runs, or the guest first and its pages when it needs them.

use super::SnapshotDestination;
use super::pages::{Ask, CHUNK_PAGES, Counts, Gate, News, PageServer, Requests, alike_runs, read};
use crate::lanes::give_way;
use crate::meter::Meter;
use crate::status::{End, FaultLatency, MigrationStatus, PageCounts};
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use umem_fault::{FaultPlane, FaultStats};
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange, RamLayout};
use umem_migrate::{Prefault, SendPlan, Tally};
use umem_snapshot::{Limits, Snapshot};
use umem_wire::{Cause, Mode, PageKind};

/// How a guest is loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// The guest runs first, and its pages come from the file when it needs them. Else all pages are
    /// read before it runs.
    pub postcopy: bool,
    /// Pages read along with one that is needed (with `postcopy`).
    pub prefault: Prefault,
    /// Whether all other pages are read as well, without being asked for (with `postcopy`).
    pub background: bool,
}

/// What may happen to a page that cannot be had.
enum Stage {
    /// The guest does not run: it never will.
    Loading,
    /// The guest runs: it is paused.
    Running,
    /// The load has come to nothing, for this reason.
    Void(String),
}

struct Shared {
    path: PathBuf,
    vm: Arc<dyn SnapshotDestination>,
    layout: RamLayout,
    options: LoadOptions,
    meter: Meter,
    counts: Arc<Counts>,
    gate: Arc<Gate>,
    stage: Mutex<Stage>,
    plane: Mutex<Option<Arc<FaultPlane>>>,
    asks: (Sender<Ask>, Receiver<Ask>),
    news: (Sender<News>, Receiver<News>),
    verified: AtomicBool,
    ended: AtomicBool,
}

/// A guest being loaded, from the start until all its pages are there. Dropping it leaves it running.
pub struct SnapshotLoad {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SnapshotLoad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotLoad").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl SnapshotLoad {
    /// Begins to load a guest from a file.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        path: &Path,
        vm: Arc<dyn SnapshotDestination>,
        layout: RamLayout,
        options: LoadOptions,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            path: path.into(),
            vm,
            layout,
            options,
            meter: Meter::new("setup"),
            counts: Arc::default(),
            gate: Arc::default(),
            stage: Mutex::new(Stage::Loading),
            plane: Mutex::new(None),
            asks: crossbeam_channel::unbounded(),
            news: crossbeam_channel::unbounded(),
            verified: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        shared.gate.switch(options.background);
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("incoming-file".to_owned())
            .spawn(move || theirs.run())?;
        Ok(Self { shared })
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Whether pages are read that nobody asked for, from now on.
    pub fn set_background(&self, on: bool) {
        self.shared.gate.switch(on);
    }

    /// Reads the lost pages again, after the file was repaired in place; how many. Those that are
    /// still not to be had are reported again.
    pub fn retry(&self) -> u64 {
        let lost: Vec<_> = self.shared.counts.lost().keys().copied().collect();
        let pages = lost.len() as u64;
        if pages > 0 {
            self.shared.gate.hold(false);
            let _ = self.shared.asks.0.send(Ask::Pages(lost));
        }
        pages
    }

    /// Ends everything, at once: the process is ending.
    pub fn abandon(&self) {
        self.shared.void("the process is ending");
        let _ = self.shared.news.0.send(News::Abandoned);
    }

    /// What it looks like now.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        let Shared { counts, meter, layout, path, options, gate, .. } = &*self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let reading = meter.read(count(&counts.bytes));
        let (total, tally) = (layout.total_pages(), counts.tally());
        let verified = self.shared.verified.load(Ordering::Acquire);
        let plane = self.shared.plane().clone();
        MigrationStatus {
            end: End::Destination,
            phase: reading.phase.to_owned(),
            mode: "snapshot".to_owned(),
            peer: Some(format!("file:{}", path.display())),
            total_ms: reading.total_ms,
            drain_ms: reading.drain_ms,
            downtime: reading.downtime,
            pages: PageCounts {
                demand: count(&counts.demand),
                prefault: count(&counts.prefault),
                background: count(&counts.background),
                precopy: count(&counts.precopy),
                fill: count(&counts.fill),
                duplicate: count(&counts.duplicate),
                total,
                remaining: total.saturating_sub(tally.pages),
            },
            rounds: None,
            faults: plane.as_ref().map(|plane| latency(&plane.stats())).unwrap_or_default(),
            waiting_for: plane.as_ref().map_or_else(Vec::new, |plane| {
                plane.waiting().into_iter().map(|page| page.0).collect()
            }),
            wire_bytes: count(&counts.bytes),
            rate: reading.rate,
            verified,
            digest: verified.then(|| format!("{:032x}", tally.digest)),
            background: options.postcopy && gate.is_wanted(),
            error: self.shared.lost_pages().or(reading.error),
        }
    }
}

/// Nanoseconds as the plane counts, in microseconds as people read them.
fn latency(stats: &FaultStats) -> FaultLatency {
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    FaultLatency {
        count: stats.count,
        mean: stats.mean / 1e3,
        p50: us(stats.p50),
        p90: us(stats.p90),
        p99: us(stats.p99),
        p999: us(stats.p999),
        max: us(stats.max),
    }
}

impl Shared {
    fn plane(&self) -> MutexGuard<'_, Option<Arc<FaultPlane>>> {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of pages that cannot be had.
    fn lost_pages(&self) -> Option<String> {
        let lost = self.counts.lost();
        let (_, first) = lost.first_key_value()?;
        Some(match lost.len() {
            1 => first.clone(),
            more => format!("{more} pages cannot be had; the first: {first}"),
        })
    }

    fn enter(&self, phase: &'static str, error: Option<&str>) {
        if self.meter.phase(phase, error) {
            self.vm.phase_changed(phase);
        }
    }

    /// Nothing will come of it, for the first reason given; whoever waits for a page is let go.
    fn void(&self, why: &str) {
        {
            let mut stage = self.stage();
            if !matches!(*stage, Stage::Void(_)) {
                *stage = Stage::Void(why.to_owned());
            }
        }
        self.close();
    }

    fn close(&self) {
        self.end_service();
        if let Some(plane) = self.plane().clone() {
            plane.close();
        }
    }

    fn end_service(&self) {
        self.gate.end();
        let _ = self.asks.0.send(Ask::End);
    }

    /// A page cannot be had. Before the guest runs the load comes to nothing; after that, which is
    /// decided under the same lock, page service goes on and the page is to be reported.
    fn losing(&self, why: &str) -> bool {
        {
            let mut stage = self.stage();
            match *stage {
                Stage::Running => return true,
                Stage::Void(_) => return false,
                Stage::Loading => *stage = Stage::Void(why.to_owned()),
            }
        }
        self.close();
        false
    }

    fn run(self: &Arc<Self>) {
        if let Err(why) = self.load() {
            self.void(&why);
            self.vm.abandon();
            // The plane was closed for a reason; what failed because of that is not the cause.
            let cause = match &*self.stage() {
                Stage::Void(cause) => cause.clone(),
                _ => why,
            };
            self.meter.end();
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

    /// Reads all pages into RAM, which nobody uses and which reads as zero.
    fn read_all(&self, snapshot: &Snapshot, ram: &GuestRam) -> Result<(), String> {
        let mut buffer = Vec::new();
        for block in ram.layout().blocks() {
            let end = block.first_page.0 + block.pages;
            for start in (block.first_page.0..end).step_by(CHUNK_PAGES as usize) {
                if let Stage::Void(why) = &*self.stage() {
                    return Err(why.clone());
                }
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
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(&shared, &server));
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
                    self.enter("postcopy-paused", None);
                    self.vm.page_lost(page, &why);
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
