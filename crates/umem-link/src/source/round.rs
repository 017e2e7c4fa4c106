//! A round of precopy, as one bulk connection sends its share of it.

use super::copies::SentCopies;
use super::live::Live;
use super::pacer::Pacer;
use super::{Shared, SourceOptions};
use crate::lane::{
    BulkFlow, BulkPacker, CHUNK_PAGES, Departures, LaneError, Outgoing, holes, kind_of,
};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_memory::{PageIndex, PageRange, PageSize};
use umem_migrate::{Differences, Tally};
use umem_wire::{Cause, Codec, Features, PageKind, PagesBuilder, RunFrame, encode_round_end};

/// What one connection has sent of a round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) pages: u64,
    /// Bytes that its frames would have had if none were packed: what tells how long other pages take.
    pub(super) bytes: u64,
}

/// A connection, as a round uses it.
pub(super) struct Way<'a> {
    pub(super) writer: &'a mut dyn Write,
    pub(super) flow: &'a mut BulkFlow,
    pub(super) packer: &'a mut BulkPacker,
}

/// How the frames of a batch are packed.
#[derive(Clone, Copy)]
struct Packed {
    /// The codec, and whether frames without a difference are packed too.
    codec: Option<(Codec, bool)>,
    /// The codec that is measured.
    tells: Option<Codec>,
    /// Whether what is sent is kept.
    keep: bool,
}

/// Bytes of a batch: on the wire, and if nothing had been packed.
#[derive(Default)]
struct Sent {
    bytes: u64,
    plain: u64,
}

/// Sends pages of a guest that runs: each chunk is copied out first, and what is said of its pages is
/// said of the copy; the same copy is packed, and kept to tell what changes.
#[derive(Clone)]
pub(super) struct RoundSender {
    live: Arc<Live>,
    departures: Arc<Departures>,
    /// A page that cannot be read stays pending for postcopy; else it ends the migration.
    unreadable_stay: bool,
    copy: Vec<u8>,
    differences: Differences,
    /// What packs differences while nothing else is packed.
    fallback: Option<Codec>,
    copies: Option<Arc<SentCopies>>,
    round: u32,
}

impl RoundSender {
    /// For a peer that knows these features.
    pub(super) fn new(
        live: Arc<Live>,
        shared: &Shared,
        options: &SourceOptions,
        features: Features,
    ) -> Self {
        let layout = live.ram().layout();
        let (page_bytes, pages) = (layout.page_size().len(), layout.total_pages());
        let fallback = Codec::ALL.into_iter().find(|codec| features.has(codec.feature()));
        let with_copies = options.differences != Differences::Off
            && features.has(Features::DIFFERENCES)
            && fallback.is_some();
        let copies =
            with_copies.then(|| Arc::new(SentCopies::new(options.copies_bytes, page_bytes, pages)));
        Self {
            departures: shared.departures.clone(),
            // Such a page stays pending for postcopy.
            unreadable_stay: shared.strategy.mode().postcopy,
            copy: vec![0; page_bytes * CHUNK_PAGES as usize],
            differences: options.differences,
            fallback,
            copies,
            round: 0,
            live,
        }
    }

    fn page_size(&self) -> PageSize {
        self.live.ram().layout().page_size()
    }

    /// Sends pending pages until there are none, or the round is cut short, and then its end. `first`:
    /// what the guest never touched is told of at once, before a look at memory.
    pub(super) fn send(
        &mut self,
        round: u32,
        first: bool,
        way: Way<'_>,
        pacer: &Pacer,
    ) -> Result<Share, LaneError> {
        let mut share = Share::default();
        self.round = round;
        let Way { writer, flow, packer } = way;
        if first {
            self.send_holes(writer, flow, &mut share)?;
        }
        let mut sent = 0;
        while pacer.pass(sent) {
            // Nobody waits for a page of a guest that runs here.
            flow.look(false);
            let batch = self.next_batch();
            if batch.is_empty() {
                break;
            }
            let way = Way { writer: &mut *writer, flow: &mut *flow, packer: &mut *packer };
            let Sent { bytes, plain } = self.send_batch(&batch, way)?;
            sent = bytes;
            share.pages += batch.iter().map(|range| range.count).sum::<u64>();
            share.bytes += plain;
        }
        let end = encode_round_end(round);
        flow.take(end.len() as u64)?;
        writer.write_all(&end)?;
        Ok(share)
    }

    /// Runs of pages that go out in one write: a guest's writes are scattered, and a system call a page
    /// would cost more than the page.
    fn next_batch(&self) -> Vec<PageRange> {
        let mut batch = Vec::new();
        let mut room = CHUNK_PAGES;
        while room > 0
            && let Some(range) = self.live.next(room)
        {
            room -= range.count;
            batch.push(range);
        }
        batch
    }

    fn send_batch(&mut self, batch: &[PageRange], way: Way<'_>) -> Result<Sent, LaneError> {
        let ram = self.live.ram();
        if batch.iter().all(|range| ram.is_readable(*range)) {
            return self.send_readable(batch, way);
        }
        let Way { writer, flow, packer } = way;
        let mut sent = Sent::default();
        for page in batch.iter().flat_map(|range| range.pages()) {
            let page_alone = [PageRange::one(page)];
            if self.live.ram().is_readable(PageRange::one(page)) {
                let way = Way { writer: &mut *writer, flow: &mut *flow, packer: &mut *packer };
                let Sent { bytes, plain } = self.send_readable(&page_alone, way)?;
                sent.bytes += bytes;
                sent.plain += plain;
            } else if self.unreadable_stay {
                self.live.give_back(page);
            } else {
                return Err(LaneError::Unreadable { page: page.0 });
            }
        }
        Ok(sent)
    }

    /// How the next batch goes.
    fn packed(&self, packer: &mut BulkPacker) -> Packed {
        let tells = packer.next_chunk();
        let kept = self.copies.as_ref().is_some_and(|copies| copies.takes(self.round));
        let on = self.differences == Differences::On && self.copies.is_some();
        let alone = self.fallback.filter(|_| on).map(|codec| (codec, false));
        Packed {
            codec: tells.map(|codec| (codec, true)).or(alone),
            tells,
            keep: kept && (on || packer.packing.may_pay()),
        }
    }

    fn send_readable(&mut self, batch: &[PageRange], way: Way<'_>) -> Result<Sent, LaneError> {
        let Way { writer, flow, packer } = way;
        let packed = self.packed(packer);
        let page_bytes = self.page_size().len();
        let mut tally = Tally::default();
        let mut frames = Vec::with_capacity(batch.len());
        let copies = self.copies.as_deref();
        let (mut rest, mut fills, mut pages) = (&mut *self.copy, 0, 0);
        let mut took = Duration::ZERO;
        for range in batch {
            let (copy, behind) =
                rest.split_at_mut_checked(page_bytes * range.count as usize).unwrap_or_default();
            rest = behind;
            self.live.ram().copy_pages(*range, copy)?;
            let mut frame = PagesBuilder::new(range.start.0, Cause::Precopy, page_bytes);
            let mut contents = Vec::with_capacity(range.count as usize);
            let mut numbers = Vec::with_capacity(range.count as usize);
            for (page, content) in range.pages().zip(copy.chunks_exact(page_bytes)) {
                let kind = kind_of(page, content);
                frame.push(kind);
                count(&mut tally, &self.live, page, kind);
                if matches!(kind, PageKind::Content(_)) {
                    contents.push(content);
                    numbers.push(page);
                } else if let Some(copies) = copies {
                    copies.forget(page);
                }
            }
            pages += range.count;
            fills += range.count - contents.len() as u64;
            let started = Instant::now();
            frames.push(outgoing(packer, packed, &frame, &contents, &numbers, copies));
            took += started.elapsed();
            if let Some(copies) = copies {
                for (page, content) in numbers.into_iter().zip(contents) {
                    if packed.keep {
                        copies.remember(page, content);
                    } else {
                        copies.forget(page);
                    }
                }
            }
        }
        if let Some(codec) = packed.tells {
            packer.packed(codec, &frames, took);
        }
        let (bytes, plain) = totals(&frames);
        self.departures.count(Cause::Precopy, pages, fills);
        self.departures.merge(tally);
        let started = Instant::now();
        flow.take(bytes)?;
        packer.chunk.write(writer, &frames)?;
        packer.sent(bytes, started);
        Ok(Sent { bytes, plain })
    }

    /// Tells of all that the guest never touched. What it touches meanwhile is in the dirty log.
    fn send_holes(
        &self,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
        share: &mut Share,
    ) -> Result<(), LaneError> {
        for hole in holes(self.live.ram()) {
            self.send_hole(hole, writer, flow, share)?;
        }
        Ok(())
    }

    /// Exactly the pages that are pending still, as runs: each copy counts at the other end.
    fn send_hole(
        &self,
        pages: Range<u64>,
        writer: &mut dyn Write,
        flow: &mut BulkFlow,
        share: &mut Share,
    ) -> Result<(), LaneError> {
        let mut at = pages.start;
        while at < pages.end {
            let claimed = |page: &u64| self.live.claim(PageIndex(*page));
            let count_here = (at..pages.end).take_while(claimed).count() as u64;
            if count_here == 0 {
                at += 1;
                continue;
            }
            let mut tally = Tally::default();
            for page in at..at + count_here {
                count(&mut tally, &self.live, PageIndex(page), PageKind::Fill(0));
            }
            self.departures.count(Cause::Precopy, count_here, count_here);
            self.departures.merge(tally);
            let run = RunFrame { start: at, count: count_here, byte: 0, cause: Cause::Precopy };
            let frame = run.encode();
            flow.take(frame.len() as u64)?;
            writer.write_all(&frame)?;
            if let Some(copies) = &self.copies {
                (at..at + count_here).for_each(|page| copies.forget(PageIndex(page)));
            }
            share.pages += count_here;
            share.bytes += frame.len() as u64;
            at += count_here;
        }
        Ok(())
    }
}

/// A frame, packed if that is what is to be done and saves enough.
fn outgoing<'a>(
    packer: &mut BulkPacker,
    packed: Packed,
    frame: &PagesBuilder,
    contents: &[&'a [u8]],
    numbers: &[PageIndex],
    copies: Option<&SentCopies>,
) -> Outgoing<'a> {
    let Some((codec, all)) = packed.codec else {
        return Outgoing::plain(frame, contents.to_vec());
    };
    let difference = |at: usize, content: &[u8], out: &mut Vec<u8>| {
        let page = numbers.get(at).copied();
        page.zip(copies).is_some_and(|(page, copies)| copies.difference(page, content, out))
    };
    let BulkPacker { chunk, counts, .. } = packer;
    chunk.pack(codec, frame, contents.to_vec(), all, &difference, counts)
}

/// Bytes on the wire, and if nothing had been packed.
fn totals(frames: &[Outgoing<'_>]) -> (u64, u64) {
    let (bytes, plain) = (Outgoing::bytes, Outgoing::plain_bytes);
    (frames.iter().map(bytes).sum(), frames.iter().map(plain).sum())
}

fn count(tally: &mut Tally, live: &Live, page: PageIndex, kind: PageKind) {
    if live.is_first(page) {
        tally.add(page.0, kind);
    } else {
        tally.again(page.0, kind);
    }
}
