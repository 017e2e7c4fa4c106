//! Two machines, the network between them, and a guest that runs on one of them.

use crate::destination_end::DestinationEnd;
use crate::network::{BULK_LANES, Happening, Network};
use crate::random::Random;
use crate::script::Script;
use crate::source_end::{self, SourceEnd};
use std::time::Duration;
use umem_memory::{
    GuestAddress, PageBitmap, PageIndex, PageRange, PageSize, RamBlockSpec, RamLayout,
};
use umem_migrate::{
    Destination, DestinationEvent, DestinationState, Source, SourceEvent, SourceState,
};
use umem_wire::{Block, MachineDescription};

pub(crate) const PAGES: u64 = 24;
/// Longest virtual time of a schedule.
const END: Duration = Duration::from_secs(3600);

/// How a schedule ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Agreed,
    StaysAtSource,
    TakenBackByAsking,
    HandedOverByAsking,
    LinkLostWhilePagesMissing,
    CompleteWithoutAgreement,
    /// The guest was reset while pages were missing.
    MemoryVoid,
}

/// How the guest's pages were to move when the guest was stopped for the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// It was never stopped.
    NotStopped,
    Postcopy,
    FinishedByPrecopy,
    SwitchedAfterRounds,
}

pub(crate) struct World {
    pub(crate) script: Script,
    pub(crate) network: Network,
    pub(crate) source: Source,
    pub(crate) destination: Destination,
    pub(crate) here: SourceEnd,
    pub(crate) there: DestinationEnd,
    /// What the guest last wrote.
    truth: Vec<u64>,
    waits_for: Option<u64>,
    void: bool,
    way: Way,
}

fn machine() -> MachineDescription {
    MachineDescription {
        board: "model".into(),
        vcpus: 1,
        processor: vec![],
        page_bytes: 4096,
        blocks: vec![Block { name: "ram".into(), address: 0, bytes: PAGES * 4096 }],
        devices: vec![],
        program: "simulation".into(),
    }
}

pub(crate) fn layout() -> RamLayout {
    let block = |name: &str, address, pages| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: pages * PageSize::SMALL.bytes(),
    };
    let blocks = vec![block("low", 0, 8), block("high", 1 << 20, PAGES - 8)];
    RamLayout::new(PageSize::SMALL, blocks).unwrap()
}

pub(crate) fn bitmap(pages: std::collections::BTreeSet<u64>) -> PageBitmap {
    let bitmap = PageBitmap::new(PAGES);
    pages.into_iter().for_each(|page| _ = bitmap.set(PageRange::one(PageIndex(page))));
    bitmap
}

impl World {
    pub(crate) fn new(script: Script, random: Random) -> Self {
        let mut world = Self {
            here: SourceEnd::new(source_end::plan(script.prefault)),
            there: DestinationEnd::new(),
            network: Network::new(random, script.cut_after),
            source: Source::new(Duration::ZERO, machine(), BULK_LANES as u8, script.strategy),
            destination: Destination::new(Duration::ZERO, 1 << 20),
            truth: vec![0; PAGES as usize],
            waits_for: None,
            void: false,
            way: Way::NotStopped,
            script,
        };
        world.network.after(10, Happening::Guest);
        if let Some(at) = world.script.cancel_at {
            world.network.at(at, Happening::Source(SourceEvent::Cancel));
        }
        if let Some(at) = world.script.start_postcopy_at {
            world.network.at(at, Happening::Source(SourceEvent::StartPostcopy));
        }
        if let Some(at) = world.script.reset_at {
            world.network.at(at, Happening::Reset);
        }
        if let Some(at) = world.script.cut_at {
            world.network.at(at, Happening::Cut);
        }
        world.act();
        world
    }

    pub(crate) fn messages(&self) -> u64 {
        self.network.sent_messages
    }

    /// Plays it to its end.
    pub(crate) fn play(&mut self) -> (Way, Outcome) {
        while self.network.now <= END && self.step() {
            self.act();
            assert!(!(self.here.runs && self.there.runs), "two guests run");
            if self.source.ended() && !self.busy() {
                break;
            }
        }
        (self.way, self.outcome())
    }

    /// The next thing that happens, or a deadline that passes before it; whether there was any.
    fn step(&mut self) -> bool {
        let deadlines = [self.source.deadline(), self.destination.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        let next = self.network.next();
        match (deadline, next) {
            (Some(at), next) if next.is_none_or(|next| at < next) => {
                self.network.now = at.max(self.network.now);
                self.tell_source(SourceEvent::Tick);
                self.tell_destination(DestinationEvent::Tick);
                true
            }
            _ => self.network.pop().map(|happening| self.happen(happening)).is_some(),
        }
    }

    /// Whether something is still to come beside the guest's own life.
    fn busy(&self) -> bool {
        let idle =
            |happening: &Happening| matches!(happening, Happening::Guest | Happening::Background);
        self.network.waiting().any(|happening| !idle(happening))
            || (self.network.link_up
                && self.here.serving
                && !self.source.verified()
                && self.source.error().is_none())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToDestination(message) => {
                self.tell_destination(DestinationEvent::Message(message));
            }
            Happening::ToSource(message) => self.tell_source(SourceEvent::Message(message)),
            Happening::Source(event) => self.tell_source(event),
            Happening::Destination(event) => self.tell_destination(event),
            Happening::Cut => self.network.cut(),
            Happening::Reset => self.reset(),
            Happening::SourceLosesLink => self.tell_source(SourceEvent::LinkLost("cut".into())),
            Happening::DestinationLosesLink => {
                self.tell_destination(DestinationEvent::LinkLost("cut".into()));
            }
            Happening::InquiryArrives => self.tell_destination(DestinationEvent::Inquired),
            Happening::Request(pages) => self.serve(&pages),
            Happening::Page { page, version } => self.install(page, version),
            Happening::RoundPage { page, version } => self.place(page, version),
            Happening::RoundEnd { round, lane } => self.round_end(round, lane),
            Happening::Guest => self.guest(),
            Happening::Background => self.background(),
            Happening::Round(round) => self.round(round),
        }
    }

    pub(crate) fn tell_source(&mut self, event: SourceEvent) {
        // A refusal to cancel is an answer like another.
        let _ = self.source.handle(self.network.now, event);
    }

    pub(crate) fn tell_destination(&mut self, event: DestinationEvent) {
        self.destination.handle(self.network.now, event);
    }

    fn act(&mut self) {
        while let Some(action) = self.source.poll_action() {
            self.source_acts(action);
        }
        while let Some(action) = self.destination.poll_action() {
            self.destination_acts(action);
        }
        if self.source.state() == SourceState::Preparing && self.way == Way::NotStopped {
            self.way = match self.script.strategy.rounds {
                None => Way::Postcopy,
                Some(_) if self.here.finishes => Way::FinishedByPrecopy,
                Some(_) => Way::SwitchedAfterRounds,
            };
        }
    }

    /// The guest reads a page, finds what it last wrote, and writes it anew.
    fn guest(&mut self) {
        let random = &mut self.network.random;
        let page = self.waits_for.unwrap_or_else(|| random.below(PAGES));
        let delay = 5 + random.below(100);
        if self.here.runs {
            assert_eq!(self.here.memory[page as usize], self.truth[page as usize], "page {page}");
            if page < self.script.working_set && self.network.now < self.script.quiet_at {
                self.truth[page as usize] += 1;
                self.here.write(page, self.truth[page as usize]);
            }
        } else if self.there.runs {
            self.guest_at_destination(page as usize);
        }
        if self.network.now < Duration::from_secs(1) {
            let slower = delay * 100 / u64::from(100 - self.here.throttle.min(99));
            self.network.after(slower, Happening::Guest);
        }
    }

    /// The guest begins anew at the destination: what its memory held matters no more.
    fn reset(&mut self) {
        if self.destination.state() == DestinationState::Running {
            self.void = true;
            self.waits_for = None;
            self.truth.iter_mut().for_each(|version| *version += 1);
            self.there.pages = self.truth.iter().copied().map(Some).collect();
            self.tell_destination(DestinationEvent::MemoryVoid("reset".into()));
        }
    }

    fn guest_at_destination(&mut self, page: usize) {
        match self.there.pages[page] {
            Some(version) => {
                assert_eq!(version, self.truth[page], "page {page} at the destination");
                self.truth[page] += 1;
                self.there.pages[page] = Some(self.truth[page]);
                self.waits_for = None;
            }
            None => {
                self.waits_for = Some(page as u64);
                self.fetch(page);
            }
        }
    }

    /// What must be true of memory, wherever the guest is: it is there with what was last written, or
    /// missing there and kept here.
    fn assert_memory(&self) {
        for (page, truth) in self.truth.iter().enumerate() {
            let there = self.there.pages[page].filter(|_| self.there.runs);
            let version = there.unwrap_or(self.here.memory[page]);
            assert_eq!(version, *truth, "page {page} at the end: {:?}", self.script);
        }
    }

    fn outcome(&self) -> Outcome {
        let (source, destination) = (self.source.state(), self.destination.state());
        let ends = || format!("{source:?}, {destination:?}: {:?}", self.script);
        assert!(self.here.runs != self.there.runs, "nobody runs the guest: {}", ends());
        assert_eq!(self.here.throttle, 0, "still slowed down: {}", ends());
        self.assert_memory();
        match (source, destination) {
            (SourceState::Released | SourceState::Stranded, DestinationState::Agreed)
                if self.void =>
            {
                assert!(!self.source.verified() && !self.destination.verified());
                Outcome::MemoryVoid
            }
            (SourceState::Released, DestinationState::Agreed) => {
                self.assert_all_there();
                assert!(self.source.verified() && self.destination.verified());
                assert_eq!(self.here.tally, self.there.tally, "{}", ends());
                Outcome::Agreed
            }
            (SourceState::Failed, DestinationState::Dead(_) | DestinationState::Describing) => {
                assert!(self.here.runs);
                if self.here.asked { Outcome::TakenBackByAsking } else { Outcome::StaysAtSource }
            }
            (_, DestinationState::Complete) => {
                self.assert_all_there();
                Outcome::CompleteWithoutAgreement
            }
            (SourceState::Stranded, _) if self.here.asked => Outcome::HandedOverByAsking,
            (SourceState::Stranded, DestinationState::Stranded) => {
                Outcome::LinkLostWhilePagesMissing
            }
            _ => panic!("ended with {}", ends()),
        }
    }
}
