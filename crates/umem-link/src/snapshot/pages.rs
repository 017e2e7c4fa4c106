//! Pages of a snapshot on their way to a guest that runs already.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use umem_fault::{Content, FaultPlane, PageRequester};
use umem_memory::{PageIndex, PageRange, RamLayout};
use umem_migrate::{SendPlan, Tally, Wanted};
use umem_snapshot::Snapshot;
use umem_wire::{Cause, PageKind};

/// Pages that the background reads at a time: a demanded page waits behind no more.
pub(super) const CHUNK_PAGES: u64 = 64;

/// What the thread that answers page faults hears.
pub(super) enum Ask {
    Pages(Vec<PageIndex>),
    End,
}

/// Takes requests for pages to the thread that reads them.
pub(super) struct Requests(pub(super) Sender<Ask>);

impl PageRequester for Requests {
    fn request(&self, pages: &[PageIndex]) {
        // Fails only when the thread has ended: all pages were there, or the process ends.
        let _ = self.0.send(Ask::Pages(pages.to_vec()));
    }
}

/// What became of pages, for the session's thread.
pub(super) enum News {
    /// A page cannot be had, for this reason.
    Lost(PageIndex, String),
    /// A page that was lost is there.
    Found,
    /// All pages are there.
    AllPages,
    /// Nobody needs the pages that are missing.
    GivenUp,
    /// The process is ending.
    Abandoned,
}

/// Lost pages from which on the background waits for [`super::SnapshotLoad::retry`]: the file as a whole
/// cannot be read.
const MOST_LOST: usize = 64;

#[derive(Debug, Clone, Copy, Default)]
struct GateState {
    wanted: bool,
    guest_runs: bool,
    /// Too much of the file cannot be read.
    held: bool,
    ended: bool,
}

/// Whether the background reads.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    pub(super) fn switch(&self, on: bool) {
        self.change(|state| state.wanted = on);
    }

    pub(super) fn guest_runs(&self) {
        self.change(|state| state.guest_runs = true);
    }

    pub(super) fn hold(&self, held: bool) {
        self.change(|state| state.held = held);
    }

    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.state().wanted
    }

    /// Waits until the background may read; `false` once it is over.
    fn pass(&self) -> bool {
        let waits = |state: &mut GateState| {
            !state.ended && (!state.wanted || !state.guest_runs || state.held)
        };
        let state = self.changed.wait_while(self.state(), waits);
        !state.unwrap_or_else(PoisonError::into_inner).ended
    }
}

/// Pages that are there, by what brought them, and those that cannot be had.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) demand: AtomicU64,
    pub(super) prefault: AtomicU64,
    pub(super) background: AtomicU64,
    pub(super) precopy: AtomicU64,
    pub(super) fill: AtomicU64,
    pub(super) duplicate: AtomicU64,
    pub(super) bytes: AtomicU64,
    tally: Mutex<Tally>,
    lost: Mutex<BTreeMap<PageIndex, String>>,
}

impl Counts {
    pub(super) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts pages that are there now; how many are.
    pub(super) fn add(&self, cause: Cause, tally: Tally, fill: bool) -> u64 {
        let counter = match cause {
            Cause::Demand => &self.demand,
            Cause::Prefault => &self.prefault,
            Cause::Background => &self.background,
            Cause::Precopy => &self.precopy,
        };
        counter.fetch_add(tally.pages, Ordering::Relaxed);
        if fill {
            self.fill.fetch_add(tally.pages, Ordering::Relaxed);
        }
        let mut all = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        all.merge(tally);
        all.pages
    }

    /// Pages that cannot be had, with the reason for each.
    pub(super) fn lost(&self) -> MutexGuard<'_, BTreeMap<PageIndex, String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads pages from the file into the fault plane. Shared by the thread that answers faults and the
/// background.
pub(super) struct PageServer {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) plane: Arc<FaultPlane>,
    pub(super) plan: SendPlan,
    pub(super) layout: RamLayout,
    pub(super) gate: Arc<Gate>,
    pub(super) counts: Arc<Counts>,
    pub(super) news: Sender<News>,
    /// Told of a page that cannot be had; whether that is to be reported.
    pub(super) losing: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl PageServer {
    /// Answers requests until told to end.
    pub(super) fn serve_demand(&self, asks: &Receiver<Ask>) {
        let mut buffer = Vec::new();
        while let Ok(Ask::Pages(pages)) = asks.recv() {
            let pages: Vec<u64> = pages.into_iter().map(|page| page.0).collect();
            match self.plan.demand(&pages) {
                Ok(order) => {
                    // What somebody waits for comes before its neighbours.
                    let first = order.partition_point(|wanted| wanted.cause == Cause::Demand);
                    let (demanded, neighbours) = order.split_at(first);
                    self.bring_wanted(demanded, &mut buffer);
                    self.bring_wanted(neighbours, &mut buffer);
                }
                Err(error) => log::error!("{error}"),
            }
        }
    }

    fn bring_wanted(&self, order: &[Wanted], buffer: &mut Vec<u8>) {
        let layout = &self.layout;
        let adjoin = |a: &Wanted, b: &Wanted| {
            a.page.0 + 1 == b.page.0
                && a.cause == b.cause
                && layout.index_of(a.page) == layout.index_of(b.page)
        };
        for run in order.chunk_by(adjoin) {
            for run in run.chunks(CHUNK_PAGES as usize) {
                if let Some(first) = run.first() {
                    let range = PageRange::new(first.page, run.len() as u64);
                    self.bring(range, first.cause, buffer);
                }
            }
        }
    }

    /// Reads what nobody asked for, until all was read or the gate has ended.
    pub(super) fn serve_background(&self) {
        let mut buffer = Vec::new();
        while self.gate.pass() {
            let Some(range) = self.plan.next_background(CHUNK_PAGES) else { return };
            self.bring(range, Cause::Background, &mut buffer);
        }
    }

    /// Reads adjoining pages of one block and installs them; reports those that cannot be had.
    fn bring(&self, range: PageRange, cause: Cause, buffer: &mut Vec<u8>) {
        for (range, kind) in alike_runs(&self.snapshot, range) {
            if let Err(why) = self.bring_alike(range, kind, cause, buffer) {
                if range.count == 1 {
                    self.lost(range.start, why);
                    continue;
                }
                // One of them; the others are there, or still to be had.
                for page in range.pages() {
                    if let Err(why) = self.bring_alike(PageRange::one(page), kind, cause, buffer) {
                        self.lost(page, why);
                    }
                }
            }
        }
    }

    fn bring_alike(
        &self,
        range: PageRange,
        kind: PageKind,
        cause: Cause,
        buffer: &mut Vec<u8>,
    ) -> Result<(), String> {
        let content = match kind {
            PageKind::Fill(byte) => Content::Fill(byte),
            _ => Content::Bytes(read(&self.snapshot, range, buffer, &self.counts)?),
        };
        let tally = Mutex::new(Tally::default());
        let placed = |run: PageRange| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            for page in run.pages() {
                let kind = self.snapshot.kind(page).unwrap_or(PageKind::Unreadable);
                tally.add(page.0, kind);
            }
            self.found(run);
        };
        let installed = self.plane.install_each(range, content, &placed);
        // What is in place counts, even if the rest failed.
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        let there = self.counts.add(cause, tally, matches!(kind, PageKind::Fill(_)));
        if tally.pages > 0 && there == self.plan.total() {
            let _ = self.news.send(News::AllPages);
        }
        let duplicate = installed.map_err(|error| error.to_string())?.duplicate;
        self.counts.duplicate.fetch_add(duplicate, Ordering::Relaxed);
        Ok(())
    }

    fn lost(&self, page: PageIndex, why: String) {
        if self.plane.table().is_present(page) || !(self.losing)(&why) {
            return;
        }
        {
            let mut lost = self.counts.lost();
            lost.insert(page, why.clone());
            // Another thread may have brought it meanwhile, and found nothing to take back.
            if self.plane.table().is_present(page) {
                lost.remove(&page);
                return;
            }
            if lost.len() >= MOST_LOST {
                self.gate.hold(true);
            }
        }
        let _ = self.news.send(News::Lost(page, why));
    }

    fn found(&self, run: PageRange) {
        let mut lost = self.counts.lost();
        let before = lost.len();
        if before > 0 {
            run.pages().for_each(|page| {
                lost.remove(&page);
            });
            if lost.len() < before {
                let _ = self.news.send(News::Found);
            }
        }
    }
}

/// The parts of a range that hold content, or all the same byte.
pub(super) fn alike_runs(
    snapshot: &Snapshot,
    range: PageRange,
) -> impl Iterator<Item = (PageRange, PageKind)> {
    let mut pages = range.pages().filter_map(|page| Some((page, snapshot.kind(page)?))).peekable();
    std::iter::from_fn(move || {
        let (start, kind) = pages.next()?;
        let mut run = PageRange::one(start);
        while let Some((_, next)) = pages.peek().copied() {
            let alike = match (kind, next) {
                (PageKind::Content(_), PageKind::Content(_)) => true,
                (kind, next) => kind == next,
            };
            if !alike {
                break;
            }
            run.count += 1;
            pages.next();
        }
        Some((run, kind))
    })
}

/// Reads pages of content and verifies them.
pub(super) fn read<'a>(
    snapshot: &Snapshot,
    range: PageRange,
    buffer: &'a mut Vec<u8>,
    counts: &Counts,
) -> Result<&'a [u8], String> {
    let bytes = usize::try_from(range.count << snapshot.page_size().shift())
        .map_err(|error| error.to_string())?;
    buffer.resize(bytes, 0);
    snapshot.read(range.start, buffer).map_err(|error| error.to_string())?;
    counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    Ok(buffer)
}
