//! The session's thread: carries out what the state machine says.

use super::{Event, Shared, View};
use crate::channel::Channel;
use crate::lane::{Arrivals, CreditGiver, DemandLane, LaneError, PageReceiver, RequestLane, Store};
use crate::lanes::{Lanes, give_way};
use crate::latency::CpuLatency;
use crate::meter::Meter;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_fault::{FaultPlane, PageRequester, run_promptly};
use umem_migrate::{Destination, DestinationAction, DestinationEvent, DestinationState};
use umem_wire::{MachineDescription, Mode, Ownership, Role, SessionId, ToDestination, ToSource};

/// Longest sleep of the thread; its deadlines are shorter.
const IDLE: Duration = Duration::from_secs(3600);

/// Runs a session to its end, and beyond it for those who ask how it ended.
pub(super) fn run(
    shared: &Arc<Shared>,
    events: &Sender<Event>,
    inbox: &Receiver<Event>,
    control: Channel,
    session: SessionId,
) {
    let (meter, lanes, arrivals) =
        (Arc::new(Meter::new("setup")), Lanes::default(), Arc::<Arrivals>::default());
    lanes.add(control.control.clone());
    *shared.view() = View {
        meter: meter.clone(),
        lanes: lanes.clone(),
        arrivals: arrivals.clone(),
        peer: Some(control.control.peer()),
        ..View::waiting()
    };
    let mut runner = Runner {
        shared,
        events,
        engine: Destination::new(meter.now(), shared.options.credit_bytes),
        meter,
        lanes,
        arrivals,
        writer: control.writer,
        store: None,
        plane: None,
        requester: None,
        handover_at: None,
        inquirers: VecDeque::new(),
        void: None,
        early: Vec::new(),
        bulk_lanes: 1,
        demand: false,
        bulk: 0,
        package: None,
        latency: CpuLatency::new(shared.options.low_latency),
    };
    if shared.hub().closed {
        // Told to end before there was something to close.
        runner.lanes.close();
    }
    runner.listen(control.reader);
    runner.serve(inbox);
    let state = runner.engine.state();
    let owner = match state {
        DestinationState::Dead(owner) => owner,
        _ => Ownership::Running,
    };
    // From here on inquiries are answered without this thread; those on their way to it now find it
    // in the hub as well.
    shared.hub().forget(session, owner);
    if state == DestinationState::Agreed {
        // The source knows: nobody will ask.
        shared.hub().closed = true;
        shared.wake.set();
    }
}

struct Runner<'a> {
    shared: &'a Arc<Shared>,
    events: &'a Sender<Event>,
    engine: Destination,
    meter: Arc<Meter>,
    lanes: Lanes,
    arrivals: Arc<Arrivals>,
    writer: Box<dyn Write + Send>,
    /// Where pages go, once the guest is admitted.
    store: Option<Arc<Store>>,
    plane: Option<Arc<FaultPlane>>,
    /// Where missing pages are asked for.
    requester: Option<Arc<dyn PageRequester>>,
    handover_at: Option<(Instant, Duration)>,
    inquirers: VecDeque<Sender<Ownership>>,
    /// Dropped when the session ends: who gave the guest's memory up waits for that.
    void: Option<Sender<()>>,
    /// Connections for pages that came before the guest was admitted.
    early: Vec<(Role, Channel)>,
    /// Bulk connections that the source has announced.
    bulk_lanes: u8,
    /// Whether there is a demand connection, and how many for bulk.
    demand: bool,
    bulk: u8,
    /// Device state that waits for the demand connection: loading it may need missing pages.
    package: Option<Vec<u8>>,
    latency: CpuLatency,
}

/// The word for a state; after the switch, that of a guest whose pages still come.
fn phase(state: DestinationState, switched: &'static str) -> &'static str {
    match state {
        DestinationState::Describing | DestinationState::Checking => "setup",
        DestinationState::Receiving | DestinationState::Switching => "active",
        DestinationState::Loading => "device",
        DestinationState::Prepared | DestinationState::Starting => "prepared",
        DestinationState::Running => switched,
        DestinationState::Complete | DestinationState::Agreed => "completed",
        DestinationState::Stranded => "postcopy-paused",
        DestinationState::Dead(_) => "failed",
    }
}

impl Runner<'_> {
    /// Whether nothing more will happen.
    fn ended(&self) -> bool {
        use DestinationState::{Agreed, Complete, Dead, Stranded};
        match self.engine.state() {
            Agreed | Dead(_) | Stranded => true,
            // All pages are here and the link is lost: nobody will agree any more.
            Complete => self.engine.error().is_some(),
            _ => false,
        }
    }

    fn listen(&mut self, reader: Box<dyn Read + Send>) {
        let events = self.events.clone();
        let hear = move |message: Result<ToDestination, LaneError>, ticket| {
            let event = match message {
                Ok(message) => DestinationEvent::Message(message),
                Err(error) => DestinationEvent::LinkLost(error.to_string()),
            };
            events.send(Event::Heard(event, ticket)).is_ok()
        };
        if let Err(error) =
            self.lanes.listen("incoming-control", reader, ToDestination::decode, hear)
        {
            self.handle(DestinationEvent::LinkLost(format!("no thread: {error}")));
        }
    }

    fn serve(&mut self, inbox: &Receiver<Event>) {
        self.act();
        while !self.ended() {
            let now = self.meter.now();
            let wait = self.engine.deadline().map_or(IDLE, |at| at.saturating_sub(now));
            let wait = self.latency.left().map_or(wait, |left| left.min(wait));
            match inbox.recv_timeout(wait) {
                Ok(Event::Engine(event)) => self.handle(event),
                Ok(Event::Heard(event, _ticket)) => self.handle(event),
                Ok(Event::Lane(role, channel)) => self.lane(role, channel),
                Ok(Event::Inquiry(answer)) => {
                    self.inquirers.push_back(answer);
                    self.handle(DestinationEvent::Inquired);
                }
                Ok(Event::MemoryVoid(why, told)) => {
                    self.void = Some(told);
                    self.handle(DestinationEvent::MemoryVoid(why));
                }
                Err(RecvTimeoutError::Timeout) => self.handle(DestinationEvent::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.act();
            self.latency.settle();
        }
        self.last_pages(inbox);
        self.meter.end();
    }

    /// The link is lost; but the last pages may have come just before.
    fn last_pages(&mut self, inbox: &Receiver<Event>) {
        if self.engine.state() != DestinationState::Stranded {
            return;
        }
        self.lanes.close_and_join();
        for event in inbox.try_iter() {
            if let Event::Engine(event @ DestinationEvent::AllPages { .. }) = event {
                self.handle(event);
            }
        }
        self.act();
    }

    fn handle(&mut self, event: DestinationEvent) {
        if let DestinationEvent::Message(ToDestination::Handover { since_stop_ns }) = &event {
            self.handover_at = Some((Instant::now(), Duration::from_nanos(*since_stop_ns)));
        }
        self.engine.handle(self.meter.now(), event);
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.carry_out(action);
        }
        self.publish();
    }

    fn publish(&self) {
        let has_postcopy = self.shared.view().mode.is_none_or(|mode| mode.postcopy);
        let switched = if has_postcopy { "postcopy-active" } else { "device" };
        let phase = match self.engine.state() {
            // All is here, but it is complete only when the source has agreed, or cannot any more.
            DestinationState::Complete if self.engine.error().is_none() => switched,
            state => phase(state, switched),
        };
        self.shared.view().verified = self.engine.verified();
        if self.meter.phase(phase, self.engine.error()) {
            self.shared.vm.phase_changed(phase);
        }
    }

    fn carry_out(&mut self, action: DestinationAction) {
        match action {
            DestinationAction::Send(message) => self.send(&message),
            DestinationAction::Check { machine, bulk_lanes, mode } => {
                self.bulk_lanes = bulk_lanes.max(1);
                let checked = self.admit(&machine, mode);
                self.handle(DestinationEvent::Checked(checked));
            }
            DestinationAction::Discard { start, bits } => {
                let discarded = self
                    .store
                    .as_ref()
                    .map_or(Ok(()), |store| store.discard(start, &bits, &self.arrivals));
                self.handle(DestinationEvent::Discarded(discarded));
            }
            DestinationAction::BeginPageService => {
                self.latency.begin();
                let begun = self.begin_page_service();
                self.handle(DestinationEvent::PageService(begun));
                self.load();
            }
            DestinationAction::Load(package) => {
                self.latency.begin();
                self.package = Some(package);
                self.load();
            }
            DestinationAction::Run { since_stop } => self.run(since_stop),
            DestinationAction::PagesComplete => self.pages_complete(),
            DestinationAction::Answer(owner) => {
                if let Some(answer) = self.inquirers.pop_front() {
                    let _ = answer.send(owner);
                }
            }
            DestinationAction::Abandon => {
                self.latency.end();
                self.lanes.close_and_join();
                self.early.clear();
                self.plane = None;
                self.store = None;
                self.requester = None;
                self.shared.view().plane = None;
                self.shared.vm.abandon();
            }
            DestinationAction::Close => self.lanes.close(),
        }
    }

    fn send(&mut self, message: &ToSource) {
        if let Err(error) = self.writer.write_all(&message.encode()) {
            self.handle(DestinationEvent::LinkLost(error.to_string()));
        }
    }

    /// Loads the device state, once what it needs is here: all pages, or a way to ask for them.
    fn load(&mut self) {
        if self.plane.is_some() && !self.demand {
            return;
        }
        if let Some(package) = self.package.take() {
            let started = Instant::now();
            let loaded = self.require_pages().and_then(|()| self.shared.vm.load(&package));
            self.meter.part("load", started.elapsed());
            self.handle(DestinationEvent::Loaded(loaded));
        }
    }

    /// Without page service a guest runs only when all its pages are here, and none may come after.
    fn require_pages(&self) -> Result<(), String> {
        if self.plane.is_some() {
            return Ok(());
        }
        if let Some(store) = &self.store {
            store.seal();
        }
        match self.shared.layout.total_pages() - self.arrivals.tally().pages {
            0 => Ok(()),
            missing => Err(format!(
                "the source would hand the guest over by precopy while {missing} pages are missing"
            )),
        }
    }

    fn admit(&mut self, machine: &MachineDescription, mode: Mode) -> Result<(), String> {
        self.shared.view().mode = Some(mode);
        let ram = self.shared.vm.admit(machine, mode)?;
        // What a guest that did not come has left must not pass for pages of zeroes.
        ram.clear().map_err(|error| format!("memory cannot be made ready for a guest: {error}"))?;
        self.store = Some(Arc::new(Store::new(ram, self.bulk_lanes)));
        for (role, channel) in std::mem::take(&mut self.early) {
            self.lane(role, channel);
        }
        Ok(())
    }

    fn begin_page_service(&mut self) -> Result<(), String> {
        let Some(store) = &self.store else { return Err("no guest was admitted".to_owned()) };
        store.end_rounds();
        let plane = self.shared.vm.begin_page_service(store.valid())?;
        plane.start_reader().map_err(|error| format!("cannot read page faults: {error}"))?;
        if let Some(requester) = &self.requester {
            plane.set_requester(requester.clone());
        }
        self.shared.view().plane = Some(plane.clone());
        store.serve(plane.clone());
        self.plane = Some(plane);
        Ok(())
    }

    fn run(&mut self, since_stop: Duration) {
        let (read_at, _) = self.handover_at.unwrap_or((Instant::now(), since_stop));
        let started = self.shared.vm.run(since_stop + read_at.elapsed());
        self.meter.part("stop to handover (source)", since_stop);
        self.meter.part("handover to running", read_at.elapsed());
        self.meter.downtime(since_stop + read_at.elapsed());
        self.meter.handed_over();
        self.handle(DestinationEvent::Started(started));
        // Nothing may have been missing, or the last of it came before the guest ran.
        let tally = self.arrivals.tally();
        if self.plane.is_some() && tally.pages == self.shared.layout.total_pages() {
            self.handle(DestinationEvent::AllPages { digest: tally.digest });
        }
    }

    fn pages_complete(&mut self) {
        self.latency.end();
        self.meter.drained();
        self.shared.vm.complete();
        // The view keeps it: those who waited for the last pages have yet to say how long.
        if let Some(plane) = self.plane.take()
            && let Err(error) = plane.release()
        {
            log::warn!("all pages are here, but page service stays: {error}");
        }
    }

    /// Puts a thread into a connection for pages.
    fn lane(&mut self, role: Role, channel: Channel) {
        let Some(store) = self.store.clone() else {
            // One connection that carries everything has these two before its first message; others
            // come when they are called for.
            if self.early.len() < 2 {
                self.lanes.add(channel.control.clone());
                self.early.push((role, channel));
            }
            return;
        };
        let room = match role {
            Role::Demand => !std::mem::replace(&mut self.demand, true),
            _ => self.bulk < self.bulk_lanes,
        };
        if !room {
            // Each costs a thread and a buffer.
            log::warn!("{}: more connections than announced", channel.control.peer());
            return channel.control.shutdown();
        }
        self.lanes.add(channel.control.clone());
        let spawned = match role {
            Role::Demand => self.demand(&store, channel),
            _ => {
                self.bulk += 1;
                self.bulk(&store, channel, self.bulk == 1)
            }
        };
        self.load();
        if let Err(error) = spawned {
            self.handle(DestinationEvent::LinkLost(format!("no thread: {error}")));
        }
    }

    fn receiver(&self, store: &Arc<Store>) -> PageReceiver {
        let (events, rounds) = (self.events.clone(), self.events.clone());
        PageReceiver {
            store: store.clone(),
            layout: self.shared.layout.clone(),
            arrivals: self.arrivals.clone(),
            features: self.shared.options.features,
            all_here: Arc::new(move |digest| {
                let _ = events.send(Event::Engine(DestinationEvent::AllPages { digest }));
            }),
            round_here: Arc::new(move |round, digest| {
                let placed = DestinationEvent::RoundPlaced { round, digest };
                let _ = rounds.send(Event::Engine(placed));
            }),
        }
    }

    /// What a lane's thread reports when its lane ends. Once all pages are here it does not matter,
    /// unless something came that must not.
    fn lane_ended(
        &self,
        name: &'static str,
        store: &Arc<Store>,
    ) -> impl Fn(&LaneError) + Send + Sync + use<> {
        let (events, arrivals, store) = (self.events.clone(), self.arrivals.clone(), store.clone());
        move |error| {
            if !store.is_whole(&arrivals) || matches!(error, LaneError::OutOfTurn { .. }) {
                let lost = DestinationEvent::LinkLost(format!("{name} connection: {error}"));
                let _ = events.send(Event::Engine(lost));
            }
        }
    }

    fn demand(&mut self, store: &Arc<Store>, channel: Channel) -> std::io::Result<()> {
        let failed = self.lane_ended("demand", store);
        let requests =
            RequestLane::new(channel.writer, self.arrivals.requests.clone(), move |error| {
                failed(&LaneError::Io(error));
            });
        let ended = self.lane_ended("demand", store);
        let (reader, receiver) = (channel.reader, self.receiver(store));
        let lane = DemandLane::new(requests, reader, channel.control, receiver, ended);
        let lane = Arc::new(lane);
        if let Some(plane) = &self.plane {
            plane.set_requester(lane.clone());
        }
        self.requester = Some(lane.clone());
        self.lanes.spawn("demand-in", move || {
            run_promptly();
            lane.serve();
        })
    }

    fn bulk(&self, store: &Arc<Store>, channel: Channel, first: bool) -> std::io::Result<()> {
        let (receiver, ended) = (self.receiver(store), self.lane_ended("bulk", store));
        let window = u64::from(self.shared.options.credit_bytes);
        // Who waits for a huge page waits for 512 times as many bytes, which another connection brings.
        let yields = !first || store.is_of_huge_pages();
        self.lanes.spawn("bulk-in", move || {
            if yields {
                give_way();
            }
            let mut credit = CreditGiver::new(channel.writer, window);
            if let Err(error) = receiver.run(channel.reader, &mut |bytes| credit.give(bytes)) {
                ended(&error);
            }
        })
    }
}
