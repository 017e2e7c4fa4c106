//! The destination's lanes: pages from the connection, checked, put in place, counted.

use super::{Frame, FrameReader, LaneError, PackCounts, RequestCounts, Store};
use std::io::Read;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use umem_fault::{Content, Installed};
use umem_memory::{PageIndex, PageRange, RamLayout};
use umem_migrate::Tally;
use umem_wire::{
    Cause, Features, PackedHead, PageKind, PagesFrame, PagesHead, Unpacker, page_hash,
};

/// What has arrived, counted by cause; shared by all lanes of a destination.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) demand: AtomicU64,
    pub(crate) prefault: AtomicU64,
    pub(crate) background: AtomicU64,
    /// Copies that came in rounds.
    pub(crate) copies: AtomicU64,
    /// Of these, pages whose copies were declared void.
    pub(crate) discarded: AtomicU64,
    /// Rounds that are here whole.
    pub(crate) rounds: AtomicU32,
    pub(crate) fill: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) requests: Arc<RequestCounts>,
    pub(crate) packs: PackCounts,
    tally: Mutex<Tally>,
}

impl Arrivals {
    /// Pages in place and their digest.
    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts pages of a round.
    pub(super) fn count_copies(&self, pages: u64, fill: bool) {
        self.copies.fetch_add(pages, Ordering::Relaxed);
        if fill {
            self.fill.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Counts pages that came after the switch.
    pub(super) fn count(&self, cause: Cause, installed: Installed, fill: bool) {
        let pages = installed.installed;
        let counter = match cause {
            Cause::Demand => &self.demand,
            Cause::Prefault => &self.prefault,
            Cause::Background => &self.background,
            Cause::Precopy => &self.copies,
        };
        counter.fetch_add(pages, Ordering::Relaxed);
        if fill {
            self.fill.fetch_add(pages, Ordering::Relaxed);
        }
        self.duplicate.fetch_add(installed.duplicate, Ordering::Relaxed);
    }

    pub(super) fn merge(&self, tally: Tally) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).merge(tally);
    }
}

/// What a lane keeps from frame to frame.
#[derive(Default)]
pub(crate) struct LaneState {
    /// The newest round that it has ended.
    round: u32,
    unpacker: Unpacker,
    /// A copy that a difference is from.
    base: Vec<u8>,
}

/// Receives pages of one guest. Cheap to clone, one for each lane.
#[derive(Clone)]
pub(crate) struct PageReceiver {
    pub(crate) store: Arc<Store>,
    pub(crate) layout: RamLayout,
    pub(crate) arrivals: Arc<Arrivals>,
    /// Ways to pack pages that sources may use.
    pub(crate) features: Features,
    /// Told of the digest when all pages are here; perhaps more than once.
    pub(crate) all_here: Arc<dyn Fn(u128) + Send + Sync>,
    /// Told of each round that is here whole, and of the digest over all that came so far.
    pub(crate) round_here: Arc<dyn Fn(u32, u128) + Send + Sync>,
}

impl PageReceiver {
    /// Takes pages in until the lane ends. `dealt_with` hears of each frame's length after it.
    pub(crate) fn run(
        &self,
        reader: Box<dyn Read + Send>,
        dealt_with: &mut dyn FnMut(u64) -> Result<(), LaneError>,
    ) -> Result<(), LaneError> {
        let mut frames = self.frames(reader);
        let mut lane = LaneState::default();
        loop {
            let frame = frames.next()?;
            dealt_with(self.receive(&frame, &mut lane)?)?;
        }
    }

    /// Frames of pages, from a connection.
    pub(super) fn frames(&self, reader: Box<dyn Read + Send>) -> FrameReader {
        FrameReader::new(reader, PagesFrame::max_body(self.page_bytes()))
    }

    fn page_bytes(&self) -> usize {
        self.layout.page_size().len()
    }

    /// Takes a frame's pages in; its bytes on the wire.
    pub(super) fn receive(
        &self,
        frame: &Frame<'_>,
        lane: &mut LaneState,
    ) -> Result<u64, LaneError> {
        let placed = self.take_in(frame, self.page_bytes(), lane);
        // Copies that come once all pages are here find page service gone. They are read all the
        // same: over a connection that carries everything, the source's last word is behind them.
        if !self.all_arrived() {
            placed?;
        }
        Ok(frame.wire_bytes())
    }

    fn all_arrived(&self) -> bool {
        self.store.serves() && self.store.is_whole(&self.arrivals)
    }

    fn take_in(
        &self,
        frame: &Frame<'_>,
        page_bytes: usize,
        lane: &mut LaneState,
    ) -> Result<(), LaneError> {
        match PagesFrame::decode(frame.kind, frame.body, page_bytes)? {
            PagesFrame::Pages(head) => self.pages(&head),
            PagesFrame::Packed(packed) => self.unpacked(&packed, lane),
            PagesFrame::Run(run) => {
                let range = self.checked(run.start, run.count)?;
                let kind_of = |_| PageKind::Fill(run.byte);
                self.place(range, Content::Fill(run.byte), run.cause, &kind_of)
            }
            PagesFrame::RoundEnd(number) => self.round_ended(number, &mut lane.round),
        }
    }

    fn checked(&self, start: u64, count: u64) -> Result<PageRange, LaneError> {
        let range = PageRange::new(PageIndex(start), count);
        if self.layout.holds(range) {
            Ok(range)
        } else {
            Err(LaneError::NoSuchPages { start, count })
        }
    }

    /// Pages whose content is packed. Nothing is placed before it is found to be what was sent.
    fn unpacked(&self, packed: &PackedHead<'_>, lane: &mut LaneState) -> Result<(), LaneError> {
        if !self.features.has(packed.codec.feature()) {
            return Err(LaneError::NotAgreed(packed.codec.name()));
        }
        let range = self.checked(packed.start(), packed.count())?;
        if packed.has_differences() {
            if !self.features.has(Features::DIFFERENCES) {
                return Err(LaneError::NotAgreed("differences"));
            }
            if packed.cause() != Cause::Precopy {
                let (start, cause) = (range.start.0, packed.cause());
                return Err(LaneError::OutOfTurn { start, cause });
            }
        }
        let LaneState { unpacker, base, .. } = lane;
        let content = unpacker.unpack(packed)?;
        base.resize(self.page_bytes(), 0);
        let pages = packed.contents().zip(content.chunks_exact_mut(self.page_bytes()));
        let mut differences = 0;
        for ((page, _), content) in pages.filter(|((_, is_difference), _)| *is_difference) {
            self.store.add_copy(PageIndex(page), content, base)?;
            differences += 1;
        }
        self.pages(&packed.with_content(content)?)?;
        let packs = &self.arrivals.packs;
        packs.count(packed.content_bytes(), packed.packed_bytes(), differences);
        packs.set_current(Some(packed.codec));
        Ok(())
    }

    fn pages(&self, head: &PagesHead<'_>) -> Result<(), LaneError> {
        self.checked(head.start, head.count())?;
        let mut kinds = Vec::with_capacity(head.count() as usize);
        for (page, kind, content) in head.pages() {
            if let PageKind::Content(expected) = kind {
                let got = page_hash(page, content);
                if got != expected {
                    return Err(LaneError::Altered { page, got, expected });
                }
            }
            kinds.push(kind);
        }
        let mut content = head.content();
        let mut start = head.start;
        for run in kinds.chunk_by(|a, b| alike(*a, *b)) {
            let range = PageRange::new(PageIndex(start), run.len() as u64);
            let same = match run.first() {
                Some(PageKind::Content(_)) => {
                    let bytes = run.len() << self.layout.page_size().shift();
                    let (these, rest) = content.split_at_checked(bytes).unwrap_or_default();
                    content = rest;
                    Content::Bytes(these)
                }
                Some(PageKind::Fill(byte)) => Content::Fill(*byte),
                _ => Content::Unreadable,
            };
            let kind_of = |page: u64| {
                let at = usize::try_from(page - range.start.0).ok();
                at.and_then(|at| run.get(at).copied()).unwrap_or(PageKind::Unreadable)
            };
            self.place(range, same, head.cause, &kind_of)?;
            start += run.len() as u64;
        }
        Ok(())
    }

    fn place(
        &self,
        range: PageRange,
        same: Content<'_>,
        cause: Cause,
        kind_of: &dyn Fn(u64) -> PageKind,
    ) -> Result<(), LaneError> {
        if self.store.place(range, same, cause, kind_of, &self.arrivals)? {
            let tally = self.arrivals.tally();
            if tally.pages == self.layout.total_pages() {
                (self.all_here)(tally.digest);
            }
        }
        Ok(())
    }

    fn round_ended(&self, round: u32, mine: &mut u32) -> Result<(), LaneError> {
        if self.store.round_ended(round, mine)? {
            self.arrivals.rounds.store(round, Ordering::Relaxed);
            (self.round_here)(round, self.arrivals.tally().digest);
        }
        Ok(())
    }
}

fn alike(a: PageKind, b: PageKind) -> bool {
    match (a, b) {
        (PageKind::Content(_), PageKind::Content(_)) => true,
        (a, b) => a == b,
    }
}
