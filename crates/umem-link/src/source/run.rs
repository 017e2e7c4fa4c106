//! The migration's thread: carries out what the state machine says.

use super::lanes::{First, PageLanes, Session};
use super::live::Live;
use super::round::RoundSender;
use super::rounds::RoundAtHand;
use super::workers::{HEAD_START, LaneParts, Workers};
use super::{Event, Shared, SourceOptions};
use crate::channel::Channel;
use crate::lane::{LaneError, PageSender};
use crate::latency::CpuLatency;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use umem_fault::run_promptly;
use umem_memory::{FrozenRam, PageIndex};
use umem_migrate::{Packing, Source, SourceAction, SourceEvent, SourceState};
use umem_wire::{Features, ToDestination, ToSource};

/// The reason of a migration that was given up by us.
const CANCELLED: &str = "cancelled";

/// Longest sleep of the thread; its deadlines are shorter.
const IDLE: Duration = Duration::from_secs(3600);
/// How long the destination's word may take that explains why a connection for pages has ended.
const WORD_WITHIN: Duration = Duration::from_millis(500);
/// Longest wait for sending threads to count what they send already.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// Runs a migration to its end.
pub(super) fn run(
    shared: &Arc<Shared>,
    events: &Sender<Event>,
    inbox: &Receiver<Event>,
    options: SourceOptions,
) {
    let connected = Session::new().and_then(|session| Ok((session, session.open(shared)?)));
    let (session, First { control, features, pages }) = match connected {
        Ok(connected) if !shared.cancelled.load(Ordering::Acquire) => connected,
        failed => {
            let why = failed.err().filter(|_| !shared.cancelled.load(Ordering::Acquire));
            let why = why.unwrap_or_else(|| CANCELLED.to_owned());
            shared.lanes.close();
            finish(shared, SourceState::Failed, Some(&why), inbox);
            return;
        }
    };
    let machine = shared.vm.describe();
    // One inherited connection carries one channel of each kind: the destination waits for no more.
    let bulk_lanes = if pages.is_some() { 1 } else { options.bulk_lanes };
    let mut runner = Runner {
        shared,
        events,
        session,
        options,
        engine: Source::new(shared.meter.now(), machine, bulk_lanes, options.strategy),
        writer: control.writer,
        pages,
        features,
        credit_bytes: 0,
        ram: None,
        live: None,
        workers: Workers::default(),
        round: None,
        demand: None,
        handover_at: None,
        stop_ended: None,
        stopped: false,
        lane_lost: None,
        abandoned: false,
        unheard: false,
        latency: CpuLatency::new(options.low_latency),
    };
    runner.listen(control.reader);
    runner.serve(inbox);
    let (state, error) = (runner.engine.state(), runner.engine.error().map(str::to_owned));
    runner.end_rounds();
    drop(runner);
    finish(shared, state, error.as_deref(), inbox);
}

fn finish(shared: &Shared, state: SourceState, error: Option<&str>, inbox: &Receiver<Event>) {
    shared.end_pacers();
    shared.meter.end();
    publish(shared, state, error);
    while let Ok(event) = inbox.try_recv() {
        match event {
            // It was heard before it was read.
            Event::Ask(SourceEvent::Cancel, answer) if error == Some(CANCELLED) => {
                let _ = answer.send(Ok(()));
            }
            Event::Ask(_, answer) => {
                let _ = answer.send(Err("no migration is under way".to_owned()));
            }
            Event::Engine(_)
            | Event::Heard(..)
            | Event::LaneLost(_)
            | Event::Share(..)
            | Event::Held
            | Event::DowntimeLimit(_)
            | Event::Abandoned => {}
        }
    }
}

/// Lets everybody see where the migration is.
fn publish(shared: &Shared, state: SourceState, error: Option<&str>) {
    let phase = match state {
        SourceState::Describing | SourceState::Opening => "setup",
        SourceState::Rounds | SourceState::Switching => "active",
        SourceState::Stopping | SourceState::Preparing | SourceState::HandoverUnknown => "device",
        SourceState::Inquiring => "handover-unknown",
        SourceState::Serving if !shared.gate.is_on() => "postcopy-paused",
        SourceState::Serving if shared.strategy.mode().postcopy => "postcopy-active",
        // All is there; both ends are about to agree on it.
        SourceState::Serving => "device",
        SourceState::Stranded => "postcopy-paused",
        SourceState::Released => "completed",
        SourceState::Failed if error == Some(CANCELLED) => "cancelled",
        SourceState::Failed => "failed",
    };
    let is_news = shared.meter.phase(phase, error);
    // Whoever sees the end sees how it ended; and whoever is told of it may begin the next.
    *shared.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    if is_news {
        shared.vm.phase_changed(phase);
    }
}

pub(super) struct Runner<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) events: &'a Sender<Event>,
    pub(super) session: Session,
    pub(super) options: SourceOptions,
    pub(super) engine: Source,
    pub(super) writer: Box<dyn Write + Send>,
    pub(super) pages: Option<PageLanes>,
    /// Optional parts of the protocol that both ends know.
    pub(super) features: Features,
    pub(super) credit_bytes: u32,
    pub(super) ram: Option<FrozenRam>,
    /// What rounds of precopy know of the guest's pages.
    pub(super) live: Option<Arc<Live>>,
    pub(super) workers: Workers,
    pub(super) round: Option<RoundAtHand>,
    /// The demand connection, until the guest stands still.
    pub(super) demand: Option<Channel>,
    pub(super) handover_at: Option<Instant>,
    pub(super) stop_ended: Option<Instant>,
    /// Whether the guest was stopped for this move.
    pub(super) stopped: bool,
    /// A connection for pages that has ended before pages were due, why, and when that counts.
    pub(super) lane_lost: Option<(Instant, String)>,
    pub(super) abandoned: bool,
    /// Whether the control connection has refused a message.
    unheard: bool,
    /// From the stop on.
    latency: CpuLatency,
}

impl Runner<'_> {
    /// Hands what the destination says to the state machine, from a thread of its own.
    fn listen(&mut self, reader: Box<dyn Read + Send>) {
        let events = self.events.clone();
        let hear = move |message: Result<ToSource, LaneError>, ticket| {
            let event = match message {
                Ok(message) => SourceEvent::Message(message),
                Err(error) => SourceEvent::LinkLost(error.to_string()),
            };
            events.send(Event::Heard(event, ticket)).is_ok()
        };
        if let Err(error) = self.shared.lanes.listen("migration-in", reader, ToSource::decode, hear)
        {
            self.handle(SourceEvent::LinkLost(format!("no thread: {error}")));
        }
    }

    fn serve(&mut self, inbox: &Receiver<Event>) {
        self.act();
        if self.cancelled() {
            self.handle(SourceEvent::Cancel);
            self.act();
        }
        while !self.engine.ended() && !self.asks_in_vain() {
            let now = self.shared.meter.now();
            let wait = self.engine.deadline().map_or(IDLE, |at| at.saturating_sub(now));
            let wait = self.lane_lost_in().map_or(wait, |lost| lost.min(wait));
            let wait = self.latency.left().map_or(wait, |left| left.min(wait));
            match inbox.recv_timeout(wait) {
                Ok(Event::Engine(event)) => self.handle(event),
                Ok(Event::Heard(event, _ticket)) => self.handle(event),
                Ok(Event::LaneLost(why)) => self.lane_lost(why),
                Ok(Event::Share(round, share)) => self.share(round, share),
                // The phase is told below.
                Ok(Event::Held) => {}
                Ok(Event::DowntimeLimit(limit)) => self.engine.set_downtime_limit(limit),
                Ok(Event::Abandoned) => {
                    self.abandoned = true;
                    self.handle(SourceEvent::LinkLost("the process is ending".to_owned()));
                }
                Ok(Event::Ask(event, answer)) => {
                    let _ = answer.send(self.engine.handle(self.shared.meter.now(), event));
                }
                Err(RecvTimeoutError::Timeout) => self.handle(SourceEvent::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.act();
            self.settle_lane_lost();
            self.latency.settle();
        }
    }

    /// Whether nobody waits for the answer any more.
    fn asks_in_vain(&self) -> bool {
        self.abandoned && self.engine.state() == SourceState::Inquiring
    }

    /// A connection for pages has ended. When pages are due that is the end of the link. Before, the
    /// control connection says why in a moment; and while the guest's owner is not known, its word
    /// alone counts.
    fn lane_lost(&mut self, why: String) {
        self.lane_lost.get_or_insert_with(|| (Instant::now() + WORD_WITHIN, why));
    }

    /// How long until a lost connection counts; `None` when it does not.
    fn lane_lost_in(&self) -> Option<Duration> {
        let (at, _) = self.lane_lost.as_ref()?;
        match self.engine.state() {
            SourceState::HandoverUnknown => None,
            SourceState::Serving => Some(Duration::ZERO),
            _ => Some(at.saturating_duration_since(Instant::now())),
        }
    }

    fn settle_lane_lost(&mut self) {
        if self.lane_lost_in() == Some(Duration::ZERO)
            && let Some((_, why)) = self.lane_lost.take()
        {
            self.handle(SourceEvent::LinkLost(why));
            self.act();
        }
    }

    pub(super) fn handle(&mut self, event: SourceEvent) {
        if matches!(event, SourceEvent::Message(ToSource::Running)) {
            self.measure_handover();
        }
        if matches!(event, SourceEvent::Message(ToSource::Prepared))
            && let Some((_, why)) = self.lane_lost.take()
        {
            // The guest does not go where its pages cannot follow.
            let _ = self.engine.handle(self.shared.meter.now(), SourceEvent::LinkLost(why));
            return;
        }
        // Only a monitor's wishes can be refused.
        let _ = self.engine.handle(self.shared.meter.now(), event);
    }

    fn measure_handover(&mut self) {
        if let (Some(handover), Some(stopped)) = (self.handover_at, self.stop_ended) {
            self.shared
                .meter
                .part("state sent, loaded", handover.saturating_duration_since(stopped));
            self.shared.meter.part("handover to running", handover.elapsed());
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.carry_out(action);
        }
        *self.shared.rounds_view.lock().unwrap_or_else(PoisonError::into_inner) =
            self.engine.rounds();
        publish(self.shared, self.engine.state(), self.engine.error());
    }

    fn carry_out(&mut self, action: SourceAction) {
        match action {
            SourceAction::Send(message) => self.send(&message),
            SourceAction::OpenLanes { credit_bytes } => {
                self.credit_bytes = credit_bytes;
                let opened = self.open_pages();
                self.handle(match self.cancelled() {
                    true => SourceEvent::Cancel,
                    false => SourceEvent::Opened(opened),
                });
            }
            SourceAction::StartDirtyLog => {
                let tracking = self.start_rounds();
                self.handle(SourceEvent::Tracking(tracking));
            }
            SourceAction::SendRound { round } => self.send_round(round),
            SourceAction::CutRound => {
                if let Some(live) = &self.live {
                    live.cut();
                    self.shared.rounds.hurry(true);
                }
            }
            SourceAction::Collect => {
                let collected = self.live.as_ref().map_or(Ok(0), |live| live.collect());
                self.handle(SourceEvent::Collected(collected));
            }
            SourceAction::Discard => self.discard(),
            SourceAction::Throttle(percent) => self.shared.vm.throttle(percent),
            SourceAction::StopGuest if self.cancelled() => self.handle(SourceEvent::Cancel),
            SourceAction::StopGuest => self.stop_guest(),
            SourceAction::HandOver { since_stop } => self.hand_over(since_stop),
            SourceAction::Serve => self.start_background(),
            SourceAction::Inquire => self.inquire(),
            SourceAction::TakeBack => {
                self.latency.end();
                // Nobody may look at memory that the guest writes again.
                self.end_lanes();
                if std::mem::take(&mut self.stopped) {
                    self.shared.vm.take_back();
                }
            }
            SourceAction::CompareDigest(theirs) => {
                self.shared.meter.drained();
                let ours = self.digest();
                self.engine.digest_compared(ours, ours == theirs);
                self.shared.verified.store(self.engine.verified(), Ordering::Release);
            }
            SourceAction::Release => {
                self.end_lanes();
                self.shared.vm.released();
            }
            SourceAction::Close => {
                self.shared.lanes.close();
                if self.engine.state() == SourceState::Failed {
                    // Before it is told: whoever hears of it may want the dirty log at once.
                    self.end_rounds();
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// Ends all threads that read guest memory, and gives it back.
    fn end_lanes(&mut self) {
        self.shared.end_pacers();
        self.workers = Workers::default();
        self.shared.lanes.close_and_join();
        self.pages = None;
        self.demand = None;
        self.ram = None;
    }

    /// The digest over all that was sent. The destination may have had its last page from one lane
    /// while another, which took the same page before, has not come to counting it.
    fn digest(&self) -> u128 {
        let until = Instant::now() + COUNTED_WITHIN;
        loop {
            let tally = self.shared.departures.tally();
            let counted = tally.pages == self.shared.plan.total();
            if counted || !self.shared.plan.all_claimed() || Instant::now() >= until {
                return tally.digest;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn send(&mut self, message: &ToDestination) {
        // A part of a message may be out: what follows would not be understood, and would be waited for.
        if self.unheard {
            return;
        }
        if let Err(error) = self.writer.write_all(&message.encode()) {
            self.unheard = true;
            self.handle(SourceEvent::LinkLost(error.to_string()));
        }
    }

    fn open_pages(&mut self) -> Result<(), String> {
        if self.pages.is_none() {
            self.pages = Some(self.session.open_pages(self.shared, self.options.bulk_lanes)?);
        }
        Ok(())
    }

    fn stop_guest(&mut self) {
        // Threads take their time to start: not while the guest stands still.
        let stopped = self.start_workers().and_then(|()| {
            self.latency.begin();
            self.shared.vm.stop()
        });
        let stopped = stopped.and_then(|guest| {
            self.stopped = true;
            self.engine.note_stop(self.shared.meter.at(guest.stopped_at));
            for (name, length) in &guest.parts {
                self.shared.meter.part(name, *length);
            }
            self.stop_ended = Some(Instant::now());
            self.ram = Some(guest.ram);
            if self.live.is_none() {
                // Before the state: a guest whose first pages come after it stands still for longer.
                self.start_demand(guest.working_set)?;
            }
            Ok(guest.package)
        });
        self.handle(SourceEvent::Stopped(stopped));
    }

    fn sender(&self) -> Option<PageSender> {
        let (plan, departures) = (self.shared.plan.clone(), self.shared.departures.clone());
        let packs = self.shared.packs.clone();
        Some(PageSender { ram: self.ram.clone()?, plan, departures, packs })
    }

    /// What a lane's thread reports when its lane ends.
    fn lane_ended(
        &self,
        name: &'static str,
    ) -> impl FnOnce(Result<(), LaneError>) + Send + 'static {
        let events = self.events.clone();
        move |result| {
            if let Err(error) = result {
                let _ = events.send(Event::LaneLost(format!("{name} connection: {error}")));
            }
        }
    }

    /// Puts threads into the bulk connections, if that was not done yet.
    pub(super) fn start_workers(&mut self) -> Result<(), String> {
        let Some(PageLanes { demand, bulk }) = self.pages.take() else {
            return match self.workers.count() {
                0 => Err("no connection for pages".to_owned()),
                _ => Ok(()),
            };
        };
        self.demand = Some(demand);
        let packing = Packing::new(self.options.compression, self.features);
        let new = |live: &Arc<Live>| {
            RoundSender::new(live.clone(), self.shared, &self.options, self.features)
        };
        let rounds = self.live.as_ref().map(new);
        let each = LaneParts { rounds, packing, window: u64::from(self.credit_bytes) };
        self.workers = Workers::start(self.shared, &each, bulk, self.events)
            .map_err(|error| format!("no thread: {error}"))?;
        Ok(())
    }

    /// Sends these pages at once and answers requests from now on: the guest stands still, and the plan
    /// knows what is left to send.
    pub(super) fn start_demand(&mut self, ahead: Vec<PageIndex>) -> Result<(), String> {
        let Some((demand, sender)) = self.demand.take().zip(self.sender()) else { return Ok(()) };
        let ended = self.lane_ended("demand");
        let shared = self.shared.clone();
        let serve = move || {
            run_promptly();
            let mut demand = demand;
            if shared.gate.is_on()
                && let Err(error) = sender.send_ahead(&mut *demand.writer, &ahead)
            {
                return ended(Err(error));
            }
            let mut go_on = || shared.gate.pass(0);
            ended(sender.serve_demand(demand, &mut go_on));
        };
        self.shared.lanes.spawn("demand-out", serve).map_err(|error| format!("no thread: {error}"))
    }

    fn hand_over(&mut self, since_stop: Duration) {
        if let Some(live) = self.live.as_ref().filter(|_| self.demand.is_some()) {
            // Moved by precopy: nothing is left to be asked for.
            self.shared.plan.leave(live.pending());
        }
        self.shared.vm.handover_begun();
        publish(self.shared, SourceState::HandoverUnknown, None);
        self.handover_at = Some(Instant::now());
        let since_stop_ns = u64::try_from(since_stop.as_nanos()).unwrap_or(u64::MAX);
        self.send(&ToDestination::Handover { since_stop_ns });
    }

    fn start_background(&mut self) {
        let downtime = self.engine.since_stop(self.shared.meter.now());
        self.shared.meter.downtime(downtime);
        self.shared.meter.handed_over();
        self.shared.vm.handed_over();
        // Before a thread of it can pass.
        self.shared.background.begin_in(HEAD_START);
        if let Some(sender) = self.sender() {
            self.workers.serve(&sender);
        }
    }

    fn inquire(&mut self) {
        let (shared, events) = (self.shared.clone(), self.events.clone());
        let session = self.session;
        let ask = move || {
            let answer = SourceEvent::Answer(session.inquire(&shared));
            let _ = events.send(Event::Engine(answer));
        };
        // Not one of the lanes: those are closed.
        if let Err(error) = std::thread::Builder::new().name("inquiry".to_owned()).spawn(ask) {
            self.handle(SourceEvent::Answer(Err(format!("no thread: {error}"))));
        }
    }
}
