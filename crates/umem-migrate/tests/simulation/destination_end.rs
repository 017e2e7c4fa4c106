//! What stands around the destination's state machine: its pages, page service, the guest's start.

use crate::network::{BULK_LANES, Channel, Happening};
use crate::script::Stall;
use crate::world::{PAGES, World};
use umem_migrate::{DestinationAction, DestinationEvent, DestinationState, SourceEvent, Tally};
use umem_wire::{Ownership, PageKind};

pub(crate) struct DestinationEnd {
    pub(crate) runs: bool,
    /// Version of each page that is here.
    pub(crate) pages: Vec<Option<u64>>,
    pub(crate) tally: Tally,
    /// Missing pages are watched and fetched.
    watching: bool,
    requested: Vec<bool>,
    /// The last round whose end each bulk connection has read.
    round_ends: [u32; BULK_LANES],
    /// A damaged page was placed.
    pub(crate) damaged: bool,
}

impl DestinationEnd {
    pub(crate) fn new() -> Self {
        Self {
            runs: false,
            pages: vec![None; PAGES as usize],
            tally: Tally::default(),
            watching: false,
            requested: vec![false; PAGES as usize],
            round_ends: [0; BULK_LANES],
            damaged: false,
        }
    }
}

impl World {
    pub(crate) fn destination_acts(&mut self, action: DestinationAction) {
        let delay = self.network.random.below(400);
        let result = |refuse: bool| if refuse { Err("refused".to_owned()) } else { Ok(()) };
        let later = match action {
            DestinationAction::Send(message) => {
                return self.network.send(Channel::ControlBack, Happening::ToSource(message));
            }
            DestinationAction::Check { .. } => {
                DestinationEvent::Checked(result(self.script.refuse_check))
            }
            DestinationAction::Discard { start, bits } => return self.take_out(start, &bits),
            DestinationAction::BeginPageService => {
                self.there.watching = true;
                if self.script.stall == Some(Stall::PageService) {
                    return;
                }
                DestinationEvent::PageService(result(self.script.refuse_page_service))
            }
            DestinationAction::Load(package) => {
                assert_eq!(package.len(), 100);
                let missing = !self.there.watching && self.there.pages.contains(&None);
                assert!(!missing, "device state is to be loaded over missing pages");
                DestinationEvent::Loaded(result(self.script.refuse_load))
            }
            DestinationAction::Run { .. } => {
                assert!(!self.there.damaged, "runs on a page that was damaged");
                self.there.runs = !self.script.refuse_run;
                if self.there.watching {
                    self.tell_when_all_there();
                }
                DestinationEvent::Started(result(self.script.refuse_run))
            }
            DestinationAction::PagesComplete => return self.assert_all_there(),
            DestinationAction::Answer(owner) => return self.answer(owner),
            DestinationAction::Abandon => {
                assert!(!self.there.runs, "a running guest abandoned");
                self.there.pages.fill(None);
                return;
            }
            DestinationAction::Close => return self.network.close(Happening::SourceLosesLink),
        };
        self.network.after(delay, Happening::Destination(later));
    }

    fn answer(&mut self, owner: Ownership) {
        assert_eq!(self.there.runs, owner == Ownership::Running);
        let delay = 1 + self.network.random.below(500);
        self.network.after(delay, Happening::Source(SourceEvent::Answer(Ok(owner))));
    }

    fn is_dead(&self) -> bool {
        matches!(self.destination.state(), DestinationState::Dead(_))
    }

    /// A page of a round: goes over whatever copy is there.
    pub(crate) fn place(&mut self, page: u64, version: u64) {
        if self.is_dead() {
            return;
        }
        assert!(!self.there.watching && !self.there.runs, "a round's page at the wrong time");
        self.there.damaged |= self.script.damage_in_round.is_some() && version >= 1000;
        let kind = PageKind::Content(version);
        match self.there.pages[page as usize].replace(version) {
            None => self.there.tally.add(page, kind),
            Some(_) => self.there.tally.again(page, kind),
        }
    }

    pub(crate) fn round_end(&mut self, round: u32, lane: usize) {
        self.there.round_ends[lane] = round;
        let all = self.there.round_ends.iter().all(|end| *end == round);
        if all && self.script.stall != Some(Stall::Round(round)) {
            let digest = self.there.tally.digest;
            self.tell_destination(DestinationEvent::RoundPlaced { round, digest });
        }
    }

    fn take_out(&mut self, start: u64, bits: &[u8]) {
        if self.script.refuse_discard {
            return self.tell_destination(DestinationEvent::Discarded(Err("refused".into())));
        }
        let count = bits.len() as u64 * 8;
        let set = (0..count).filter(|at| bits[(at / 8) as usize] >> (at % 8) & 1 == 1);
        for page in set.map(|at| start + at) {
            assert!(self.there.pages[page as usize].take().is_some(), "{page} was never here");
            self.there.tally.discard(page);
        }
        self.tell_destination(DestinationEvent::Discarded(Ok(())));
    }

    /// A page after the switch: installed if it is missing.
    pub(crate) fn install(&mut self, page: u64, version: u64) {
        let slot = &mut self.there.pages[page as usize];
        if slot.is_some() {
            return;
        }
        *slot = Some(version);
        self.there.tally.add(page, PageKind::Content(version));
        self.tell_when_all_there();
    }

    fn tell_when_all_there(&mut self) {
        if self.there.tally.pages == PAGES {
            let digest = self.there.tally.digest;
            self.tell_destination(DestinationEvent::AllPages { digest });
        }
    }

    /// The guest needs this page.
    pub(crate) fn fetch(&mut self, page: usize) {
        assert!(self.there.watching, "page {page} is missing and nobody fetches it");
        if !std::mem::replace(&mut self.there.requested[page], true) {
            self.network.send(Channel::Requests, Happening::Request(vec![page as u64]));
        }
    }

    pub(crate) fn assert_all_there(&self) {
        assert!(!self.there.pages.contains(&None), "a page is missing");
    }
}
