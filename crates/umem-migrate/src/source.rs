//! The source's side of a migration.
//!
//! | state | guest here | left when |
//! |---|---|---|
//! | `Describing` | runs | destination says *ready* |
//! | `Opening` | runs | demand and bulk connections are there |
//! | `Stopping` | stops | the machine has stopped and saved it |
//! | `Preparing` | stopped, ours | destination says *prepared* |
//! | `HandoverUnknown` | stopped, whose is unknown | destination says *running* or *refused* |
//! | `Inquiring` | stopped, whose is unknown | an answer comes, or the operator decides |
//! | `Serving` | never again | digests agree, or the link is lost |
//! | `Stranded` | never again | never (the pages stay) |
//! | `Released` | never again | never |
//! | `Failed` | ours, goes on as before | never |
//!
//! Everything that goes wrong before `HandoverUnknown` leads to `Failed`. The first byte of HANDOVER
//! given to the kernel is the point of no return: the action [`SourceAction::HandOver`] is issued in
//! the step that enters `HandoverUnknown`, and no later event leads back to `Failed` but the
//! destination's final word or the operator's.

use crate::Now;
use std::collections::VecDeque;
use std::time::Duration;
use umem_wire::{MachineDescription, Ownership, STATE_PIECE_BYTES, ToDestination, ToSource};

/// Longest wait for the destination's answer to the description.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for the guest's device state to be loaded.
const PREPARED_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for *running* before the source asks on a new connection.
const RUNNING_WITHIN: Duration = Duration::from_secs(10);
/// Time between two inquiries: at first, and at most.
const FIRST_INQUIRY: Duration = Duration::from_millis(50);
const SLOWEST_INQUIRY: Duration = Duration::from_secs(2);

/// Where the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// The description is sent.
    Describing,
    /// Further connections are being opened.
    Opening,
    /// The guest is being stopped.
    Stopping,
    /// The device state is sent.
    Preparing,
    /// HANDOVER is sent.
    HandoverUnknown,
    /// HANDOVER is sent and the connection is lost.
    Inquiring,
    /// The destination runs the guest and gets its pages.
    Serving,
    /// The destination runs the guest; the link was lost before it was known to have all pages.
    Stranded,
    /// The destination runs the guest and has all pages.
    Released,
    /// The guest stays here.
    Failed,
}

/// The operator's word on a handover whose outcome cannot be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The guest is ours: the destination is known not to run it.
    TakeBack,
    /// The guest is the destination's.
    GiveUp,
}

/// What happens to the source.
#[derive(Debug, Clone)]
pub enum SourceEvent {
    /// A message came.
    Message(ToSource),
    /// All connections are open, or why not.
    Opened(Result<(), String>),
    /// The guest has stopped and this is its state; or it could not, and goes on.
    Stopped(Result<Vec<u8>, String>),
    /// The connection is lost.
    LinkLost(String),
    /// An inquiry's answer, or why there is none.
    Answer(Result<Ownership, String>),
    /// Somebody gives the migration up.
    Cancel,
    /// The operator decides.
    Resolve(Operator),
    /// Nothing but the time.
    Tick,
}

/// What the source's surroundings are to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceAction {
    /// Send on the control channel.
    Send(ToDestination),
    /// Open the demand and bulk connections; report `Opened`.
    OpenLanes {
        /// Bytes of bulk that may be unacknowledged on each.
        credit_bytes: u32,
    },
    /// Stop the guest, save its state; report `Stopped`.
    StopGuest,
    /// Note that the guest's owner is unknown from here on, then send the handover.
    HandOver {
        /// Time since the guest stopped.
        since_stop: Duration,
    },
    /// The destination runs the guest: serve its pages, start the background.
    Serve,
    /// Ask on a connection of its own who runs the guest; report `Answer`.
    Inquire,
    /// The guest goes on here as before.
    TakeBack,
    /// Compare this digest with ours over all pages, then call [`Source::digest_compared`].
    CompareDigest(u128),
    /// The destination needs nothing from here any more.
    Release,
    /// Close all connections.
    Close,
}

/// The source's state machine.
#[derive(Debug)]
pub struct Source {
    state: SourceState,
    actions: VecDeque<SourceAction>,
    error: Option<String>,
    stopped_at: Option<Now>,
    /// When the present state ends by itself, or the next inquiry is due.
    deadline: Option<Now>,
    next_inquiry_after: Duration,
    inquiry_under_way: bool,
    verified: bool,
}

impl Source {
    /// Begins a migration of this machine over an open control connection.
    #[must_use]
    pub fn new(now: Now, machine: MachineDescription, bulk_lanes: u8) -> Self {
        let describe = ToDestination::Describe { machine, bulk_lanes };
        Self {
            state: SourceState::Describing,
            actions: VecDeque::from([SourceAction::Send(describe)]),
            error: None,
            stopped_at: None,
            deadline: Some(now + READY_WITHIN),
            next_inquiry_after: FIRST_INQUIRY,
            inquiry_under_way: false,
            verified: false,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> SourceState {
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

    /// Whether nothing will happen any more.
    #[must_use]
    pub fn ended(&self) -> bool {
        use SourceState::{Failed, Released, Stranded};
        matches!(self.state, Failed | Released | Stranded)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<SourceAction> {
        self.actions.pop_front()
    }

    /// When [`SourceEvent::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    fn act(&mut self, action: SourceAction) {
        self.actions.push_back(action);
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Only for [`SourceEvent::Cancel`] and [`SourceEvent::Resolve`]: why it cannot be done now.
    pub fn handle(&mut self, now: Now, event: SourceEvent) -> Result<(), String> {
        match event {
            SourceEvent::Message(message) => self.message(now, message),
            SourceEvent::Opened(result) => self.opened(result),
            SourceEvent::Stopped(result) => self.stopped(now, result),
            SourceEvent::LinkLost(why) => self.link_lost(now, why),
            SourceEvent::Answer(answer) => self.answer(now, answer),
            SourceEvent::Cancel => return self.cancel(),
            SourceEvent::Resolve(operator) => return self.resolve(operator),
            SourceEvent::Tick => self.tick(now),
        }
        Ok(())
    }

    fn message(&mut self, now: Now, message: ToSource) {
        use SourceState::{Describing, HandoverUnknown, Preparing, Serving};
        match (self.state, message) {
            (Describing, ToSource::Ready { credit_bytes }) => {
                self.state = SourceState::Opening;
                self.deadline = None;
                self.act(SourceAction::OpenLanes { credit_bytes });
            }
            (
                Describing | SourceState::Opening | SourceState::Stopping | Preparing,
                ToSource::Refused(why),
            ) => {
                self.fail(format!("the destination refuses the guest: {why}"));
            }
            (Preparing, ToSource::Prepared) => {
                self.state = HandoverUnknown;
                self.deadline = Some(now + RUNNING_WITHIN);
                let since_stop = self.since_stop(now);
                self.act(SourceAction::HandOver { since_stop });
            }
            (HandoverUnknown, ToSource::Running) => self.serve(),
            (HandoverUnknown, ToSource::HandoverRefused(why)) => {
                self.take_back(format!("the destination cannot run the guest: {why}"));
            }
            (Serving, ToSource::Complete { digest }) => {
                self.act(SourceAction::CompareDigest(digest));
            }
            (Serving, ToSource::Trouble(why)) => {
                self.error = Some(format!("the destination reports: {why}"));
            }
            (state, message) => {
                let what = format!(
                    "the destination says {} at the wrong time ({state:?})",
                    name(&message)
                );
                self.link_lost(now, what);
            }
        }
    }

    fn opened(&mut self, result: Result<(), String>) {
        if self.state != SourceState::Opening {
            return;
        }
        match result {
            Ok(()) => {
                self.state = SourceState::Stopping;
                self.act(SourceAction::StopGuest);
            }
            Err(why) => self.fail(why),
        }
    }

    fn stopped(&mut self, now: Now, result: Result<Vec<u8>, String>) {
        match (self.state, result) {
            (SourceState::Stopping, Ok(package)) => {
                self.stopped_at.get_or_insert(now);
                self.state = SourceState::Preparing;
                self.deadline = Some(now + PREPARED_WITHIN);
                self.act(SourceAction::Send(ToDestination::StateLength {
                    bytes: package.len() as u64,
                }));
                for piece in package.chunks(STATE_PIECE_BYTES) {
                    self.act(SourceAction::Send(ToDestination::StatePiece(piece.to_vec())));
                }
            }
            (SourceState::Stopping, Err(why)) => {
                self.fail(format!("the guest could not be stopped for the move: {why}"));
            }
            // Given up while the guest was being stopped: `fail` has asked for its going on already.
            _ => {}
        }
    }

    /// When the guest stopped, by its own machine's account; before `Stopped`.
    pub fn note_stop(&mut self, at: Now) {
        self.stopped_at = Some(at);
    }

    /// How long the guest has stood still; zero before it stops.
    #[must_use]
    pub fn since_stop(&self, now: Now) -> Duration {
        self.stopped_at.map_or(Duration::ZERO, |at| now.saturating_sub(at))
    }

    fn serve(&mut self) {
        self.state = SourceState::Serving;
        self.deadline = None;
        self.act(SourceAction::Serve);
    }

    fn link_lost(&mut self, now: Now, why: String) {
        match self.state {
            SourceState::HandoverUnknown => {
                self.error = Some(format!(
                    "the connection was lost during the handover ({why}); asking the destination who runs the guest"
                ));
                self.state = SourceState::Inquiring;
                self.act(SourceAction::Close);
                self.inquire(now);
            }
            SourceState::Serving => {
                self.error = Some(format!(
                    "the connection was lost before the destination had confirmed all pages ({why}); \
                     the pages are kept here"
                ));
                self.state = SourceState::Stranded;
                self.act(SourceAction::Close);
            }
            SourceState::Inquiring
            | SourceState::Stranded
            | SourceState::Released
            | SourceState::Failed => {}
            SourceState::Describing
            | SourceState::Opening
            | SourceState::Stopping
            | SourceState::Preparing => self.fail(why),
        }
    }

    fn inquire(&mut self, now: Now) {
        if self.inquiry_under_way {
            return;
        }
        self.inquiry_under_way = true;
        self.deadline = Some(now + RUNNING_WITHIN);
        self.act(SourceAction::Inquire);
    }

    fn answer(&mut self, now: Now, answer: Result<Ownership, String>) {
        self.inquiry_under_way = false;
        if self.state != SourceState::Inquiring {
            return;
        }
        match answer {
            Ok(Ownership::Running) => {
                self.act(SourceAction::Serve);
                self.deadline = None;
                self.state = SourceState::Stranded;
                self.error = Some(
                    "the destination runs the guest, but the connection was lost before it had all \
                     pages; the pages are kept here"
                        .to_owned(),
                );
                self.act(SourceAction::Close);
            }
            Ok(Ownership::Refused) => {
                self.take_back("the destination could not run the guest".to_owned());
            }
            Ok(Ownership::NeverGotIt) => {
                self.take_back("the connection was lost before the handover arrived".to_owned());
            }
            Err(why) => {
                self.error = Some(format!(
                    "the handover's outcome is not known: {why}; asking again (migrate_resolve decides by hand)"
                ));
                self.deadline = Some(now + self.next_inquiry_after);
                self.next_inquiry_after = (self.next_inquiry_after * 2).min(SLOWEST_INQUIRY);
            }
        }
    }

    /// The result of [`SourceAction::CompareDigest`].
    pub fn digest_compared(&mut self, ours: u128, same: bool) {
        if self.state != SourceState::Serving {
            return;
        }
        if same {
            self.verified = true;
            self.state = SourceState::Released;
            self.act(SourceAction::Send(ToDestination::DigestAgreed));
            self.act(SourceAction::Release);
        } else {
            self.error = Some(format!(
                "the destination has other pages than were sent (digest here {ours:032x}); \
                 the pages are kept here"
            ));
            self.state = SourceState::Stranded;
            self.act(SourceAction::Send(ToDestination::DigestDiffers { digest: ours }));
        }
        self.act(SourceAction::Close);
    }

    fn cancel(&mut self) -> Result<(), String> {
        use SourceState::{Describing, Opening, Preparing, Stopping};
        match self.state {
            Describing | Opening | Stopping | Preparing => {
                self.fail("cancelled".to_owned());
                Ok(())
            }
            SourceState::HandoverUnknown | SourceState::Inquiring => {
                Err("the handover has begun: the guest goes on at one end by itself".to_owned())
            }
            SourceState::Serving => {
                Err("the guest runs at the destination already; it needs its pages".to_owned())
            }
            SourceState::Stranded | SourceState::Released | SourceState::Failed => {
                Err("no migration is under way".to_owned())
            }
        }
    }

    fn resolve(&mut self, operator: Operator) -> Result<(), String> {
        if self.state != SourceState::Inquiring {
            return Err(format!("who runs the guest is not in doubt ({:?})", self.state));
        }
        match operator {
            Operator::TakeBack => {
                self.take_back("the operator decided that the guest stays here".to_owned());
            }
            Operator::GiveUp => self.answer(Now::ZERO, Ok(Ownership::Running)),
        }
        Ok(())
    }

    fn tick(&mut self, now: Now) {
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        self.deadline = None;
        match self.state {
            SourceState::Describing => self.late(now, READY_WITHIN, "to the description"),
            SourceState::Preparing => self.late(now, PREPARED_WITHIN, "to the device state"),
            SourceState::HandoverUnknown => self.late(now, RUNNING_WITHIN, "to the handover"),
            SourceState::Inquiring => {
                // One that never reported back counts as failed.
                self.inquiry_under_way = false;
                self.inquire(now);
            }
            _ => {}
        }
    }

    fn late(&mut self, now: Now, bound: Duration, what: &str) {
        self.link_lost(now, format!("no answer {what} within {} s", bound.as_secs()));
    }

    /// Ends before the handover: the guest is ours and goes on.
    fn fail(&mut self, why: String) {
        let stopped = matches!(self.state, SourceState::Stopping | SourceState::Preparing);
        self.act(SourceAction::Send(ToDestination::Cancel(why.clone())));
        self.error = Some(why);
        self.state = SourceState::Failed;
        self.deadline = None;
        if stopped {
            self.act(SourceAction::TakeBack);
        }
        self.act(SourceAction::Close);
    }

    /// Ends after the handover was begun: the guest is known not to run at the destination.
    fn take_back(&mut self, why: String) {
        self.error = Some(why);
        self.state = SourceState::Failed;
        self.deadline = None;
        self.act(SourceAction::TakeBack);
        self.act(SourceAction::Close);
    }
}

fn name(message: &ToSource) -> &'static str {
    match message {
        ToSource::Ready { .. } => "READY",
        ToSource::Refused(_) => "REFUSED",
        ToSource::Prepared => "PREPARED",
        ToSource::Running => "RUNNING",
        ToSource::HandoverRefused(_) => "HANDOVER-REFUSED",
        ToSource::Complete { .. } => "COMPLETE",
        ToSource::Trouble(_) => "TROUBLE",
        ToSource::Owner(_) => "OWNER",
    }
}
