//! From the handover to the end, and failure on either side of it.

use super::{Destination, DestinationAction, DestinationState, STEP_WITHIN};
use crate::Now;
use umem_wire::{Ownership, ToSource};

impl Destination {
    pub(super) fn started(&mut self, result: Result<(), String>) {
        if self.state != DestinationState::Starting {
            return;
        }
        let owner = match result {
            Ok(()) => {
                self.state = DestinationState::Running;
                self.act(DestinationAction::Send(ToSource::Running));
                // Without page service all pages were placed, and agreed on, before the handover.
                let placed = (!self.page_service).then_some(self.placed.digest);
                if let Some(digest) = placed.or(self.all_early.take()) {
                    self.all_pages(digest);
                }
                Ownership::Running
            }
            Err(why) => {
                self.act(DestinationAction::Send(ToSource::HandoverRefused(why.clone())));
                self.die(why, Ownership::Refused);
                Ownership::Refused
            }
        };
        for _ in 0..std::mem::take(&mut self.inquirers) {
            self.act(DestinationAction::Answer(owner));
        }
        if let Some(why) = self.lost.take() {
            self.link_lost(why);
        }
    }

    pub(super) fn all_pages(&mut self, digest: u128) {
        match self.state {
            DestinationState::Running => {
                self.state = DestinationState::Complete;
                self.act(DestinationAction::PagesComplete);
                self.act(DestinationAction::Send(ToSource::Complete { digest }));
            }
            // Rounds have left nothing to fetch, or what was left came fast.
            DestinationState::Starting => self.all_early = Some(digest),
            DestinationState::Stranded => self.act(DestinationAction::PagesComplete),
            _ => {}
        }
    }

    /// Nothing more is needed of the source, but its word that it has heard so.
    pub(super) fn memory_void(&mut self, why: String) {
        if self.state == DestinationState::Running {
            self.void = true;
            self.state = DestinationState::Complete;
            self.act(DestinationAction::Send(ToSource::MemoryVoid(why)));
        }
    }

    pub(super) fn link_lost(&mut self, why: String) {
        match self.state {
            DestinationState::Describing
            | DestinationState::Checking
            | DestinationState::Receiving
            | DestinationState::Switching
            | DestinationState::Loading
            | DestinationState::Prepared => {
                // The source may still believe that a handover is on its way: the answer to its
                // question is final from now on.
                self.die(
                    format!("the connection to the source was lost: {why}"),
                    Ownership::NeverGotIt,
                );
            }
            DestinationState::Starting => self.lost = Some(why),
            DestinationState::Running => {
                self.error = Some(format!(
                    "the connection to the source was lost while pages were missing ({why}); \
                     the guest runs as far as it has them"
                ));
                self.state = DestinationState::Stranded;
                self.act(DestinationAction::Close);
            }
            DestinationState::Complete if !self.page_service => {
                // The source handed over because the digests were alike.
                self.verified = true;
                self.state = DestinationState::Agreed;
                self.act(DestinationAction::Close);
            }
            DestinationState::Complete if self.void => {
                self.state = DestinationState::Agreed;
                self.act(DestinationAction::Close);
            }
            DestinationState::Complete => {
                self.error = Some(format!(
                    "all pages are here, but the connection was lost before the source agreed on \
                     their digest ({why})"
                ));
                self.act(DestinationAction::Close);
            }
            DestinationState::Agreed | DestinationState::Stranded | DestinationState::Dead(_) => {}
        }
    }

    pub(super) fn inquired(&mut self) {
        use DestinationState::{Agreed, Complete, Dead, Running, Starting, Stranded};
        match self.state {
            Starting => self.inquirers += 1,
            Running | Complete | Agreed | Stranded => {
                self.act(DestinationAction::Answer(Ownership::Running));
            }
            Dead(owner) => self.act(DestinationAction::Answer(owner)),
            _ => {
                let why = "the source asks who runs the guest before it was handed over".to_owned();
                self.die(why, Ownership::NeverGotIt);
                self.act(DestinationAction::Answer(Ownership::NeverGotIt));
            }
        }
    }

    pub(super) fn tick(&mut self, now: Now) {
        if self.deadline.is_some_and(|at| now >= at) {
            self.deadline = None;
            self.link_lost(format!("no next step within {} s", STEP_WITHIN.as_secs()));
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.act(DestinationAction::Send(ToSource::Refused(why.clone())));
        self.die(why, Ownership::NeverGotIt);
    }

    pub(super) fn die(&mut self, why: String, answer: Ownership) {
        self.error = Some(why);
        self.state = DestinationState::Dead(answer);
        self.deadline = None;
        self.package = None;
        self.act(DestinationAction::Abandon);
        self.act(DestinationAction::Close);
    }
}
