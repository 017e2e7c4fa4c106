//! The source's end of a migration.

mod background;
mod lanes;
mod run;

use crate::host::SourceVm;
use crate::lane::Departures;
use crate::lanes::Lanes;
use crate::meter::Meter;
use crate::status::{End, FaultLatency, MigrationStatus, PageCounts};
use crate::uri::Endpoint;
use crate::wake::Wake;
use background::Background;
use crossbeam_channel::Sender;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use umem_migrate::{Operator, Prefault, SendPlan, SourceEvent, SourceState};

/// Longest wait of a monitor for the migration's thread.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How a guest is to be moved.
#[derive(Debug, Clone, Copy)]
pub struct SourceOptions {
    /// Pages sent along with demanded ones.
    pub prefault: Prefault,
    /// Whether the background sends.
    pub background: bool,
    /// Connections for the background, at least 1.
    pub bulk_lanes: u8,
    /// Bytes a second that the background may send over all of them; 0 is no limit. Demanded pages
    /// and their neighbours are never limited.
    pub bandwidth: u64,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { prefault: Prefault::default(), background: true, bulk_lanes: 1, bandwidth: 0 }
    }
}

/// What happens to the migration's thread.
enum Event {
    /// Something for the state machine.
    Engine(SourceEvent),
    /// A monitor's wish, to be answered.
    Ask(SourceEvent, Sender<Result<(), String>>),
    /// A connection for pages has ended, for this reason.
    LaneLost(String),
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
    background: Background,
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
            background: Background::new(options.background, options.bandwidth),
            wake: Wake::new()?,
            ending: Wake::new()?,
            cancelled: AtomicBool::new(false),
            state: Mutex::new(None),
            verified: AtomicBool::new(false),
        });
        let (events, inbox) = crossbeam_channel::unbounded();
        let (theirs, sender) = (shared.clone(), events.clone());
        std::thread::Builder::new().name("migration".to_owned()).spawn(move || {
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
        MigrationStatus {
            end: End::Source,
            phase: reading.phase.to_owned(),
            mode: "postcopy".to_owned(),
            peer: Some(shared.peer.to_string()),
            total_ms: reading.total_ms,
            drain_ms: reading.drain_ms,
            downtime: reading.downtime,
            pages: PageCounts {
                demand: count(&departures.demand),
                prefault: count(&departures.prefault),
                background: count(&departures.background),
                fill: count(&departures.fill),
                duplicate: 0,
                total: shared.plan.total(),
                remaining: shared.plan.remaining(),
            },
            faults: FaultLatency::default(),
            waiting_for: Vec::new(),
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
        use SourceState::{Describing, Opening, Preparing, Stopping};
        // First: the thread looks at it after it has published its first state, and before it stops
        // the guest.
        self.shared.cancelled.store(true, Ordering::Release);
        match self.state() {
            None => {
                self.shared.wake.set();
                Ok(())
            }
            Some(Describing | Opening | Stopping | Preparing) => {
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

    /// Limits the background to so many bytes a second from now on; 0 is no limit.
    pub fn set_bandwidth(&self, bytes_a_second: u64) {
        self.shared.background.limit(bytes_a_second);
    }

    /// Ends all connections, at once, without a word: the process is ending.
    pub fn abandon(&self) {
        self.shared.wake.set();
        self.shared.ending.set();
        self.shared.background.end();
        self.shared.lanes.close();
        let _ = self.events.send(Event::Abandoned);
    }
}
