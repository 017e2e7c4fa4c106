//! The source's lanes: pages out of frozen memory, straight into the connection.

use super::spin::Spin;
use super::{BulkFlow, BulkPacker, ChunkPacker, FrameReader, LaneError, Outgoing, PackCounts};
use crate::channel::Channel;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use umem_memory::{FrozenRam, GuestRam, PageIndex, PageRange, RamLayout, repeated_byte};
use umem_migrate::{SendPlan, Tally, Wanted};
use umem_wire::{
    Cause, Codec, DemandFrame, MAX_CONTROL_BODY, PageKind, PagesBuilder, RunFrame, page_hash,
};

/// Pages in a frame of the background: what a demanded page may have to wait for on a shared link.
pub(crate) const CHUNK_PAGES: u64 = 64;

/// The same where the network is slow.
const LEAST_CHUNK_PAGES: u64 = 2;

/// Prefaulted pages that are looked at before the first of them goes out.
const NEIGHBOURS: usize = 256;
/// Prefaulted pages that go out in one write with the demanded ones.
const FEW: usize = 32;

/// What has gone out, counted by cause; shared by all lanes of a source.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    pub(crate) demand: AtomicU64,
    pub(crate) prefault: AtomicU64,
    pub(crate) background: AtomicU64,
    /// Copies sent in rounds.
    pub(crate) copies: AtomicU64,
    /// Pages whose copies were declared void.
    pub(crate) discarded: AtomicU64,
    pub(crate) fill: AtomicU64,
    /// Pages that went as zeroes because the guest had given them back.
    pub(crate) removed: AtomicU64,
    tally: Mutex<Tally>,
}

impl Departures {
    pub(crate) fn count(&self, cause: Cause, pages: u64, fills: u64) {
        let counter = match cause {
            Cause::Demand => &self.demand,
            Cause::Prefault => &self.prefault,
            Cause::Background => &self.background,
            Cause::Precopy => &self.copies,
        };
        counter.fetch_add(pages, Ordering::Relaxed);
        self.fill.fetch_add(fills, Ordering::Relaxed);
    }

    pub(crate) fn merge(&self, tally: Tally) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).merge(tally);
    }

    /// Pages counted and their digest.
    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends pages of one stopped guest. Cheap to clone, one for each lane.
#[derive(Clone)]
pub(crate) struct PageSender {
    pub(crate) ram: FrozenRam,
    pub(crate) plan: Arc<SendPlan>,
    pub(crate) departures: Arc<Departures>,
    pub(crate) packs: Arc<PackCounts>,
}

impl PageSender {
    fn page_bytes(&self) -> usize {
        self.ram.ram().layout().page_size().len()
    }

    /// What a page holds, and its bytes if they have to be sent.
    fn look(&self, page: PageIndex) -> (PageKind, &[u8]) {
        let Some(content) = self.ram.slice(PageRange::one(page)) else {
            return (PageKind::Unreadable, &[]);
        };
        match kind_of(page, content) {
            kind @ PageKind::Content(_) => (kind, content),
            kind => (kind, &[]),
        }
    }

    /// Answers requests until the lane ends. `go_on` is asked before each answer, and waits while none
    /// may go; `false` ends.
    pub(crate) fn serve_demand(
        &self,
        lane: Channel,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), LaneError> {
        let Channel { reader, mut writer, control } = lane;
        let mut frames = FrameReader::new(reader, MAX_CONTROL_BODY);
        let (mut packer, spin) = (ChunkPacker::default(), Spin::new());
        loop {
            if !frames.has_whole()?
                && let Some(socket) = control.readable()
            {
                spin.look(socket, self.departures.background.load(Ordering::Relaxed))?;
            }
            let frame = frames.next()?;
            let asked = DemandFrame::decode(frame.kind, frame.body)?;
            if !go_on() {
                return Ok(());
            }
            let requested = match asked {
                DemandFrame::Request(pages) => pages,
                DemandFrame::Remove(runs) => {
                    self.remove(&mut *writer, &runs)?;
                    continue;
                }
            };
            let order = self.plan.demand(&requested)?;
            // What somebody waits for is not kept until many neighbours have been looked at.
            let demanded = order.partition_point(|wanted| wanted.cause == Cause::Demand);
            let neighbours = if order.len() - demanded > FEW { demanded } else { order.len() };
            let (demanded, neighbours) = order.split_at(neighbours);
            // A huge page is asked for as a whole: its first pages go while the next are looked at.
            for some in demanded.chunks(CHUNK_PAGES as usize) {
                self.send_wanted(&mut *writer, &mut packer, some)?;
            }
            for some in neighbours.chunks(NEIGHBOURS) {
                self.send_wanted(&mut *writer, &mut packer, some)?;
            }
        }
    }

    /// Sends pages that nobody has asked for yet, the first ones first.
    pub(crate) fn send_ahead(
        &self,
        writer: &mut dyn Write,
        pages: &[PageIndex],
    ) -> Result<(), LaneError> {
        let mut order = self.plan.ahead(pages);
        let mut packer = ChunkPacker::default();
        for some in order.chunks_mut(FEW) {
            // Those that adjoin go in one frame.
            some.sort_unstable_by_key(|wanted| wanted.page);
            self.send_wanted(writer, &mut packer, some)?;
        }
        Ok(())
    }

    /// Sends what is not wanted any more as zeroes, as far as it was not sent: as runs.
    fn remove(&self, writer: &mut dyn Write, runs: &[(u64, u64)]) -> Result<(), LaneError> {
        let mut frames = Vec::new();
        let mut tally = Tally::default();
        for run in self.plan.remove(runs)? {
            run.pages().for_each(|page| tally.add(page.0, PageKind::Fill(0)));
            let (start, count) = (run.start.0, run.count);
            frames.extend(RunFrame { start, count, byte: 0, cause: Cause::Background }.encode());
        }
        self.departures.count(Cause::Background, tally.pages, tally.pages);
        self.departures.removed.fetch_add(tally.pages, Ordering::Relaxed);
        self.departures.merge(tally);
        writer.write_all(&frames)?;
        Ok(())
    }

    /// Sends pages in exactly this order, joining those that adjoin into one frame, in one write.
    fn send_wanted(
        &self,
        writer: &mut dyn Write,
        packer: &mut ChunkPacker,
        order: &[Wanted],
    ) -> Result<(), LaneError> {
        let mut tally = Tally::default();
        let mut frames = Vec::new();
        packer.clear();
        let codec = self.packs.for_waiting();
        for run in joined(order, self.ram.ram().layout()) {
            for run in run.chunks(CHUNK_PAGES as usize) {
                let Some(first) = run.first() else { continue };
                let mut frame = PagesBuilder::new(first.page.0, first.cause, self.page_bytes());
                let (mut contents, mut fills) = (Vec::new(), 0);
                for wanted in run {
                    let (kind, content) = self.checked(wanted.page);
                    frame.push(kind);
                    if !content.is_empty() {
                        contents.push(content);
                    }
                    if wanted.first {
                        tally.add(wanted.page.0, kind);
                        fills += u64::from(matches!(kind, PageKind::Fill(_)));
                    }
                }
                let firsts = run.iter().filter(|wanted| wanted.first).count() as u64;
                self.departures.count(first.cause, firsts, fills);
                frames.push(self.outgoing(packer, codec, &frame, contents));
            }
        }
        // Before the bytes go: whoever has them may find that they are the last.
        self.departures.merge(tally);
        packer.write(writer, &frames)?;
        Ok(())
    }

    fn outgoing<'a>(
        &self,
        packer: &mut ChunkPacker,
        codec: Option<Codec>,
        frame: &PagesBuilder,
        contents: Vec<&'a [u8]>,
    ) -> Outgoing<'a> {
        match codec {
            Some(codec) => packer.pack(codec, frame, contents, true, &|_, _, _| false, &self.packs),
            None => Outgoing::plain(frame, contents),
        }
    }

    /// As `look`, with a page that the hardware cannot read found before it is touched, and one that is
    /// not wanted any more for zeroes.
    fn checked(&self, page: PageIndex) -> (PageKind, &[u8]) {
        if self.plan.is_removed(page) {
            return (PageKind::Fill(0), &[]);
        }
        if self.ram.is_readable(PageRange::one(page)) {
            self.look(page)
        } else {
            (PageKind::Unreadable, &[])
        }
    }

    /// Sends pages that nobody waits for. `go_on` is told before each chunk how much went out since it
    /// was told last, and waits while no more may; `false` ends.
    pub(crate) fn serve_background(
        &self,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
        packer: &mut BulkPacker,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), LaneError> {
        let mut sent = 0;
        while go_on(sent) {
            let pages = flow.look(true).map_or(CHUNK_PAGES, |bytes| {
                (bytes / self.page_bytes() as u64).clamp(LEAST_CHUNK_PAGES, CHUNK_PAGES)
            });
            if flow.is_too_many() {
                return Ok(());
            }
            let Some(range) = self.plan.next_background(pages) else { return Ok(()) };
            sent = self.send_chunk(writer, flow, packer, range)?;
        }
        Ok(())
    }

    fn send_chunk(
        &self,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
        packer: &mut BulkPacker,
        range: PageRange,
    ) -> Result<u64, LaneError> {
        let readable = self.ram.is_readable(range);
        let mut frame = PagesBuilder::new(range.start.0, Cause::Background, self.page_bytes());
        let mut tally = Tally::default();
        let mut contents = Vec::with_capacity(range.count as usize);
        for page in range.pages() {
            let (kind, content) = if readable { self.look(page) } else { self.checked(page) };
            frame.push(kind);
            tally.add(page.0, kind);
            if !content.is_empty() {
                contents.push(content);
            }
        }
        self.departures.count(Cause::Background, range.count, range.count - contents.len() as u64);
        self.departures.merge(tally);
        let (codec, started) = (packer.next_chunk(), Instant::now());
        let outgoing = [self.outgoing(&mut packer.chunk, codec, &frame, contents)];
        if let Some(codec) = codec {
            packer.packed(codec, &outgoing, started.elapsed());
        }
        let (bytes, started) = (outgoing.iter().map(Outgoing::bytes).sum(), Instant::now());
        flow.take(bytes)?;
        packer.chunk.write(writer, &outgoing)?;
        packer.sent(bytes, started);
        Ok(bytes)
    }

    /// Sends all that the guest never touched, as runs: it costs no look at memory.
    pub(crate) fn send_holes(
        &self,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
    ) -> Result<(), LaneError> {
        for hole in holes(self.ram.ram()) {
            self.send_hole(writer, flow, hole)?;
        }
        Ok(())
    }

    fn send_hole(
        &self,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
        pages: Range<u64>,
    ) -> Result<(), LaneError> {
        let mut tally = Tally::default();
        for page in pages.clone() {
            if self.plan.claim(PageIndex(page)) {
                tally.add(page, PageKind::Fill(0));
            }
        }
        if tally.pages == 0 {
            return Ok(());
        }
        self.departures.count(Cause::Background, tally.pages, tally.pages);
        self.departures.merge(tally);
        let count = pages.end - pages.start;
        let run = RunFrame { start: pages.start, count, byte: 0, cause: Cause::Background };
        let frame = run.encode();
        flow.take(frame.len() as u64)?;
        writer.write_all(&frame)?;
        Ok(())
    }
}

/// The parts of an order that can go in one frame: pages that adjoin, of one block and one cause.
fn joined<'a>(order: &'a [Wanted], layout: &'a RamLayout) -> impl Iterator<Item = &'a [Wanted]> {
    let same_block = |a: PageIndex, b| layout.index_of(a) == layout.index_of(b);
    order.chunk_by(move |a, b| {
        a.page.0 + 1 == b.page.0 && a.cause == b.cause && same_block(a.page, b.page)
    })
}

/// The page numbers of what the guest never touched, as runs that stay in their blocks. Where the system
/// does not tell there are none: everything is looked at then.
pub(crate) fn holes(ram: &GuestRam) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    for block in ram.layout().blocks() {
        let populated = match ram.populated(block.range()) {
            Ok(populated) => populated,
            Err(error) => {
                log::warn!("cannot tell which memory the guest used ({error}); looking at all");
                return holes;
            }
        };
        let mut at = block.first_page.0;
        let end = at + block.pages;
        let ends = populated.iter().map(|range| (range.start.0, range.start.0 + range.count));
        for (used_from, used_to) in ends.chain([(end, end)]) {
            holes.push(at..used_from);
            at = used_to;
        }
    }
    holes
}

/// What a page holds.
pub(crate) fn kind_of(page: PageIndex, content: &[u8]) -> PageKind {
    match repeated_byte(content) {
        Some(byte) => PageKind::Fill(byte),
        None => PageKind::Content(page_hash(page.0, content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_memory::{GuestAddress, PageSize, RamBlockSpec};

    #[test]
    fn no_frame_goes_beyond_the_end_of_a_block() {
        let block = |name: &str, address, pages: u64| RamBlockSpec {
            name: name.into(),
            guest_address: GuestAddress(address),
            bytes: pages * PageSize::SMALL.bytes(),
        };
        let blocks = vec![block("low", 0, 4), block("high", 1 << 20, 4)];
        let layout = RamLayout::new(PageSize::SMALL, blocks).unwrap();
        let order =
            [(2, Cause::Demand), (3, Cause::Demand), (4, Cause::Demand), (5, Cause::Prefault)]
                .map(|(page, cause)| Wanted { page: PageIndex(page), cause, first: true });
        let runs: Vec<Vec<u64>> = joined(&order, &layout)
            .map(|run| run.iter().map(|wanted| wanted.page.0).collect())
            .collect();
        assert_eq!(runs, [vec![2, 3], vec![4], vec![5]]);
    }
}
