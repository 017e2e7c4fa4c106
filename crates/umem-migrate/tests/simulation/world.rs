//! Two machines, the network between them, and a guest that runs on one of them.

use crate::random::Random;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use umem_memory::{GuestAddress, PageSize, RamBlockSpec, RamLayout};
use umem_migrate::{
    Destination, DestinationAction, DestinationEvent, DestinationState, Prefault, SendPlan, Source,
    SourceAction, SourceEvent, SourceState, Strategy, Tally,
};
use umem_wire::{Block, MachineDescription, Ownership, PageKind, ToDestination, ToSource};

const PAGES: u64 = 24;
/// Longest virtual time of a schedule.
const END: Duration = Duration::from_secs(3600);

/// What goes wrong in a schedule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// The link breaks when this many messages have been sent.
    pub(crate) cut_after: Option<u64>,
    /// The link breaks at this time.
    pub(crate) cut_at: Option<Duration>,
    pub(crate) refuse_check: bool,
    pub(crate) refuse_load: bool,
    pub(crate) refuse_run: bool,
    pub(crate) refuse_stop: bool,
    pub(crate) cancel_at: Option<Duration>,
    /// Inquiries that do not get through.
    pub(crate) lost_inquiries: u64,
    pub(crate) prefault: Prefault,
    pub(crate) no_background: bool,
}

impl Script {
    pub(crate) fn random(random: &mut Random) -> Self {
        Self {
            cut_after: (!random.once_in(4)).then(|| random.below(90)),
            cut_at: random.once_in(3).then(|| Duration::from_micros(random.below(12_000))),
            refuse_check: random.once_in(30),
            refuse_load: random.once_in(30),
            refuse_run: random.once_in(12),
            refuse_stop: random.once_in(30),
            cancel_at: random.once_in(8).then(|| Duration::from_micros(random.below(6000))),
            lost_inquiries: random.below(4),
            prefault: Prefault {
                forward: random.below(4),
                backward: random.below(3),
                move_background: random.once_in(2),
            },
            no_background: random.once_in(10),
        }
    }
}

/// How a schedule ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Agreed,
    StaysAtSource,
    TakenBackByAsking,
    HandedOverByAsking,
    LinkLostWhilePagesMissing,
    CompleteWithoutAgreement,
}

#[derive(Debug, Clone)]
enum Happening {
    ToDestination(ToDestination),
    ToSource(ToSource),
    Request(Vec<u64>),
    Page { page: u64, version: u64 },
    Cut,
    SourceLosesLink,
    DestinationLosesLink,
    Source(SourceEvent),
    Destination(DestinationEvent),
    InquiryArrives,
    Guest,
    Background,
}

/// Channels: messages on one keep their order.
#[derive(Clone, Copy)]
enum Channel {
    ControlThere,
    ControlBack,
    Requests,
    DemandPages,
    BulkPages,
}

pub(crate) struct World {
    script: Script,
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    sent_messages: u64,
    link_up: bool,
    last_delivery: [Duration; 5],
    in_flight: BTreeSet<(Duration, u64)>,
    source: Source,
    destination: Destination,
    plan: SendPlan,
    source_runs: bool,
    destination_runs: bool,
    source_memory: Vec<u64>,
    /// Pages at the destination.
    arrived: Vec<Option<u64>>,
    requested: Vec<bool>,
    /// What the guest last wrote.
    truth: Vec<u64>,
    source_tally: Tally,
    destination_tally: Tally,
    waits_for: Option<u64>,
    serving: bool,
    handover_begun: bool,
    asked: bool,
    inquiries: u64,
}

fn machine() -> MachineDescription {
    MachineDescription {
        board: "model".into(),
        harts: 1,
        page_bytes: 4096,
        blocks: vec![Block { name: "ram".into(), address: 0, bytes: PAGES * 4096 }],
        devices: vec![],
        program: "simulation".into(),
    }
}

fn layout() -> RamLayout {
    let block = |name: &str, address, pages| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: pages * PageSize::SMALL.bytes(),
    };
    let blocks = vec![block("low", 0, 8), block("high", 1 << 20, PAGES - 8)];
    RamLayout::new(PageSize::SMALL, blocks).unwrap()
}

impl World {
    pub(crate) fn new(script: Script, random: Random) -> Self {
        let mut world = Self {
            plan: SendPlan::new(layout(), script.prefault),
            script,
            random,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            sent_messages: 0,
            link_up: true,
            last_delivery: [Duration::ZERO; 5],
            in_flight: BTreeSet::new(),
            source: Source::new(Duration::ZERO, machine(), 1, Strategy::POSTCOPY),
            destination: Destination::new(Duration::ZERO, 1 << 20),
            source_runs: true,
            destination_runs: false,
            source_memory: vec![0; PAGES as usize],
            arrived: vec![None; PAGES as usize],
            requested: vec![false; PAGES as usize],
            truth: vec![0; PAGES as usize],
            source_tally: Tally::default(),
            destination_tally: Tally::default(),
            waits_for: None,
            serving: false,
            handover_begun: false,
            asked: false,
            inquiries: 0,
        };
        world.after(10, Happening::Guest);
        if let Some(at) = world.script.cancel_at {
            world.at(at, Happening::Source(SourceEvent::Cancel));
        }
        if let Some(at) = world.script.cut_at {
            world.at(at, Happening::Cut);
        }
        world.act();
        world
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.play()
    }

    pub(crate) fn messages(&self) -> u64 {
        self.sent_messages
    }

    pub(crate) fn play(&mut self) -> Outcome {
        while self.now <= END && self.step() {
            self.act();
            assert!(!(self.source_runs && self.destination_runs), "two guests run");
            if self.source.ended() && !self.busy() {
                break;
            }
        }
        self.outcome()
    }

    /// The next thing that happens, or a deadline that passes before it; whether there was any.
    fn step(&mut self) -> bool {
        let deadlines = [self.source.deadline(), self.destination.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        let next = self.queue.first_key_value().map(|(key, _)| key.0);
        match (deadline, next) {
            (Some(at), next) if next.is_none_or(|next| at < next) => {
                self.now = at.max(self.now);
                self.tell_source(SourceEvent::Tick);
                self.destination.handle(self.now, DestinationEvent::Tick);
                true
            }
            (_, Some(_)) => {
                let Some((key, happening)) = self.queue.pop_first() else { return false };
                self.now = key.0;
                self.in_flight.remove(&key);
                self.happen(happening);
                true
            }
            _ => false,
        }
    }

    /// Whether something is still to come beside the guest's own life.
    fn busy(&self) -> bool {
        let idle =
            |happening: &Happening| matches!(happening, Happening::Guest | Happening::Background);
        self.queue.values().any(|happening| !idle(happening))
            || (self.link_up
                && self.serving
                && !self.source.verified()
                && self.source.error().is_none())
    }

    fn at(&mut self, at: Duration, happening: Happening) -> (Duration, u64) {
        self.sequence += 1;
        let key = (at.max(self.now), self.sequence);
        self.queue.insert(key, happening);
        key
    }

    fn after(&mut self, microseconds: u64, happening: Happening) {
        self.at(self.now + Duration::from_micros(microseconds), happening);
    }

    /// Sends over the link: in order on its channel, after a random delay, or never.
    fn send(&mut self, channel: Channel, happening: Happening) {
        if !self.link_up {
            return;
        }
        if self.script.cut_after == Some(self.sent_messages) {
            return self.cut();
        }
        self.sent_messages += 1;
        // Some messages are still on their way when the sender has given the connection up.
        let longest = if self.random.once_in(5) { 9000 } else { 400 };
        let arrival = self.now + Duration::from_micros(1 + self.random.below(longest));
        let slot = &mut self.last_delivery[channel as usize];
        *slot = arrival.max(*slot);
        let at = *slot;
        let key = self.at(at, happening);
        self.in_flight.insert(key);
    }

    /// The link breaks: of what is under way, what comes late is lost; each end notices in its time.
    fn cut(&mut self) {
        self.link_up = false;
        let lost_from = self.now + Duration::from_micros(self.random.below(12_000));
        for key in std::mem::take(&mut self.in_flight) {
            if key.0 >= lost_from {
                self.queue.remove(&key);
            }
        }
        let late = |random: &mut Random| {
            let longest = if random.once_in(2) { 500 } else { 15_000 };
            1 + random.below(longest)
        };
        let (source, destination) = (late(&mut self.random), late(&mut self.random));
        self.after(source, Happening::SourceLosesLink);
        self.after(destination, Happening::DestinationLosesLink);
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::ToDestination(message) => {
                self.destination.handle(now, DestinationEvent::Message(message));
            }
            Happening::ToSource(message) => self.tell_source(SourceEvent::Message(message)),
            Happening::Source(event) => self.tell_source(event),
            Happening::Destination(event) => self.destination.handle(now, event),
            Happening::Cut if self.link_up => self.cut(),
            Happening::Cut => {}
            Happening::SourceLosesLink => self.tell_source(SourceEvent::LinkLost("cut".into())),
            Happening::DestinationLosesLink => {
                self.destination.handle(now, DestinationEvent::LinkLost("cut".into()));
            }
            Happening::InquiryArrives => self.destination.handle(now, DestinationEvent::Inquired),
            Happening::Request(pages) => self.serve(&pages),
            Happening::Page { page, version } => self.install(page, version),
            Happening::Guest => self.guest(),
            Happening::Background => self.background(),
        }
    }

    fn tell_source(&mut self, event: SourceEvent) {
        // A refusal to cancel is an answer like another.
        let _ = self.source.handle(self.now, event);
    }

    fn act(&mut self) {
        while let Some(action) = self.source.poll_action() {
            self.source_acts(action);
        }
        while let Some(action) = self.destination.poll_action() {
            self.destination_acts(action);
        }
    }

    fn source_acts(&mut self, action: SourceAction) {
        match action {
            SourceAction::Send(message) => {
                self.send(Channel::ControlThere, Happening::ToDestination(message));
            }
            SourceAction::OpenLanes { .. } => {
                let delay = self.random.below(300);
                self.after(delay, Happening::Source(SourceEvent::Opened(Ok(()))));
            }
            SourceAction::StartDirtyLog
            | SourceAction::SendRound { .. }
            | SourceAction::CutRound
            | SourceAction::Collect
            | SourceAction::Discard
            | SourceAction::Throttle(_) => panic!("{action:?} in postcopy"),
            SourceAction::StopGuest => {
                let result =
                    if self.script.refuse_stop { Err("busy".to_owned()) } else { Ok(vec![1; 100]) };
                self.source_runs &= result.is_err();
                let delay = self.random.below(300);
                self.after(delay, Happening::Source(SourceEvent::Stopped(result)));
            }
            SourceAction::HandOver { since_stop } => {
                assert!(!self.source_runs, "handed over while it runs");
                self.handover_begun = true;
                let since_stop_ns = since_stop.as_nanos() as u64;
                let message = ToDestination::Handover { since_stop_ns };
                self.send(Channel::ControlThere, Happening::ToDestination(message));
            }
            SourceAction::Serve => {
                self.serving = true;
                self.after(1, Happening::Background);
            }
            SourceAction::Inquire => {
                self.asked = true;
                self.inquiries += 1;
                let delay = 1 + self.random.below(500);
                if self.inquiries <= self.script.lost_inquiries {
                    let lost = SourceEvent::Answer(Err("no answer".into()));
                    self.after(delay, Happening::Source(lost));
                } else {
                    self.after(delay, Happening::InquiryArrives);
                }
            }
            SourceAction::TakeBack => {
                assert!(!self.serving, "taken back after it was handed over");
                self.source_runs = true;
            }
            SourceAction::CompareDigest(theirs) => {
                let ours = self.source_tally;
                assert_eq!(ours.pages, PAGES, "complete without all pages sent");
                self.source.digest_compared(ours.digest, ours.digest == theirs);
            }
            SourceAction::Release => assert!(self.arrived.iter().all(Option::is_some)),
            SourceAction::Close => {
                if self.link_up {
                    self.link_up = false;
                    let delay = 400 + self.random.below(100);
                    self.after(delay, Happening::DestinationLosesLink);
                }
            }
        }
    }

    fn destination_acts(&mut self, action: DestinationAction) {
        let delay = self.random.below(400);
        let result = |refuse: bool| if refuse { Err("refused".to_owned()) } else { Ok(()) };
        match action {
            DestinationAction::Send(message) => {
                self.send(Channel::ControlBack, Happening::ToSource(message));
            }
            DestinationAction::Check { .. } => {
                let event = DestinationEvent::Checked(result(self.script.refuse_check));
                self.after(delay, Happening::Destination(event));
            }
            DestinationAction::Discard { .. } => panic!("{action:?} in postcopy"),
            DestinationAction::BeginPageService => {
                let event = DestinationEvent::PageService(Ok(()));
                self.after(delay, Happening::Destination(event));
            }
            DestinationAction::Load(package) => {
                assert_eq!(package.len(), 100);
                let event = DestinationEvent::Loaded(result(self.script.refuse_load));
                self.after(delay, Happening::Destination(event));
            }
            DestinationAction::Run { .. } => {
                self.destination_runs = !self.script.refuse_run;
                let event = DestinationEvent::Started(result(self.script.refuse_run));
                self.after(delay, Happening::Destination(event));
            }
            DestinationAction::PagesComplete => {
                assert!(self.arrived.iter().all(Option::is_some));
            }
            DestinationAction::Answer(owner) => self.answer(owner),
            DestinationAction::Abandon => {
                assert!(!self.destination_runs, "a running guest abandoned");
            }
            DestinationAction::Close => {
                if self.link_up {
                    self.link_up = false;
                    self.after(500, Happening::SourceLosesLink);
                }
            }
        }
    }

    fn answer(&mut self, owner: Ownership) {
        assert_eq!(self.destination_runs, owner == Ownership::Running);
        let delay = 1 + self.random.below(500);
        self.after(delay, Happening::Source(SourceEvent::Answer(Ok(owner))));
    }

    /// The guest reads a page, finds what it last wrote, and writes it anew.
    fn guest(&mut self) {
        let page = self.waits_for.unwrap_or_else(|| self.random.below(PAGES)) as usize;
        if self.source_runs {
            assert_eq!(self.source_memory[page], self.truth[page], "page {page} at the source");
            self.truth[page] += 1;
            self.source_memory[page] = self.truth[page];
        } else if self.destination_runs {
            match self.arrived[page] {
                Some(version) => {
                    assert_eq!(version, self.truth[page], "page {page} at the destination");
                    self.truth[page] += 1;
                    self.arrived[page] = Some(self.truth[page]);
                    self.waits_for = None;
                }
                None => {
                    self.waits_for = Some(page as u64);
                    if !std::mem::replace(&mut self.requested[page], true) {
                        self.send(Channel::Requests, Happening::Request(vec![page as u64]));
                    }
                }
            }
        }
        if self.now < Duration::from_secs(1) {
            let delay = 5 + self.random.below(100);
            self.after(delay, Happening::Guest);
        }
    }

    fn send_page(&mut self, channel: Channel, page: u64, first: bool) {
        assert!(self.handover_begun, "a page before the handover");
        let version = self.source_memory[page as usize];
        if first {
            self.source_tally.add(page, PageKind::Content(version));
        }
        self.send(channel, Happening::Page { page, version });
    }

    fn serve(&mut self, pages: &[u64]) {
        for wanted in self.plan.demand(pages).unwrap() {
            self.send_page(Channel::DemandPages, wanted.page.0, wanted.first);
        }
    }

    fn background(&mut self) {
        // With no background the guest's own touches bring everything in.
        if self.script.no_background || !self.link_up {
            return;
        }
        let Some(range) = self.plan.next_background(3) else { return };
        for page in range.pages() {
            self.send_page(Channel::BulkPages, page.0, true);
        }
        let delay = self.random.below(300);
        self.after(delay, Happening::Background);
    }

    fn install(&mut self, page: u64, version: u64) {
        let slot = &mut self.arrived[page as usize];
        if slot.is_some() {
            return;
        }
        *slot = Some(version);
        self.destination_tally.add(page, PageKind::Content(version));
        if self.destination_tally.pages == PAGES {
            let digest = self.destination_tally.digest;
            self.destination.handle(self.now, DestinationEvent::AllPages { digest });
        }
    }

    fn outcome(&self) -> Outcome {
        assert!(
            self.source_runs != self.destination_runs,
            "nobody runs the guest: {:?} {:?} {:?}",
            self.source.state(),
            self.destination.state(),
            self.script
        );
        let all = self.arrived.iter().all(Option::is_some);
        match (self.source.state(), self.destination.state()) {
            (SourceState::Released, DestinationState::Agreed) => {
                assert!(all && self.source.verified() && self.destination.verified());
                assert_eq!(self.source_tally, self.destination_tally);
                Outcome::Agreed
            }
            (SourceState::Failed, DestinationState::Dead(_) | DestinationState::Describing) => {
                assert!(self.source_runs);
                if self.asked { Outcome::TakenBackByAsking } else { Outcome::StaysAtSource }
            }
            (_, DestinationState::Complete) => {
                assert!(all);
                Outcome::CompleteWithoutAgreement
            }
            (SourceState::Stranded, _) if self.asked => Outcome::HandedOverByAsking,
            (SourceState::Stranded, DestinationState::Stranded) => {
                Outcome::LinkLostWhilePagesMissing
            }
            (source, destination) => {
                panic!("ended with {source:?} and {destination:?}: {:?}", self.script)
            }
        }
    }
}
