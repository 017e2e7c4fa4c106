//! The destination's side of a migration: one session, from its control connection on.
//!
//! | state | guest here | left when |
//! |---|---|---|
//! | `Describing` | none | the description comes |
//! | `Checking` | none | the machine is compared, memory admitted |
//! | `Receiving` | none | BEGIN-PAGE-SERVICE is read, or STATE-LENGTH for a last round |
//! | `Switching` | none | page service is up |
//! | `Loading` | none | the device state is here, the last round is placed, and it is loaded |
//! | `Prepared` | ready | HANDOVER is read |
//! | `Starting` | ours | it runs (without page service: `Complete`), or cannot |
//! | `Running` | runs | all pages are here, or the link is lost |
//! | `Complete` | runs | the source agrees on the digest, or the link is lost |
//! | `Agreed` | runs, needs nobody | never |
//! | `Stranded` | runs, but for what touches a missing page | never |
//! | `Dead` | none, ever | never |
//!
//! An inquiry in a state before `Starting` is answered *never got it*, and makes that true: the
//! session is dead, whatever may still come on its connections.

mod arrival;
mod ending;

use crate::Now;
use arrival::{LastRound, Package};
use std::collections::VecDeque;
use std::time::Duration;
use umem_wire::{MachineDescription, Mode, Ownership, ToDestination, ToSource};

/// Longest wait for the source's next step before the handover, while it is connected; not between
/// rounds, which take as long as they take.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Where the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationState {
    /// Nothing has come yet.
    Describing,
    /// The machine looks at the description.
    Checking,
    /// Rounds of pages come in, if any do.
    Receiving,
    /// Page service comes up.
    Switching,
    /// Device state is awaited, coming in, or being loaded.
    Loading,
    /// The guest could run.
    Prepared,
    /// HANDOVER was read: the guest is ours, and is being started.
    Starting,
    /// It runs; pages are missing.
    Running,
    /// It runs; all pages are here.
    Complete,
    /// It runs; both ends agree that all pages are here.
    Agreed,
    /// It runs; the link was lost while pages were missing.
    Stranded,
    /// It will never run here.
    Dead(Ownership),
}

/// What happens to the destination.
#[derive(Debug, Clone)]
pub enum DestinationEvent {
    /// A message came.
    Message(ToDestination),
    /// Result of [`DestinationAction::Check`].
    Checked(Result<(), String>),
    /// All bulk connections have read the end of this round, and all its pages are in place.
    RoundPlaced {
        /// Its number.
        round: u32,
        /// Over all copies placed and all pages discarded so far.
        digest: u128,
    },
    /// Result of [`DestinationAction::Discard`].
    Discarded(Result<(), String>),
    /// Result of [`DestinationAction::BeginPageService`].
    PageService(Result<(), String>),
    /// Result of [`DestinationAction::Load`].
    Loaded(Result<(), String>),
    /// Result of [`DestinationAction::Run`].
    Started(Result<(), String>),
    /// All pages are here: with page service, at [`DestinationAction::Run`] when none is missing, or
    /// when the last one has come.
    AllPages {
        /// Over all of them.
        digest: u128,
    },
    /// The guest was reset or switched off: what its memory held matters no more.
    MemoryVoid(String),
    /// The connection is lost, or what came on it makes no sense.
    LinkLost(String),
    /// Somebody who knows the session's secret asks who runs the guest.
    Inquired,
    /// Nothing but the time.
    Tick,
}

/// What the destination's surroundings are to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationAction {
    /// Send on the control channel.
    Send(ToSource),
    /// Compare the machine with ours, admit its memory; report `Checked`.
    Check {
        /// The source's machine.
        machine: MachineDescription,
        /// Bulk connections that the source will open.
        bulk_lanes: u8,
        /// When pages will come.
        mode: Mode,
    },
    /// Take the pages out again whose bits are set; report `Discarded`.
    Discard {
        /// The page of the first bit.
        start: u64,
        /// A bit a page, from the low bits of each byte up.
        bits: Vec<u8>,
    },
    /// Watch all pages that are not in place, and be ready to fetch them; report `PageService`.
    BeginPageService,
    /// Load the device state; report `Loaded`. Without page service it is refused when a page is
    /// missing.
    Load(Vec<u8>),
    /// Take over disks and run the guest; report `Started`.
    Run {
        /// Time from the guest's stop to the handover, by the source's clock.
        since_stop: Duration,
    },
    /// All pages are here: take page service down.
    PagesComplete,
    /// Answer an inquiry.
    Answer(Ownership),
    /// Forget what came of the guest; be as before the session.
    Abandon,
    /// Close all connections of the session.
    Close,
}

/// The destination's state machine.
#[derive(Debug)]
pub struct Destination {
    state: DestinationState,
    actions: VecDeque<DestinationAction>,
    error: Option<String>,
    deadline: Option<Now>,
    mode: Mode,
    /// The newest round that is placed.
    placed: LastRound,
    /// Discards whose result is not known.
    discarding: u32,
    /// Whether missing pages are watched.
    page_service: bool,
    /// Device state as far as it has come; it stays, empty, while it is loaded.
    package: Option<Package>,
    inquirers: u32,
    /// The digest over all pages, if all are here before the guest runs.
    all_early: Option<u128>,
    /// Why the connection is lost, while the guest is being started.
    lost: Option<String>,
    verified: bool,
    /// The guest's memory was given up while pages of it were missing.
    void: bool,
    credit_bytes: u32,
}

impl Destination {
    /// A session whose control connection is open. `credit_bytes`: what may be under way on each bulk
    /// connection.
    #[must_use]
    pub fn new(now: Now, credit_bytes: u32) -> Self {
        Self {
            state: DestinationState::Describing,
            actions: VecDeque::new(),
            error: None,
            deadline: Some(now + STEP_WITHIN),
            mode: Mode::POSTCOPY,
            placed: LastRound::default(),
            discarding: 0,
            page_service: false,
            package: None,
            inquirers: 0,
            all_early: None,
            lost: None,
            verified: false,
            void: false,
            credit_bytes,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> DestinationState {
        self.state
    }

    /// What went wrong, if something did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether both ends agreed on the digest over all pages.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.verified
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<DestinationAction> {
        self.actions.pop_front()
    }

    /// When [`DestinationEvent::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    fn act(&mut self, action: DestinationAction) {
        self.actions.push_back(action);
    }

    fn step(&mut self, now: Now, state: DestinationState) {
        self.state = state;
        self.deadline = Some(now + STEP_WITHIN);
    }

    /// Takes an event.
    pub fn handle(&mut self, now: Now, event: DestinationEvent) {
        match event {
            DestinationEvent::Message(message) => self.message(now, message),
            DestinationEvent::Checked(result) => self.checked(now, result),
            DestinationEvent::RoundPlaced { round, digest } => self.round_placed(round, digest),
            DestinationEvent::Discarded(result) => self.discarded(result),
            DestinationEvent::PageService(result) => self.page_service(now, result),
            DestinationEvent::Loaded(result) => self.loaded(now, result),
            DestinationEvent::Started(result) => self.started(result),
            DestinationEvent::AllPages { digest } => self.all_pages(digest),
            DestinationEvent::MemoryVoid(why) => self.memory_void(why),
            DestinationEvent::LinkLost(why) => self.link_lost(why),
            DestinationEvent::Inquired => self.inquired(),
            DestinationEvent::Tick => self.tick(now),
        }
    }

    fn message(&mut self, now: Now, message: ToDestination) {
        use DestinationState::{
            Checking, Complete, Describing, Loading, Prepared, Receiving, Switching,
        };
        match (self.state, message) {
            (DestinationState::Dead(_), _) => {}
            (Describing, ToDestination::Describe { machine, bulk_lanes, mode }) => {
                self.step(now, Checking);
                self.mode = mode;
                self.act(DestinationAction::Check { machine, bulk_lanes, mode });
            }
            (Receiving | Loading, ToDestination::Discard { start, bits }) if self.may_discard() => {
                self.discarding += 1;
                self.act(DestinationAction::Discard { start, bits });
            }
            (Receiving, ToDestination::BeginPageService) if self.mode.postcopy => {
                self.step(now, Switching);
                self.act(DestinationAction::BeginPageService);
            }
            (Receiving | Loading, ToDestination::StateLength { bytes, after_round }) => {
                self.state_length(now, bytes, after_round);
            }
            (Loading, ToDestination::StatePiece(piece)) => self.piece(&piece),
            (Prepared, ToDestination::Handover { since_stop_ns }) => {
                // From here on the guest is ours.
                self.state = DestinationState::Starting;
                self.deadline = None;
                self.act(DestinationAction::Run {
                    since_stop: Duration::from_nanos(since_stop_ns),
                });
            }
            (Complete, ToDestination::DigestAgreed) => {
                self.verified = !self.void;
                self.state = DestinationState::Agreed;
                self.act(DestinationAction::Close);
            }
            (Complete, ToDestination::DigestDiffers { digest }) => {
                self.error = Some(format!(
                    "the source sent other pages than arrived here (its digest is {digest:032x}): \
                     the guest's memory must not be trusted"
                ));
                self.state = DestinationState::Stranded;
                self.act(DestinationAction::Close);
            }
            (
                Describing | Checking | Receiving | Switching | Loading | Prepared,
                ToDestination::Cancel(why),
            ) => {
                self.die(format!("the source gave up: {why}"), Ownership::NeverGotIt);
            }
            (state, message) => {
                self.link_lost(format!(
                    "the source says {} at the wrong time ({state:?})",
                    name(&message)
                ));
            }
        }
    }
}

fn name(message: &ToDestination) -> &'static str {
    match message {
        ToDestination::Describe { .. } => "DESCRIBE",
        ToDestination::StateLength { .. } => "STATE-LENGTH",
        ToDestination::StatePiece(_) => "STATE-PIECE",
        ToDestination::Handover { .. } => "HANDOVER",
        ToDestination::DigestAgreed => "DIGEST-AGREED",
        ToDestination::DigestDiffers { .. } => "DIGEST-DIFFERS",
        ToDestination::Cancel(_) => "CANCEL",
        ToDestination::WhoRuns => "WHO-RUNS",
        ToDestination::Discard { .. } => "DISCARD",
        ToDestination::BeginPageService => "BEGIN-PAGE-SERVICE",
    }
}
