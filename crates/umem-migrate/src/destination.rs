//! The destination's side of a migration: one session, from its control connection on.
//!
//! | state | guest here | left when |
//! |---|---|---|
//! | `Describing` | none | the description comes |
//! | `Checking` | none | the machine is compared, memory admitted, page service up |
//! | `Loading` | none | the device state is here and loaded |
//! | `Prepared` | ready | HANDOVER is read |
//! | `Starting` | ours | it runs, or cannot |
//! | `Running` | runs | all pages are here, or the link is lost |
//! | `Complete` | runs | the source agrees on the digest, or the link is lost |
//! | `Agreed` | runs, needs nobody | never |
//! | `Stranded` | runs, but for what touches a missing page | never |
//! | `Dead` | none, ever | never |
//!
//! An inquiry in a state before `Starting` is answered *never got it*, and makes that true: the
//! session is dead, whatever may still come on its connections.

use crate::Now;
use std::collections::VecDeque;
use std::time::Duration;
use umem_wire::{MachineDescription, Ownership, ToDestination, ToSource};

/// Longest wait for the source's next step before the handover, while it is connected.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Where the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationState {
    /// Nothing has come yet.
    Describing,
    /// The machine looks at the description.
    Checking,
    /// Device state is coming in, or being loaded.
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
    /// Result of [`DestinationAction::Load`].
    Loaded(Result<(), String>),
    /// Result of [`DestinationAction::Run`].
    Started(Result<(), String>),
    /// All pages are here.
    AllPages {
        /// Over all of them.
        digest: u128,
    },
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
    /// Compare the machine with ours, admit its memory, bring page service up; report `Checked`.
    Check {
        /// The source's machine.
        machine: MachineDescription,
        /// Bulk connections that the source will open.
        bulk_lanes: u8,
    },
    /// Load the device state; report `Loaded`.
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
    package: Option<(u64, Vec<u8>)>,
    inquirers: u32,
    /// Why the connection is lost, while the guest is being started.
    lost: Option<String>,
    verified: bool,
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
            package: None,
            inquirers: 0,
            lost: None,
            verified: false,
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
            DestinationEvent::Loaded(result) => self.loaded(now, result),
            DestinationEvent::Started(result) => self.started(result),
            DestinationEvent::AllPages { digest } => self.all_pages(digest),
            DestinationEvent::LinkLost(why) => self.link_lost(why),
            DestinationEvent::Inquired => self.inquired(),
            DestinationEvent::Tick => self.tick(now),
        }
    }

    fn message(&mut self, now: Now, message: ToDestination) {
        use DestinationState::{Complete, Describing, Loading, Prepared};
        match (self.state, message) {
            (DestinationState::Dead(_), _) => {}
            (Describing, ToDestination::Describe { machine, bulk_lanes }) => {
                self.step(now, DestinationState::Checking);
                self.act(DestinationAction::Check { machine, bulk_lanes });
            }
            (Loading, ToDestination::StateLength { bytes }) if self.package.is_none() => {
                self.package = Some((bytes, Vec::new()));
                self.piece(&[]);
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
                self.verified = true;
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
                Describing | DestinationState::Checking | Loading | Prepared,
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

    fn checked(&mut self, now: Now, result: Result<(), String>) {
        if self.state != DestinationState::Checking {
            return;
        }
        match result {
            Ok(()) => {
                self.step(now, DestinationState::Loading);
                let credit_bytes = self.credit_bytes;
                self.act(DestinationAction::Send(ToSource::Ready { credit_bytes }));
            }
            Err(why) => self.refuse(why),
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        let Some((bytes, mut package)) = self.package.take() else {
            return self.link_lost("the source sends device state without its length".to_owned());
        };
        if package.len() as u64 + piece.len() as u64 > bytes {
            return self.link_lost(format!("more device state than the {bytes} bytes announced"));
        }
        package.extend_from_slice(piece);
        if package.len() as u64 == bytes {
            self.act(DestinationAction::Load(package));
        } else {
            self.package = Some((bytes, package));
        }
    }

    fn loaded(&mut self, now: Now, result: Result<(), String>) {
        if self.state != DestinationState::Loading {
            return;
        }
        match result {
            Ok(()) => {
                self.step(now, DestinationState::Prepared);
                self.act(DestinationAction::Send(ToSource::Prepared));
            }
            Err(why) => self.refuse(why),
        }
    }

    fn started(&mut self, result: Result<(), String>) {
        if self.state != DestinationState::Starting {
            return;
        }
        let owner = match result {
            Ok(()) => {
                self.state = DestinationState::Running;
                self.act(DestinationAction::Send(ToSource::Running));
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

    fn all_pages(&mut self, digest: u128) {
        match self.state {
            DestinationState::Running => {
                self.state = DestinationState::Complete;
                self.act(DestinationAction::PagesComplete);
                self.act(DestinationAction::Send(ToSource::Complete { digest }));
            }
            DestinationState::Stranded => self.act(DestinationAction::PagesComplete),
            _ => {}
        }
    }

    fn link_lost(&mut self, why: String) {
        match self.state {
            DestinationState::Describing
            | DestinationState::Checking
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

    fn inquired(&mut self) {
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

    fn tick(&mut self, now: Now) {
        if self.deadline.is_some_and(|at| now >= at) {
            self.deadline = None;
            self.link_lost(format!("no next step within {} s", STEP_WITHIN.as_secs()));
        }
    }

    fn refuse(&mut self, why: String) {
        self.act(DestinationAction::Send(ToSource::Refused(why.clone())));
        self.die(why, Ownership::NeverGotIt);
    }

    fn die(&mut self, why: String, answer: Ownership) {
        self.error = Some(why);
        self.state = DestinationState::Dead(answer);
        self.deadline = None;
        self.package = None;
        self.act(DestinationAction::Abandon);
        self.act(DestinationAction::Close);
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
    }
}
