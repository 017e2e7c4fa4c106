//! The destination's end: who comes in, and the session that takes the guest.

mod accept;
mod run;

use crate::channel::Channel;
use crate::host::DestinationVm;
use crate::lane::Arrivals;
use crate::lanes::{Lanes, Ticket};
use crate::latency::LowLatency;
use crate::meter::Meter;
use crate::socket::{ListenError, Listener};
use crate::status::{
    End, FaultLatency, MigrationStatus, PackedStatus, PageCounts, RoundsStatus, word,
};
use crate::uri::Endpoint;
use crate::wake::Wake;
use accept::Handshakes;
use crossbeam_channel::{RecvTimeoutError, Sender};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use umem_fault::{FaultPlane, FaultStats};
use umem_memory::RamLayout;
use umem_migrate::DestinationEvent;
use umem_wire::{Features, Mode, Ownership, Role, Secret, SessionId};

/// Bytes of bulk that may be under way unacknowledged on each lane.
const CREDIT_BYTES: u32 = 12 << 20;
/// Ended sessions whose outcome is remembered for those who ask.
const REMEMBERED: usize = 64;

/// How guests are taken in.
#[derive(Debug, Clone, Copy)]
pub struct DestinationOptions {
    /// Bytes of bulk that may be under way unacknowledged on each lane.
    pub credit_bytes: u32,
    /// Optional parts of the protocol that sources are told of.
    pub features: Features,
    /// Whether this host's CPUs are kept from sleeping, from when the guest's state comes.
    pub low_latency: LowLatency,
}

impl Default for DestinationOptions {
    fn default() -> Self {
        Self {
            credit_bytes: CREDIT_BYTES,
            features: Features::KNOWN,
            low_latency: LowLatency::default(),
        }
    }
}

/// What happens to the session's thread.
enum Event {
    /// Something for the state machine.
    Engine(DestinationEvent),
    /// The same, from the peer's control connection.
    Heard(DestinationEvent, Ticket),
    /// A connection for pages.
    Lane(Role, Channel),
    /// Somebody who knows the secret asks who runs the guest.
    Inquiry(Sender<Ownership>),
    /// The guest's memory matters no more, for this reason. The sender is dropped at the session's end.
    MemoryVoid(String, Sender<()>),
}

/// A session, as those who bring it connections see it.
struct Active {
    id: SessionId,
    secret: Secret,
    events: Sender<Event>,
}

#[derive(Default)]
struct Hub {
    active: Option<Active>,
    ended: Vec<(SessionId, Secret, Ownership)>,
    /// The guest has come: nobody else may.
    taken: bool,
    closed: bool,
}

/// What everybody may see.
struct Shared {
    vm: Arc<dyn DestinationVm>,
    layout: RamLayout,
    options: DestinationOptions,
    hub: Mutex<Hub>,
    wake: Wake,
    view: Mutex<View>,
    handshakes: Mutex<Handshakes>,
}

/// The newest session, or the waiting for one.
struct View {
    meter: Arc<Meter>,
    lanes: Lanes,
    arrivals: Arc<Arrivals>,
    plane: Option<Arc<FaultPlane>>,
    mode: Option<Mode>,
    peer: Option<String>,
    verified: bool,
}

impl View {
    fn waiting() -> Self {
        Self {
            meter: Arc::new(Meter::new("listening")),
            lanes: Lanes::default(),
            arrivals: Arc::default(),
            plane: None,
            mode: None,
            peer: None,
            verified: false,
        }
    }
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshakes(&self) -> MutexGuard<'_, Handshakes> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a guest and takes it in. A session that fails before the handover leaves it waiting for
/// the next.
pub struct DestinationListener {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    ended: Arc<AtomicBool>,
}

impl std::fmt::Debug for DestinationListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DestinationListener")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system.
    #[error("cannot take in a guest: {0}")]
    System(#[from] io::Error),
}

impl DestinationListener {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the address cannot be had, or the system has no thread or descriptor left.
    pub fn start(
        endpoint: &Endpoint,
        vm: Arc<dyn DestinationVm>,
        layout: RamLayout,
        options: DestinationOptions,
    ) -> Result<Self, StartError> {
        let listener = Listener::bind(endpoint)?;
        let endpoint = listener.endpoint().clone();
        let shared = Shared::new(vm, layout, options)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (theirs, end) = (shared.clone(), ended.clone());
        std::thread::Builder::new().name("incoming".to_owned()).spawn(move || {
            accept::accept(&theirs, listener);
            end.store(true, Ordering::Release);
        })?;
        Ok(Self { shared, endpoint, ended })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it looks like now.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        self.shared.status(&self.endpoint)
    }

    /// Requests for pages that were sent, and the pages in them.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        let view = self.shared.view();
        let requests = &view.arrivals.requests;
        (requests.frames.load(Ordering::Relaxed), requests.pages.load(Ordering::Relaxed))
    }

    /// The guest was reset or switched off while pages were missing: what its memory held matters no
    /// more. Tells the source, so that it keeps nothing; `true` when it has heard so within the time
    /// given, or nothing was missing.
    #[must_use]
    pub fn give_up_memory(&self, why: &str, within: Duration) -> bool {
        let (told, ended) = crossbeam_channel::bounded(0);
        let Some(events) = self.shared.hub().active.as_ref().map(|active| active.events.clone())
        else {
            return true;
        };
        if events.send(Event::MemoryVoid(why.to_owned(), told)).is_err() {
            return true;
        }
        drop(events);
        matches!(ended.recv_timeout(within), Err(RecvTimeoutError::Disconnected))
    }

    /// Ends everything, at once, without a word: the process is ending.
    pub fn abandon(&self) {
        self.shared.hub().closed = true;
        self.shared.wake.set();
        let (plane, lanes) = {
            let view = self.shared.view();
            (view.plane.clone(), view.lanes.clone())
        };
        lanes.close();
        // Threads that wait in the kernel for a page must be let go.
        if let Some(plane) = plane {
            plane.close();
        }
    }

    /// Whether nobody listens any more.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Shared {
    fn new(
        vm: Arc<dyn DestinationVm>,
        layout: RamLayout,
        options: DestinationOptions,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            vm,
            layout,
            options,
            hub: Mutex::default(),
            wake: Wake::new()?,
            view: Mutex::new(View::waiting()),
            handshakes: Mutex::default(),
        }))
    }

    fn status(&self, endpoint: &Endpoint) -> MigrationStatus {
        let view = self.view();
        let wire_bytes = view.lanes.counts().total();
        let reading = view.meter.read(wire_bytes);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arrivals = &view.arrivals;
        let tally = arrivals.tally();
        let mode = view.mode.unwrap_or(Mode::POSTCOPY);
        let after =
            count(&arrivals.demand) + count(&arrivals.prefault) + count(&arrivals.background);
        let rounds = mode.precopy.then(|| RoundsStatus {
            passes: arrivals.rounds.load(Ordering::Relaxed),
            copies: count(&arrivals.copies),
            discarded: count(&arrivals.discarded),
            ..RoundsStatus::default()
        });
        let faults = view.plane.as_ref().map(|plane| plane.stats()).unwrap_or_default();
        MigrationStatus {
            end: End::Destination,
            phase: reading.phase.to_owned(),
            mode: word(mode).to_owned(),
            peer: Some(view.peer.clone().unwrap_or_else(|| endpoint.to_string())),
            total_ms: reading.total_ms,
            setup_ms: reading.setup_ms,
            drain_ms: reading.drain_ms,
            downtime: reading.downtime,
            pages: PageCounts {
                demand: count(&arrivals.demand),
                prefault: count(&arrivals.prefault),
                background: count(&arrivals.background),
                precopy: tally.pages.saturating_sub(after),
                fill: count(&arrivals.fill),
                duplicate: count(&arrivals.duplicate),
                removed: 0,
                total: self.layout.total_pages(),
                remaining: self.layout.total_pages().saturating_sub(tally.pages),
            },
            rounds,
            faults: latency(faults),
            waiting_for: view.plane.as_ref().map_or_else(Vec::new, |plane| {
                plane.waiting().into_iter().map(|page| page.0).collect()
            }),
            packed: PackedStatus::of(&arrivals.packs),
            wire_bytes,
            rate: reading.rate,
            verified: view.verified,
            digest: view.verified.then(|| format!("{:032x}", tally.digest)),
            background: false,
            error: reading.error,
        }
    }
}

/// Nanoseconds as the plane counts, in microseconds as people read them.
pub(crate) fn latency(stats: FaultStats) -> FaultLatency {
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    FaultLatency {
        count: stats.count,
        mean: stats.mean / 1e3,
        p50: us(stats.p50),
        p90: us(stats.p90),
        p99: us(stats.p99),
        p999: us(stats.p999),
        max: us(stats.max),
        histogram: stats.histogram,
    }
}
