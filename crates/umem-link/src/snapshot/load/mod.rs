//! Loading: the whole guest before it runs, or the guest first and its pages when it needs them.

mod run;

use super::SnapshotDestination;
use super::pages::{Ask, Counts, Gate, News};
use crate::destination::latency;
use crate::meter::Meter;
use crate::status::{End, MigrationStatus, PageCounts};
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umem_fault::FaultPlane;
use umem_memory::RamLayout;
use umem_migrate::Prefault;

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
        std::thread::Builder::new().name("incoming-file".to_owned()).spawn(move || theirs.run())?;
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

    /// The guest was reset or switched off while pages were missing: what its memory held matters no
    /// more, and no more of it is read. The fault plane is the caller's to close.
    pub fn give_up_memory(&self) {
        *self.shared.stage() = Stage::Void("the guest's memory was given up".to_owned());
        let _ = self.shared.news.0.send(News::GivenUp);
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
            setup_ms: reading.setup_ms,
            drain_ms: reading.drain_ms,
            downtime: reading.downtime,
            pages: PageCounts {
                demand: count(&counts.demand),
                prefault: count(&counts.prefault),
                background: count(&counts.background),
                precopy: count(&counts.precopy),
                fill: count(&counts.fill),
                duplicate: count(&counts.duplicate),
                removed: 0,
                total,
                remaining: total.saturating_sub(tally.pages),
            },
            rounds: None,
            packed: None,
            faults: plane.as_ref().map(|plane| latency(plane.stats())).unwrap_or_default(),
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

impl Shared {
    fn plane(&self) -> MutexGuard<'_, Option<Arc<FaultPlane>>> {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of pages that cannot be had.
    fn lost_pages(&self) -> Option<String> {
        if matches!(*self.stage(), Stage::Void(_)) {
            return None;
        }
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
}
