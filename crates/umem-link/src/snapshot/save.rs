//! Saving: rounds while the guest runs, the rest while it stands still.

use super::SnapshotSource;
use crate::host::LiveRam;
use crate::meter::{Meter, milliseconds};
use crate::status::{End, FaultLatency, MigrationStatus, PageCounts, RoundsStatus};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use umem_memory::{DirtySource, GuestRam, PageBitmap, PageIndex, PageRange, RamLayout};
use umem_migrate::policy::{Decision, History, RoundFacts};
use umem_migrate::{Rounds, Switch};
use umem_snapshot::SnapshotWriter;

/// Pages copied out of the guest at a time.
const CHUNK_PAGES: u64 = 256;
/// Longest wait for the thread when the process is ending.
const END_WITHIN: Duration = Duration::from_secs(1);

/// How a guest is saved.
#[derive(Debug, Clone, Copy)]
pub struct SaveOptions {
    /// The guest is stopped once what is left is predicted to take no longer than this.
    pub downtime_limit: Duration,
    /// Most rounds while it runs; it is stopped earlier when they shrink too little.
    pub rounds: u32,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { downtime_limit: Duration::from_millis(300), rounds: 8 }
    }
}

/// Why there is no snapshot.
enum Failure {
    Cancelled,
    Failed(String),
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

#[derive(Default)]
struct Progress {
    /// Pages that are not in the file as the guest has them, as far as is known.
    remaining: AtomicU64,
    copies: AtomicU64,
    fills: AtomicU64,
    bytes: AtomicU64,
    rounds: Mutex<RoundsStatus>,
}

struct Shared {
    path: PathBuf,
    vm: Arc<dyn SnapshotSource>,
    layout: RamLayout,
    options: SaveOptions,
    meter: Meter,
    progress: Progress,
    cancelled: AtomicBool,
    ended: AtomicBool,
}

/// A guest being saved, from the start on. Dropping it leaves it running.
pub struct SnapshotSave {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for SnapshotSave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSave").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl SnapshotSave {
    /// Begins to save a guest to a file, which appears under its name once it is whole.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        path: &Path,
        vm: Arc<dyn SnapshotSource>,
        layout: RamLayout,
        options: SaveOptions,
    ) -> io::Result<Self> {
        let progress = Progress::default();
        progress.remaining.store(layout.total_pages(), Ordering::Relaxed);
        let shared = Arc::new(Shared {
            path: path.into(),
            vm,
            layout,
            options,
            meter: Meter::new("setup"),
            progress,
            cancelled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let thread = thread.spawn(move || theirs.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Gives the save up: the guest goes on, and no file stays. Has no effect on one that has ended,
    /// or that ends at this moment.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// The process is ending: gives the save up and waits a moment, so that no partial file stays.
    pub fn abandon(&self) {
        self.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let until = Instant::now() + END_WITHIN;
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it looks like now.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        let Shared { progress, meter, layout, path, .. } = &*self.shared;
        let bytes = progress.bytes.load(Ordering::Relaxed);
        let reading = meter.read(bytes);
        let (total, remaining) = (layout.total_pages(), progress.remaining.load(Ordering::Relaxed));
        let rounds = *progress.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        MigrationStatus {
            end: End::Source,
            phase: reading.phase.to_owned(),
            mode: "snapshot".to_owned(),
            peer: Some(format!("file:{}", path.display())),
            total_ms: reading.total_ms,
            setup_ms: reading.setup_ms,
            drain_ms: None,
            downtime: reading.downtime,
            pages: PageCounts {
                precopy: total.saturating_sub(remaining),
                fill: progress.fills.load(Ordering::Relaxed),
                total,
                remaining,
                ..PageCounts::default()
            },
            rounds: Some(RoundsStatus {
                copies: progress.copies.load(Ordering::Relaxed),
                ..rounds
            }),
            packed: None,
            faults: FaultLatency::default(),
            waiting_for: Vec::new(),
            wire_bytes: bytes,
            rate: reading.rate,
            verified: false,
            digest: None,
            background: false,
            error: reading.error,
        }
    }
}

/// Dirty tracking that ends with this value.
struct Tracking(Arc<dyn DirtySource>);

impl Drop for Tracking {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A save under way: the file, the RAM, and which of it is not in the file as it is.
struct Work<'a> {
    shared: &'a Shared,
    file: SnapshotWriter,
    ram: GuestRam,
    dirty: Tracking,
    pending: PageBitmap,
    buffer: Vec<u8>,
}

impl Shared {
    fn run(&self) {
        let (phase, error) = match self.save() {
            Ok(()) => ("completed", None),
            Err(Failure::Cancelled) => ("cancelled", Some("cancelled by the operator".to_owned())),
            Err(Failure::Failed(why)) => ("failed", Some(why)),
        };
        self.meter.end();
        let is_news = self.meter.phase(phase, error.as_deref());
        // Whoever is told of the end may begin the next.
        self.ended.store(true, Ordering::Release);
        if is_news {
            self.vm.phase_changed(phase);
        }
    }

    fn enter(&self, phase: &'static str, error: Option<&str>) {
        if self.meter.phase(phase, error) {
            self.vm.phase_changed(phase);
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.cancelled.load(Ordering::Acquire) { Err(Failure::Cancelled) } else { Ok(()) }
    }

    fn save(&self) -> Result<(), Failure> {
        let page = self.layout.page_size();
        let pages = self.layout.total_pages();
        let file = SnapshotWriter::create(&self.path, &self.vm.describe(), page, pages)?;
        let LiveRam { ram, dirty } = self.vm.live_ram()?;
        dirty.start()?;
        let mut work = Work {
            shared: self,
            file,
            ram,
            dirty: Tracking(dirty),
            pending: PageBitmap::new(pages),
            buffer: vec![0; page.len() * CHUNK_PAGES as usize],
        };
        self.enter("active", None);
        work.find_used()?;
        work.rounds()?;
        self.enter("device", None);
        let guest = self.vm.stop()?;
        for (name, length) in &guest.parts {
            self.meter.part(name, *length);
        }
        // The file goes before the guest goes on, in any case.
        let finished = work.finish(&guest.package);
        self.meter.downtime(guest.stopped_at.elapsed());
        match finished {
            Ok(()) => self.vm.saved(),
            Err(_) => self.vm.take_back(),
        }
        finished
    }
}

impl Work<'_> {
    fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    /// What the guest never touched is zero; what it touches from now on is in the dirty log, which is
    /// on. All else is pending.
    fn find_used(&mut self) -> Result<(), Failure> {
        let all = PageRange::new(PageIndex(0), self.pending.pages());
        match self.ram.populated(all) {
            Ok(used) => {
                self.file.fill(all, 0)?;
                used.into_iter().for_each(|range| {
                    self.pending.set(range);
                });
            }
            Err(error) => {
                log::warn!("cannot tell which memory the guest used ({error}); looking at all");
                self.pending.set(all);
            }
        }
        self.progress().remaining.store(self.pending.count(), Ordering::Relaxed);
        Ok(())
    }

    /// Writes rounds while the guest runs, as long as that shortens the time it will stand still.
    fn rounds(&mut self) -> Result<(), Failure> {
        let SaveOptions { downtime_limit, rounds } = self.shared.options;
        let policy = Rounds {
            most: Some(rounds),
            downtime_limit,
            switch: Switch::ByItself,
            finish: true,
            throttle: None,
        };
        let page_bytes = u32::try_from(self.ram.layout().page_size().bytes()).unwrap_or(u32::MAX);
        let mut history = History::default();
        for round in 1.. {
            let (started, before) = (Instant::now(), self.progress().bytes.load(Ordering::Relaxed));
            self.shared.vm.round_begun(round);
            let pages = self.write_pending()?;
            self.file.sync()?;
            self.collect()?;
            let took = started.elapsed();
            let pending = self.pending.count();
            let bytes = self.progress().bytes.load(Ordering::Relaxed) - before;
            let facts = RoundFacts { round, took, pages, bytes, pending, page_bytes };
            let decision = history.decide(&policy, false, facts);
            let expected = history.predicted_downtime(pending, page_bytes);
            self.show(RoundsStatus {
                passes: round,
                dirty_pages_rate: pending as f64 / took.as_secs_f64().max(1e-6),
                send_rate: history.send_rate() as f64,
                expected_downtime_ms: (expected != Duration::MAX).then(|| milliseconds(expected)),
                ..RoundsStatus::default()
            });
            // A switch has no meaning here but that rounds gain little.
            if !matches!(decision, Decision::Again { .. }) {
                break;
            }
        }
        Ok(())
    }

    fn show(&self, status: RoundsStatus) {
        *self.progress().rounds.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Takes what the guest wrote since this was asked last. Nothing is pending before.
    fn collect(&self) -> Result<(), Failure> {
        self.dirty.0.collect(&self.pending)?;
        self.progress().remaining.store(self.pending.count(), Ordering::Relaxed);
        Ok(())
    }

    /// Writes all that is pending; how many pages.
    fn write_pending(&mut self) -> Result<u64, Failure> {
        let mut written = 0;
        let mut from = PageIndex(0);
        while let Some(run) = self.pending.next_range(from, CHUNK_PAGES) {
            self.shared.check()?;
            let end = self
                .ram
                .layout()
                .block_of(run.start)
                .map_or(u64::MAX, |block| block.first_page.0 + block.pages);
            let range = PageRange::new(run.start, run.count.min(end.saturating_sub(run.start.0)));
            // Before the copy: a write after it sets the bit again.
            self.pending.clear(range);
            self.write(range)?;
            written += range.count;
            from = PageIndex(range.start.0 + range.count);
        }
        Ok(written)
    }

    fn write(&mut self, range: PageRange) -> Result<(), Failure> {
        if !self.ram.is_readable(range) {
            let lost = range.pages().find(|page| !self.ram.is_readable(PageRange::one(*page)));
            let lost = lost.unwrap_or(range.start);
            return Err(Failure::Failed(format!(
                "{lost} of the guest cannot be read (the host's memory is damaged there); such a \
                 guest is not saved, move it by postcopy"
            )));
        }
        let page_len = self.ram.layout().page_size().len();
        let copy = self.buffer.get_mut(..page_len * range.count as usize).unwrap_or_default();
        self.ram.copy_pages(range, copy)?;
        let stored = self.file.write(range.start, copy)?;
        let progress = &self.shared.progress;
        progress.copies.fetch_add(range.count, Ordering::Relaxed);
        progress.fills.store(self.file.fills(), Ordering::Relaxed);
        progress.bytes.fetch_add(stored * page_len as u64, Ordering::Relaxed);
        progress.remaining.fetch_sub(range.count, Ordering::Relaxed);
        Ok(())
    }

    /// The guest stands still: writes the rest.
    fn finish(mut self, package: &[u8]) -> Result<(), Failure> {
        let started = Instant::now();
        self.collect()?;
        self.dirty.0.stop();
        self.write_pending()?;
        self.shared.check()?;
        self.shared.meter.part("last pages", started.elapsed());
        let started = Instant::now();
        self.file.finish(package)?;
        self.shared.meter.part("file to disk", started.elapsed());
        Ok(())
    }
}
