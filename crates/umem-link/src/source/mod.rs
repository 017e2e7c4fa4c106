//! The source's end of a migration.

mod copies;
mod lanes;
mod live;
mod pacer;
mod round;
mod rounds;
mod run;
mod workers;

use crate::host::SourceVm;
use crate::lane::{Departures, PackCounts};
use crate::lanes::{Lanes, Ticket};
use crate::latency::LowLatency;
use crate::meter::{Meter, milliseconds};
use crate::status::{
    End, FaultLatency, MigrationStatus, PackedStatus, PageCounts, RoundsStatus, word,
};
use crate::uri::Endpoint;
use crate::wake::Wake;
use crossbeam_channel::Sender;
use live::Live;
use pacer::Pacer;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use umem_migrate::{
    Compression, Differences, Operator, Prefault, RoundsView, SendPlan, SourceEvent, SourceState,
    Strategy,
};

/// Longest wait of a monitor for the migration's thread.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Copies of sent pages that are kept where nothing else is said, bytes; as QEMU's `xbzrle-cache-size`.
const COPIES_BYTES: u64 = 64 << 20;

/// Connections for the background: one with a thread's whole share of the CPU at each end, one that takes what is
/// left. `docs/decisions/0017` has what it was chosen by.
pub const BULK_LANES: u8 = 2;

/// How a guest is to be moved.
#[derive(Debug, Clone, Copy)]
pub struct SourceOptions {
    /// Rounds of precopy, and what follows them.
    pub strategy: Strategy,
    /// Pages sent along with demanded ones.
    pub prefault: Prefault,
    /// Whether the background sends.
    pub background: bool,
    /// Connections for the background, at least 1; [`BULK_LANES`] where nobody says otherwise.
    pub bulk_lanes: u8,
    /// Bytes a second that the background may send over all of them; 0 is no limit. Demanded pages
    /// and their neighbours are never limited.
    pub bandwidth: u64,
    /// The same for rounds of precopy, as long as the guest runs.
    pub rounds_bandwidth: u64,
    /// Whether pages are packed, and how, where the destination can unpack them.
    pub compression: Compression,
    /// Whether pages that a round sends again go as their difference from the copy sent before.
    pub differences: Differences,
    /// Bytes of such copies that are kept at most.
    pub copies_bytes: u64,
    /// Whether this host's CPUs are kept from sleeping from the stop on.
    pub low_latency: LowLatency,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            strategy: Strategy::POSTCOPY,
            prefault: Prefault::default(),
            background: true,
            bulk_lanes: BULK_LANES,
            bandwidth: 0,
            rounds_bandwidth: 0,
            compression: Compression::Auto,
            differences: Differences::Auto,
            copies_bytes: COPIES_BYTES,
            low_latency: LowLatency::default(),
        }
    }
}

/// What happens to the migration's thread.
enum Event {
    /// Something for the state machine.
    Engine(SourceEvent),
    /// The same, from the peer's control connection.
    Heard(SourceEvent, Ticket),
    /// A monitor's wish, to be answered.
    Ask(SourceEvent, Sender<Result<(), String>>),
    /// A connection for pages has ended, for this reason.
    LaneLost(String),
    /// A connection has sent its share of a round, or cannot.
    Share(u32, Result<round::Share, String>),
    /// Pages are held back, or not any more.
    Held,
    /// Another limit for the guest's standing still.
    DowntimeLimit(Duration),
    /// The process is ending.
    Abandoned,
}

/// What everybody may see of a migration while its thread runs it.
struct Shared {
    peer: Endpoint,
    vm: Arc<dyn SourceVm>,
    meter: Meter,
    lanes: Lanes,
    plan: Arc<SendPlan>,
    departures: Arc<Departures>,
    packs: Arc<PackCounts>,
    strategy: Strategy,
    background: Pacer,
    rounds: Pacer,
    /// Off while the operator holds all pages back.
    gate: Pacer,
    /// While the guest's pages are sent in rounds, and after.
    live: Mutex<Option<Arc<Live>>>,
    rounds_view: Mutex<Option<RoundsView>>,
    /// Ends attempts to connect, but those to ask.
    wake: Wake,
    /// Ends attempts to ask: set only when the process is ending.
    ending: Wake,
    cancelled: AtomicBool,
    state: Mutex<Option<SourceState>>,
    verified: AtomicBool,
}

/// A migration away from here, from its start on. Dropping it leaves it running.
pub struct SourceSession {
    shared: Arc<Shared>,
    events: Sender<Event>,
}

impl std::fmt::Debug for SourceSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceSession").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

impl SourceSession {
    /// Starts to move a guest.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(
        peer: Endpoint,
        vm: Arc<dyn SourceVm>,
        layout: umem_memory::RamLayout,
        options: SourceOptions,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            peer,
            vm,
            meter: Meter::new("setup"),
            lanes: Lanes::default(),
            plan: Arc::new(SendPlan::new(layout, options.prefault)),
            departures: Arc::default(),
            packs: Arc::default(),
            strategy: options.strategy,
            background: Pacer::new(options.background, options.bandwidth),
            rounds: Pacer::new(true, options.rounds_bandwidth),
            gate: Pacer::new(true, 0),
            live: Mutex::new(None),
            rounds_view: Mutex::new(None),
            wake: Wake::new()?,
            ending: Wake::new()?,
            cancelled: AtomicBool::new(false),
            state: Mutex::new(None),
            verified: AtomicBool::new(false),
        });
        let (events, inbox) = crossbeam_channel::unbounded();
        let (theirs, sender) = (shared.clone(), events.clone());
        std::thread::Builder::new().name("migration".to_owned()).spawn(move || {
            // The phase that it begins with is told as those that follow.
            theirs.vm.phase_changed("setup");
            run::run(&theirs, &sender, &inbox, options);
        })?;
        Ok(Self { shared, events })
    }

    /// Where the state machine is; `None` while connecting.
    #[must_use]
    pub fn state(&self) -> Option<SourceState> {
        *self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn ended(&self) -> bool {
        use SourceState::{Failed, Released, Stranded};
        matches!(self.state(), Some(Failed | Released | Stranded))
    }

    /// What it looks like now.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        let shared = &*self.shared;
        let wire_bytes = shared.lanes.counts().total();
        let reading = shared.meter.read(wire_bytes);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let departures = &shared.departures;
        let tally = departures.tally();
        let verified = shared.verified.load(Ordering::Acquire);
        let live = shared.live();
        let precopy = live.as_ref().map_or(0, |live| live.sent());
        // Until the switch the plan does not know what was sent.
        let remaining = match live.filter(|_| !shared.handed_over()) {
            Some(live) => live.pending().count(),
            None => shared.plan.remaining(),
        };
        MigrationStatus {
            end: End::Source,
            phase: reading.phase.to_owned(),
            mode: word(shared.strategy.mode()).to_owned(),
            peer: Some(shared.peer.to_string()),
            total_ms: reading.total_ms,
            setup_ms: reading.setup_ms,
            drain_ms: reading.drain_ms,
            downtime: reading.downtime,
            pages: PageCounts {
                demand: count(&departures.demand),
                prefault: count(&departures.prefault),
                background: count(&departures.background),
                precopy,
                fill: count(&departures.fill),
                duplicate: 0,
                removed: count(&departures.removed),
                total: shared.plan.total(),
                remaining,
            },
            rounds: shared.rounds_status(),
            faults: FaultLatency::default(),
            waiting_for: Vec::new(),
            packed: PackedStatus::of(&shared.packs),
            wire_bytes,
            rate: reading.rate,
            verified,
            digest: verified.then(|| format!("{:032x}", tally.digest)),
            background: shared.background.is_on(),
            error: reading.error,
        }
    }

    fn ask(&self, event: SourceEvent) -> Result<(), String> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let gone = || "no migration is under way".to_owned();
        self.events.send(Event::Ask(event, answer)).map_err(|_| gone())?;
        match answered.recv_timeout(ANSWER_WITHIN) {
            Ok(result) => result,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(gone()),
            // The thread is busy stopping the guest; it does what was asked right after.
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Ok(()),
        }
    }

    /// Gives the migration up; the guest goes on here.
    ///
    /// # Errors
    /// When the handover has begun, or nothing is under way.
    pub fn cancel(&self) -> Result<(), String> {
        use SourceState::{Describing, Opening, Preparing, Rounds, Stopping, Switching};
        // First: the thread looks at it after it has published its first state, and before it stops
        // the guest.
        self.shared.cancelled.store(true, Ordering::Release);
        match self.state() {
            None => {
                self.shared.wake.set();
                Ok(())
            }
            Some(Describing | Opening | Rounds | Switching | Stopping | Preparing) => {
                self.shared.wake.set();
                let told = self.ask(SourceEvent::Cancel);
                // The thread may have seen the mark before the wish, and be gone.
                if self.shared.meter.is_in("cancelled") { Ok(()) } else { told }
            }
            Some(_) => self.ask(SourceEvent::Cancel),
        }
    }

    /// The operator's decision on a handover whose outcome cannot be learned.
    ///
    /// # Errors
    /// When the outcome is not in doubt.
    pub fn resolve(&self, operator: Operator) -> Result<(), String> {
        self.ask(SourceEvent::Resolve(operator))
    }

    /// Switches the background.
    pub fn set_background(&self, on: bool) {
        self.shared.background.switch(on);
    }

    /// Limits rounds of precopy to so many bytes a second from now on; 0 is no limit.
    pub fn set_rounds_bandwidth(&self, bytes_a_second: u64) {
        self.shared.rounds.limit(bytes_a_second);
    }

    /// How long the guest may stand still at the end of a precopy.
    pub fn set_downtime_limit(&self, limit: Duration) {
        let _ = self.events.send(Event::DowntimeLimit(limit));
    }

    /// Ends the rounds as soon as can be; postcopy begins. Fine as well when it has begun.
    ///
    /// # Errors
    /// When the migration was started without postcopy, or none is under way.
    pub fn start_postcopy(&self) -> Result<(), String> {
        self.ask(SourceEvent::StartPostcopy)
    }

    /// Holds all pages back while the guest runs at the destination: whatever touches a missing one
    /// waits until [`Self::go_on`]. The connections stay.
    ///
    /// # Errors
    /// In any other phase.
    pub fn pause(&self) -> Result<(), String> {
        if self.state() != Some(SourceState::Serving) {
            return Err("only a postcopy whose guest runs at the destination can be paused".into());
        }
        self.hold(true);
        Ok(())
    }

    /// Ends [`Self::pause`].
    ///
    /// # Errors
    /// When nothing is held back.
    pub fn go_on(&self) -> Result<(), String> {
        if self.ended() || self.shared.gate.is_on() {
            return Err("this migration is not paused".into());
        }
        self.hold(false);
        Ok(())
    }

    fn hold(&self, held: bool) {
        self.shared.gate.switch(!held);
        let _ = self.events.send(Event::Held);
    }

    /// Limits the background to so many bytes a second from now on; 0 is no limit.
    pub fn set_bandwidth(&self, bytes_a_second: u64) {
        self.shared.background.limit(bytes_a_second);
    }

    /// Ends all connections, at once, without a word: the process is ending.
    pub fn abandon(&self) {
        self.shared.wake.set();
        self.shared.ending.set();
        self.shared.end_pacers();
        self.shared.lanes.close();
        let _ = self.events.send(Event::Abandoned);
    }
}

impl Shared {
    fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the plan alone says what is left to send.
    fn handed_over(&self) -> bool {
        use SourceState::{Released, Serving, Stranded};
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(state, Some(Serving | Stranded | Released))
    }

    fn end_pacers(&self) {
        self.background.end();
        self.rounds.end();
        self.gate.end();
    }

    fn rounds_status(&self) -> Option<RoundsStatus> {
        let view = (*self.rounds_view.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(RoundsStatus {
            passes: view.passes,
            copies: self.departures.copies.load(Ordering::Relaxed),
            discarded: self.departures.discarded.load(Ordering::Relaxed),
            dirty_pages_rate: view.dirty_pages_rate as f64,
            send_rate: view.send_rate as f64,
            expected_downtime_ms: view.expected_downtime.map(milliseconds),
            throttle: view.throttle,
        })
    }
}
