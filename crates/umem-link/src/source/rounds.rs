//! The migration's thread while the guest's pages go in rounds.

use super::live::Live;
use super::round::Share;
use super::run::Runner;
use super::workers::Workers;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use umem_migrate::{RoundReport, SourceEvent, Tally};

/// A round that connections are sending.
pub(super) struct RoundAtHand {
    round: u32,
    /// Connections that have not sent their share yet.
    left: usize,
    share: Share,
}

impl Runner<'_> {
    pub(super) fn start_rounds(&mut self) -> Result<(), String> {
        let live = Live::start(&*self.shared.vm)?;
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        self.live = Some(live);
        self.start_workers()
    }

    pub(super) fn send_round(&mut self, round: u32) {
        if let Some(live) = &self.live {
            live.begin_round();
        }
        // A guest that stands still waits for the round.
        self.shared.rounds.hurry(self.stopped);
        self.round =
            Some(RoundAtHand { round, left: self.workers.count(), share: Share::default() });
        self.shared.vm.round_begun(round);
        self.workers.round(round);
    }

    /// A connection has sent its share of a round; the last one ends it.
    pub(super) fn share(&mut self, round: u32, share: Result<Share, String>) {
        let Some(at_hand) = self.round.as_mut().filter(|at_hand| at_hand.round == round) else {
            return;
        };
        let share = match share {
            Ok(share) => share,
            Err(why) => {
                self.round = None;
                return self.handle(SourceEvent::RoundSent(Err(why)));
            }
        };
        at_hand.left = at_hand.left.saturating_sub(1);
        at_hand.share.pages += share.pages;
        at_hand.share.bytes += share.bytes;
        if at_hand.left > 0 {
            return;
        }
        let Share { pages, bytes } = at_hand.share;
        self.round = None;
        let digest = self.shared.departures.tally().digest;
        let left = self.live.as_ref().map_or(0, |live| live.pending().count());
        let report = RoundReport { round, pages, bytes, left, digest };
        self.handle(SourceEvent::RoundSent(Ok(report)));
    }

    /// Tells the destination which of its copies are void. Of a guest that has stopped, what is pending
    /// now is what it will ask for.
    pub(super) fn discard(&mut self) {
        let Some(live) = self.live.clone() else { return };
        let (messages, pages) = live.discard();
        let mut tally = Tally::default();
        pages.iter().for_each(|page| tally.discard(page.0));
        self.shared.departures.merge(tally);
        self.shared.departures.discarded.fetch_add(pages.len() as u64, Ordering::Relaxed);
        messages.iter().for_each(|message| self.send(message));
        if self.stopped {
            self.shared.plan.leave(live.pending());
            self.shared.plan.prefer(live.hot());
            if let Err(why) = self.start_demand(Vec::new()) {
                self.handle(SourceEvent::LinkLost(why));
            }
        }
    }

    /// Ends what rounds have needed. The guest may run on here, or have left.
    pub(super) fn end_rounds(&mut self) {
        self.workers = Workers::default();
        if let Some(live) = self.live.take() {
            live.stop();
        }
    }
}
