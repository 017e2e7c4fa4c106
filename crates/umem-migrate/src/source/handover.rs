//! From the guest's stop to the end: the handover, its outcome, and failure on either side of it.

use super::{
    Operator, PREPARED_WITHIN, RUNNING_WITHIN, SLOWEST_INQUIRY, Source, SourceAction, SourceState,
};
use crate::Now;
use umem_wire::{Ownership, STATE_PIECE_BYTES, ToDestination};

impl Source {
    pub(super) fn stop_guest(&mut self) {
        self.state = SourceState::Stopping;
        self.deadline = None;
        self.end_throttle();
        self.act(SourceAction::StopGuest);
    }

    pub(super) fn stopped(&mut self, now: Now, result: Result<Vec<u8>, String>) {
        match (self.state, result) {
            (SourceState::Stopping, Ok(package)) => {
                let stopped_at = *self.stopped_at.get_or_insert(now);
                self.state = SourceState::Preparing;
                self.deadline = Some(stopped_at + PREPARED_WITHIN);
                self.package = Some(package);
                if self.progress.is_some() {
                    // What the guest wrote since the last collection.
                    self.act(SourceAction::Collect);
                } else {
                    self.send_state(now);
                }
            }
            (SourceState::Stopping, Err(why)) => {
                self.fail(format!("the guest could not be stopped for the move: {why}"));
            }
            // Given up while the guest was being stopped: `fail` has asked for its going on already.
            _ => {}
        }
    }

    /// The guest stands still and all its writes are known: the rest of it goes.
    pub(super) fn send_state(&mut self, now: Now) {
        let Some(package) = self.package.take() else { return };
        let after_round = match &self.progress {
            Some(progress) if progress.finishing => self.send_last_round(now),
            Some(_) => {
                self.act(SourceAction::Discard);
                0
            }
            None => 0,
        };
        let bytes = package.len() as u64;
        self.act(SourceAction::Send(ToDestination::StateLength { bytes, after_round }));
        for piece in package.chunks(STATE_PIECE_BYTES) {
            self.act(SourceAction::Send(ToDestination::StatePiece(piece.to_vec())));
        }
    }

    /// Whether *prepared* can be true: a last round is placed before the state is loaded.
    pub(super) fn may_be_prepared(&self) -> bool {
        self.package.is_none() && !self.prepared && self.last_round_is_placed()
    }

    /// Hands over once the destination is prepared and has all pages that it must have.
    pub(super) fn hand_over_when_ready(&mut self, now: Now) {
        if !self.prepared || !self.last_round_agreed() {
            return;
        }
        self.state = SourceState::HandoverUnknown;
        self.deadline = Some(now + RUNNING_WITHIN);
        let since_stop = self.since_stop(now);
        self.act(SourceAction::HandOver { since_stop });
    }

    pub(super) fn serve(&mut self) {
        self.state = SourceState::Serving;
        self.deadline = None;
        self.act(SourceAction::Serve);
    }

    pub(super) fn link_lost(&mut self, now: Now, why: String) {
        match self.state {
            SourceState::HandoverUnknown => {
                self.error = Some(format!(
                    "the connection was lost during the handover ({why}); asking the destination who runs the guest"
                ));
                self.state = SourceState::Inquiring;
                self.act(SourceAction::Close);
                self.inquire(now);
            }
            // All pages were there, and agreed on, before the handover.
            SourceState::Serving if self.agreed_before_handover() => self.release(),
            SourceState::Serving => {
                self.error = Some(format!(
                    "the connection was lost before the destination had confirmed all pages ({why}); \
                     the pages are kept here"
                ));
                self.state = SourceState::Stranded;
                self.act(SourceAction::Close);
            }
            SourceState::Inquiring
            | SourceState::Stranded
            | SourceState::Released
            | SourceState::Failed => {}
            SourceState::Describing
            | SourceState::Opening
            | SourceState::Rounds
            | SourceState::Switching
            | SourceState::Stopping
            | SourceState::Preparing => self.fail(why),
        }
    }

    pub(super) fn inquire(&mut self, now: Now) {
        if self.inquiry_under_way {
            return;
        }
        self.inquiry_under_way = true;
        self.deadline = Some(now + RUNNING_WITHIN);
        self.act(SourceAction::Inquire);
    }

    pub(super) fn answer(&mut self, now: Now, answer: Result<Ownership, String>) {
        self.inquiry_under_way = false;
        if self.state != SourceState::Inquiring {
            return;
        }
        match answer {
            Ok(Ownership::Running) if self.agreed_before_handover() => {
                self.serve();
                self.error = None;
                self.release();
            }
            Ok(Ownership::Running) => self.strand(),
            Ok(Ownership::Refused) => {
                self.take_back("the destination could not run the guest".to_owned());
            }
            Ok(Ownership::NeverGotIt) => {
                self.take_back("the connection was lost before the handover arrived".to_owned());
            }
            Err(why) => {
                self.error = Some(format!(
                    "the handover's outcome is not known: {why}; asking again (migrate_resolve decides by hand)"
                ));
                self.deadline = Some(now + self.next_inquiry_after);
                self.next_inquiry_after = (self.next_inquiry_after * 2).min(SLOWEST_INQUIRY);
            }
        }
    }

    fn strand(&mut self) {
        self.serve();
        self.state = SourceState::Stranded;
        self.error = Some(
            "the destination runs the guest, but the connection was lost before it had all pages; \
             the pages are kept here"
                .to_owned(),
        );
        self.act(SourceAction::Close);
    }

    /// Whether the destination had all pages, with our digest, before it got the guest.
    fn agreed_before_handover(&self) -> bool {
        self.progress.is_some_and(|progress| progress.finishing)
    }

    /// The destination runs the guest and needs nothing from here.
    fn release(&mut self) {
        self.verified = true;
        self.state = SourceState::Released;
        self.deadline = None;
        self.act(SourceAction::Release);
        self.act(SourceAction::Close);
    }

    /// The guest's memory was reset or switched off at the destination: what is left of it here is of
    /// no use to anybody.
    pub(super) fn release_void(&mut self) {
        self.state = SourceState::Released;
        self.deadline = None;
        self.act(SourceAction::Send(ToDestination::DigestAgreed));
        self.act(SourceAction::Release);
        self.act(SourceAction::Close);
    }

    pub(super) fn resolve(&mut self, operator: Operator) -> Result<(), String> {
        if self.state != SourceState::Inquiring {
            return Err(format!("who runs the guest is not in doubt ({:?})", self.state));
        }
        match operator {
            Operator::TakeBack => {
                self.take_back("the operator decided that the guest stays here".to_owned());
            }
            Operator::GiveUp => self.strand(),
        }
        Ok(())
    }

    /// Ends before the handover: the guest is ours and goes on.
    pub(super) fn fail(&mut self, why: String) {
        let stopped = matches!(self.state, SourceState::Stopping | SourceState::Preparing);
        self.act(SourceAction::Send(ToDestination::Cancel(why.clone())));
        self.error = Some(why);
        self.state = SourceState::Failed;
        self.deadline = None;
        self.package = None;
        self.end_throttle();
        if stopped {
            self.act(SourceAction::TakeBack);
        }
        self.act(SourceAction::Close);
    }

    /// Ends after the handover was begun: the guest is known not to run at the destination.
    pub(super) fn take_back(&mut self, why: String) {
        self.error = Some(why);
        self.state = SourceState::Failed;
        self.deadline = None;
        self.act(SourceAction::TakeBack);
        self.act(SourceAction::Close);
    }
}
