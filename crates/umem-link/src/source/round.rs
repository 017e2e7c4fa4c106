//! A round of precopy, as one bulk connection sends its share of it.

use super::live::Live;
use super::pacer::Pacer;
use crate::lane::{CHUNK_PAGES, CreditWindow, Departures, LaneError, holes, kind_of, write_frames};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use umem_memory::{PageIndex, PageRange, PageSize};
use umem_migrate::Tally;
use umem_wire::{Cause, PageKind, PagesBuilder, RunFrame, encode_round_end};

/// What one connection has sent of a round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) pages: u64,
    pub(super) bytes: u64,
}

/// Sends pages of a guest that runs: each chunk is copied out first, and what is said of its pages is
/// said of the copy.
pub(super) struct RoundSender {
    live: Arc<Live>,
    departures: Arc<Departures>,
    /// A page that cannot be read stays pending for postcopy; else it ends the migration.
    unreadable_stay: bool,
    copy: Vec<u8>,
}

impl RoundSender {
    pub(super) fn new(live: Arc<Live>, departures: Arc<Departures>, unreadable_stay: bool) -> Self {
        let page = live.ram().layout().page_size();
        let copy = vec![0; page.len() * CHUNK_PAGES as usize];
        Self { live, departures, unreadable_stay, copy }
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
        writer: &mut dyn Write,
        credit: &mut CreditWindow,
        pacer: &Pacer,
    ) -> Result<Share, LaneError> {
        let mut share = Share::default();
        if first {
            self.send_holes(writer, credit, &mut share)?;
        }
        let mut sent = 0;
        while pacer.pass(sent) {
            let batch = self.next_batch();
            if batch.is_empty() {
                break;
            }
            sent = self.send_batch(&batch, writer, credit)?;
            share.pages += batch.iter().map(|range| range.count).sum::<u64>();
            share.bytes += sent;
        }
        let end = encode_round_end(round);
        credit.take(end.len() as u64)?;
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

    fn send_batch(
        &mut self,
        batch: &[PageRange],
        writer: &mut dyn Write,
        credit: &mut CreditWindow,
    ) -> Result<u64, LaneError> {
        let ram = self.live.ram();
        if batch.iter().all(|range| ram.is_readable(*range)) {
            return self.send_readable(batch, writer, credit);
        }
        let mut bytes = 0;
        for page in batch.iter().flat_map(|range| range.pages()) {
            let page_alone = [PageRange::one(page)];
            if self.live.ram().is_readable(PageRange::one(page)) {
                bytes += self.send_readable(&page_alone, writer, credit)?;
            } else if self.unreadable_stay {
                self.live.give_back(page);
            } else {
                return Err(LaneError::Unreadable { page: page.0 });
            }
        }
        Ok(bytes)
    }

    fn send_readable(
        &mut self,
        batch: &[PageRange],
        writer: &mut dyn Write,
        credit: &mut CreditWindow,
    ) -> Result<u64, LaneError> {
        let page_bytes = self.page_size().len();
        let mut tally = Tally::default();
        let mut frames = Vec::with_capacity(batch.len());
        let (mut rest, mut bytes, mut fills, mut pages) = (&mut *self.copy, 0, 0, 0);
        for range in batch {
            let (copy, behind) =
                rest.split_at_mut_checked(page_bytes * range.count as usize).unwrap_or_default();
            rest = behind;
            self.live.ram().copy_pages(*range, copy)?;
            let mut frame = PagesBuilder::new(range.start.0, Cause::Precopy, page_bytes);
            let mut contents = Vec::with_capacity(range.count as usize);
            for (page, content) in range.pages().zip(copy.chunks_exact(page_bytes)) {
                let kind = kind_of(page, content);
                frame.push(kind);
                count(&mut tally, &self.live, page, kind);
                if matches!(kind, PageKind::Content(_)) {
                    contents.push(content);
                }
            }
            pages += range.count;
            fills += range.count - contents.len() as u64;
            let head = frame.head();
            bytes += (head.len() + contents.len() * page_bytes) as u64;
            frames.push((head, contents));
        }
        self.departures.count(Cause::Precopy, pages, fills);
        self.departures.merge(tally);
        credit.take(bytes)?;
        write_frames(writer, &frames)?;
        Ok(bytes)
    }

    /// Tells of all that the guest never touched. What it touches meanwhile is in the dirty log.
    fn send_holes(
        &self,
        writer: &mut dyn Write,
        credit: &mut CreditWindow,
        share: &mut Share,
    ) -> Result<(), LaneError> {
        for hole in holes(self.live.ram()) {
            self.send_hole(hole, writer, credit, share)?;
        }
        Ok(())
    }

    /// Exactly the pages that are pending still, as runs: each copy counts at the other end.
    fn send_hole(
        &self,
        pages: Range<u64>,
        writer: &mut dyn Write,
        credit: &mut CreditWindow,
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
            credit.take(frame.len() as u64)?;
            writer.write_all(&frame)?;
            share.pages += count_here;
            share.bytes += frame.len() as u64;
            at += count_here;
        }
        Ok(())
    }
}

fn count(tally: &mut Tally, live: &Live, page: PageIndex, kind: PageKind) {
    if live.is_first(page) {
        tally.add(page.0, kind);
    } else {
        tally.again(page.0, kind);
    }
}
