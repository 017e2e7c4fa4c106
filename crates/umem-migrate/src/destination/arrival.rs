//! What comes before the handover: rounds of pages, discards, the device state.

use super::{Destination, DestinationAction, DestinationState};
use crate::Now;
use umem_wire::{Mode, ToSource};

/// The newest round that is placed; number 0 before the first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastRound {
    round: u32,
    pub(super) digest: u128,
    /// Pages of it were discarded: it is the last one, for what was discarded comes after the switch.
    discarded: bool,
}

/// Device state on its way in.
#[derive(Debug)]
pub(super) struct Package {
    bytes: u64,
    /// The round that must be placed before it is loaded; 0: none.
    after_round: u32,
    content: Vec<u8>,
    /// Given on to be loaded.
    loading: bool,
}

impl Destination {
    pub(super) fn checked(&mut self, now: Now, result: Result<(), String>) {
        if self.state != DestinationState::Checking {
            return;
        }
        match result {
            Ok(()) => {
                self.step(now, DestinationState::Receiving);
                if self.mode.precopy {
                    // Rounds take as long as they take.
                    self.deadline = None;
                }
                let credit_bytes = self.credit_bytes;
                self.act(DestinationAction::Send(ToSource::Ready { credit_bytes }));
            }
            Err(why) => self.refuse(why),
        }
    }

    pub(super) fn round_placed(&mut self, round: u32, digest: u128) {
        let due = self.placed.round.checked_add(1) == Some(round);
        let may_come = match self.state {
            DestinationState::Receiving => self.mode.precopy && !self.placed.discarded,
            DestinationState::Loading => {
                self.package.as_ref().is_some_and(|package| package.after_round == round)
            }
            // Read before the end of the session was known.
            DestinationState::Dead(_) => return,
            _ => false,
        };
        if !due || !may_come {
            return self.link_lost(format!(
                "the source ends round {round} at the wrong time ({:?}, {} rounds are placed)",
                self.state, self.placed.round
            ));
        }
        self.placed = LastRound { round, digest, discarded: false };
        self.act(DestinationAction::Send(ToSource::RoundPlaced { round, digest }));
        self.load_when_ready();
    }

    /// Pages can be taken out again when rounds have come, postcopy will bring them anew, and no
    /// device state has come that may rest on them.
    pub(super) fn may_discard(&self) -> bool {
        self.mode == Mode::HYBRID && self.package.is_none()
    }

    pub(super) fn discarded(&mut self, result: Result<(), String>) {
        self.discarding = self.discarding.saturating_sub(1);
        if !matches!(
            self.state,
            DestinationState::Receiving | DestinationState::Switching | DestinationState::Loading
        ) {
            return;
        }
        self.placed.discarded = true;
        match result {
            Ok(()) => self.load_when_ready(),
            Err(why) => self.refuse(format!("pages could not be discarded: {why}")),
        }
    }

    pub(super) fn page_service(&mut self, now: Now, result: Result<(), String>) {
        if self.state != DestinationState::Switching {
            return;
        }
        match result {
            Ok(()) => {
                self.page_service = true;
                self.step(now, DestinationState::Loading);
                self.act(DestinationAction::Send(ToSource::PageServiceReady));
            }
            Err(why) => self.refuse(why),
        }
    }

    pub(super) fn state_length(&mut self, now: Now, bytes: u64, after_round: u32) {
        let placed = self.placed.round;
        let fits = match self.state {
            // The last round is on its way, or in place already.
            DestinationState::Receiving => {
                after_round > 0
                    && !self.placed.discarded
                    && (after_round == placed || placed.checked_add(1) == Some(after_round))
            }
            _ => after_round == 0,
        };
        if !fits || self.package.is_some() {
            return self.link_lost(format!(
                "the source sends device state for round {after_round} at the wrong time ({:?}, \
                 {placed} rounds are placed)",
                self.state
            ));
        }
        self.step(now, DestinationState::Loading);
        self.package = Some(Package { bytes, after_round, content: Vec::new(), loading: false });
        self.load_when_ready();
    }

    pub(super) fn piece(&mut self, piece: &[u8]) {
        let Some(package) = &mut self.package else {
            return self.link_lost("the source sends device state without its length".to_owned());
        };
        let bytes = package.bytes;
        if package.loading || package.content.len() as u64 + piece.len() as u64 > bytes {
            return self.link_lost(format!("more device state than the {bytes} bytes announced"));
        }
        package.content.extend_from_slice(piece);
        self.load_when_ready();
    }

    /// Has the device state loaded once it is whole and the pages that go before it are in place.
    fn load_when_ready(&mut self) {
        let (placed, discarding) = (self.placed.round, self.discarding);
        let Some(package) = &mut self.package else { return };
        let whole = package.content.len() as u64 == package.bytes;
        if whole && !package.loading && discarding == 0 && package.after_round <= placed {
            package.loading = true;
            let content = std::mem::take(&mut package.content);
            self.act(DestinationAction::Load(content));
        }
    }

    pub(super) fn loaded(&mut self, now: Now, result: Result<(), String>) {
        if self.state != DestinationState::Loading {
            return;
        }
        match result {
            Ok(()) => {
                self.step(now, DestinationState::Prepared);
                self.act(DestinationAction::Send(ToSource::Prepared));
            }
            Err(why) => self.refuse(why),
        }
    }
}
