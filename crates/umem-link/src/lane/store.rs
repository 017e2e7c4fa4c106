//! Where pages go that arrive: into RAM that nobody uses yet, or through the fault plane.

use super::{Arrivals, LaneError};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use umem_fault::{Content, FaultPlane, Installed};
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange};
use umem_migrate::Tally;
use umem_wire::{Cause, PageKind, exclusive_or};

/// What pages may come at this moment.
enum Phase {
    /// Those of rounds: the guest runs at the source, and nobody uses RAM here.
    Rounds,
    /// None: the rounds are over, and void pages may still hold the old bytes, until page service
    /// begins.
    Voided,
    /// None: all are here, and the guest's state is being loaded, or it runs.
    Sealed,
    /// Those that are missing.
    Service(Arc<FaultPlane>),
}

/// Rounds as they come in, over all bulk connections.
#[derive(Default)]
struct RoundCount {
    /// The newest that is here whole.
    placed: u32,
    /// Connections that have ended the one after it.
    lanes: u8,
}

/// RAM of a guest that comes in, and what of it is here.
pub(crate) struct Store {
    ram: GuestRam,
    /// Pages placed in rounds and not discarded since.
    valid: PageBitmap,
    phase: RwLock<Phase>,
    rounds: Mutex<RoundCount>,
    bulk_lanes: u8,
}

impl Store {
    /// RAM that reads as zero, for a source with so many bulk connections.
    pub(crate) fn new(ram: GuestRam, bulk_lanes: u8) -> Self {
        let valid = PageBitmap::new(ram.layout().total_pages());
        let (phase, rounds) = (RwLock::new(Phase::Rounds), Mutex::default());
        Self { ram, valid, phase, rounds, bulk_lanes }
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Pages placed in rounds and not discarded since.
    pub(crate) fn valid(&self) -> &PageBitmap {
        &self.valid
    }

    /// No more pages, whatever comes: what is here will be used.
    pub(crate) fn seal(&self) {
        self.set_phase(Phase::Sealed);
    }

    /// No more rounds: the pages that are valid now are those that page service will keep. A page that
    /// came later would be taken for missing, or wait for itself while it is being watched.
    pub(crate) fn end_rounds(&self) {
        self.set_phase(Phase::Voided);
    }

    /// From now on pages go through the plane.
    pub(crate) fn serve(&self, plane: Arc<FaultPlane>) {
        self.set_phase(Phase::Service(plane));
    }

    /// Whether the bulk connections are needed no more: nothing is missing, and nothing may change.
    pub(crate) fn is_whole(&self, arrivals: &Arrivals) -> bool {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Rounds | Phase::Voided => false,
            Phase::Sealed => true,
            Phase::Service(_) => arrivals.tally().pages == self.ram.layout().total_pages(),
        }
    }

    /// Whether a page comes into sight only when its huge page is whole.
    pub(crate) fn is_of_huge_pages(&self) -> bool {
        self.ram.host_page() > self.ram.layout().page_size()
    }

    /// Whether pages go through the fault plane.
    pub(super) fn serves(&self) -> bool {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*phase, Phase::Service(_))
    }

    /// Puts pages that hold the same in place, and counts them; whether these may have been the last
    /// that were missing.
    pub(super) fn place(
        &self,
        range: PageRange,
        same: Content<'_>,
        cause: Cause,
        kind_of: &dyn Fn(u64) -> PageKind,
        arrivals: &Arrivals,
    ) -> Result<bool, LaneError> {
        // Held until they are in place: nothing arrives while the phase changes.
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        match (&*phase, cause) {
            (Phase::Rounds, Cause::Precopy) => {
                self.overwrite(range, same, kind_of, arrivals)?;
                Ok(false)
            }
            (Phase::Service(plane), Cause::Demand | Cause::Prefault | Cause::Background) => {
                self.install(plane, range, same, cause, kind_of, arrivals)?;
                Ok(true)
            }
            _ => Err(LaneError::OutOfTurn { start: range.start.0, cause }),
        }
    }

    /// Pages of a round: an older copy may be here.
    fn overwrite(
        &self,
        range: PageRange,
        same: Content<'_>,
        kind_of: &dyn Fn(u64) -> PageKind,
        arrivals: &Arrivals,
    ) -> Result<(), LaneError> {
        match same {
            Content::Bytes(bytes) => self.ram.write_pages(range, bytes)?,
            // RAM reads as zero where nothing was written: it takes no memory then.
            Content::Fill(0) if self.none_valid(range) => {}
            Content::Fill(byte) => self.ram.fill_pages(range, byte)?,
            Content::Unreadable => {
                return Err(LaneError::OutOfTurn { start: range.start.0, cause: Cause::Precopy });
            }
        }
        let mut tally = Tally::default();
        for page in range.pages() {
            if self.valid.set(PageRange::one(page)) == 1 {
                tally.add(page.0, kind_of(page.0));
            } else {
                tally.again(page.0, kind_of(page.0));
            }
        }
        arrivals.count_copies(range.count, matches!(same, Content::Fill(_)));
        arrivals.merge(tally);
        Ok(())
    }

    /// Turns the difference of a page from the copy of it that is here into its content. `base` is room
    /// for a page. Nobody uses RAM here, and no other lane is sent this page in the same round; if a
    /// source does so all the same, the content is not what its checksum says.
    pub(super) fn add_copy(
        &self,
        page: PageIndex,
        difference: &mut [u8],
        base: &mut [u8],
    ) -> Result<(), LaneError> {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*phase, Phase::Rounds) {
            return Err(LaneError::OutOfTurn { start: page.0, cause: Cause::Precopy });
        }
        if !self.valid.test(page) {
            return Err(LaneError::NoCopy { page: page.0 });
        }
        self.ram.copy_pages(PageRange::one(page), base)?;
        exclusive_or(difference, base);
        Ok(())
    }

    fn none_valid(&self, range: PageRange) -> bool {
        let next = self.valid.next_set(range.start);
        next.is_none_or(|page| range.checked_end().is_some_and(|end| page.0 >= end))
    }

    fn install(
        &self,
        plane: &FaultPlane,
        range: PageRange,
        same: Content<'_>,
        cause: Cause,
        kind_of: &dyn Fn(u64) -> PageKind,
        arrivals: &Arrivals,
    ) -> Result<(), LaneError> {
        let tally = Mutex::new(Tally::default());
        let placed = |run: PageRange| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            run.pages().for_each(|page| tally.add(page.0, kind_of(page.0)));
        };
        let installed = plane.install_each(range, same, &placed);
        // What is in place counts, even if the rest failed; by its cause first, so that the counts are
        // whole when the last page is told of.
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        let duplicate = installed.as_ref().map_or(0, |installed| installed.duplicate);
        let counted = Installed { installed: tally.pages, duplicate };
        arrivals.count(cause, counted, matches!(same, Content::Fill(_)));
        arrivals.merge(tally);
        installed?;
        Ok(())
    }

    fn rounds(&self) -> MutexGuard<'_, RoundCount> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One bulk connection has ended a round; whether all have. `mine` is the round that this
    /// connection ended before.
    pub(super) fn round_ended(&self, round: u32, mine: &mut u32) -> Result<bool, LaneError> {
        let mut rounds = self.rounds();
        let expected = rounds.placed + 1;
        if round != expected || *mine + 1 != round {
            return Err(LaneError::Round { got: round, expected });
        }
        *mine = round;
        rounds.lanes += 1;
        let whole = rounds.lanes == self.bulk_lanes;
        if whole {
            *rounds = RoundCount { placed: round, lanes: 0 };
        }
        Ok(whole)
    }

    /// Copies of pages are void: the guest has written them since. A bit a page, from the low bits of
    /// each byte up.
    pub(crate) fn discard(
        &self,
        start: u64,
        bits: &[u8],
        arrivals: &Arrivals,
    ) -> Result<(), String> {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        let ranges = set_runs(start, bits);
        let mut tally = Tally::default();
        for range in &ranges {
            if self.valid.clear(*range) != range.count {
                return Err(format!(
                    "the source discards {} pages from {:#x} on, of which it has not sent all",
                    range.count, range.start.0
                ));
            }
            range.pages().for_each(|page| tally.discard(page.0));
            arrivals.discarded.fetch_add(range.count, Ordering::Relaxed);
        }
        match &*phase {
            // Their memory is given back when page service begins.
            Phase::Rounds | Phase::Voided => *phase = Phase::Voided,
            Phase::Service(plane) => {
                plane.withdraw_all(&ranges).map_err(|error| error.to_string())?;
            }
            Phase::Sealed => return Err("the source discards pages after its last round".into()),
        }
        arrivals.merge(tally);
        Ok(())
    }
}

/// The runs of set bits. Those beyond the last page number that there can be are left out.
fn set_runs(start: u64, bits: &[u8]) -> Vec<PageRange> {
    let mut runs: Vec<PageRange> = Vec::new();
    // Most bytes have no bit.
    let bytes = (0u64..).step_by(8).zip(bits).filter(|(_, byte)| **byte != 0);
    for (first, byte) in bytes {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            let Some(page) = start.checked_add(first + bit) else { return runs };
            match runs.last_mut() {
                Some(run) if run.checked_end() == Some(page) => run.count += 1,
                _ => runs.push(PageRange::one(PageIndex(page))),
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_runs() {
        let runs = |bits: &[u8]| -> Vec<(u64, u64)> {
            set_runs(100, bits).iter().map(|run| (run.start.0, run.count)).collect()
        };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0, 0b1000_0001, 0b0000_0011]), [(108, 1), (115, 3)]);
        assert_eq!(runs(&[0xff, 0xff]), [(100, 16)]);
        assert_eq!(set_runs(u64::MAX, &[0b11]).len(), 1);
    }
}
