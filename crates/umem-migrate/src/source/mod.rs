//! The source's side of a migration.
//!
//! | state | guest here | left when |
//! |---|---|---|
//! | `Describing` | runs | destination says *ready* |
//! | `Opening` | runs | demand and bulk connections are there |
//! | `Rounds` | runs | a round is placed, and postcopy is to follow or the rest is to be the last round |
//! | `Switching` | runs | destination says *page service ready* |
//! | `Stopping` | stops | the machine has stopped and saved it |
//! | `Preparing` | stopped, ours | destination says *prepared*, and the last round, if there is one, is placed with the same digest |
//! | `HandoverUnknown` | stopped, whose is unknown | destination says *running* or *refused* |
//! | `Inquiring` | stopped, whose is unknown | an answer comes, or the operator decides |
//! | `Serving` | never again | digests agree, or the link is lost |
//! | `Stranded` | never again | never (the pages stay) |
//! | `Released` | never again | never |
//! | `Failed` | ours, goes on as before | never |
//!
//! `Rounds` is left out when all pages follow after the switch, `Switching` when none does. Within
//! `Rounds`, for each round: send, placed, digests compared, dirty log collected, decision (see
//! [`crate::policy`]).
//!
//! Everything that goes wrong before `HandoverUnknown` leads to `Failed`. The first byte of HANDOVER
//! given to the kernel is the point of no return: the action [`SourceAction::HandOver`] is issued in
//! the step that enters `HandoverUnknown`, and no later event leads back to `Failed` but the
//! destination's final word or the operator's.

mod handover;
mod rounds;

pub use rounds::{RoundReport, RoundsView};

use crate::Now;
use crate::policy::Strategy;
use rounds::Progress;
use std::collections::VecDeque;
use std::time::Duration;
use umem_wire::{MachineDescription, Ownership, ToDestination, ToSource};

/// Longest wait for the destination's answer to the description.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for the guest's device state to be loaded, and for the last round, from the stop on.
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
    /// Rounds of pages are sent while the guest runs.
    Rounds,
    /// The destination brings page service up.
    Switching,
    /// The guest is being stopped.
    Stopping,
    /// The device state is sent, and the last round if all pages go before the switch.
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
    /// The dirty log is on, or why not.
    Tracking(Result<(), String>),
    /// A round was sent, whole or cut; or why it could not be.
    RoundSent(Result<RoundReport, String>),
    /// Pages to send now, after the dirty log was collected.
    Collected(Result<u64, String>),
    /// The guest has stopped and this is its state; or it could not, and goes on.
    Stopped(Result<Vec<u8>, String>),
    /// The connection is lost.
    LinkLost(String),
    /// An inquiry's answer, or why there is none.
    Answer(Result<Ownership, String>),
    /// Somebody gives the migration up.
    Cancel,
    /// Somebody wants the switch to postcopy now.
    StartPostcopy,
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
    /// Note the guest's writes from now on; all pages are pending. Report `Tracking`.
    StartDirtyLog,
    /// Send all pending pages, then this round's end on each bulk connection; report `RoundSent`. The
    /// bit of a page is cleared before the page is read.
    SendRound {
        /// Its number, from 1.
        round: u32,
    },
    /// End the round under way early: what it has not sent stays pending.
    CutRound,
    /// Add what the dirty log has noted to what is pending; report `Collected`.
    Collect,
    /// Tell the destination which pages that it has are void: those pending that were sent before.
    Discard,
    /// Take this share of its time from the guest, per cent; 0 ends it.
    Throttle(u8),
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
    page_bytes: u32,
    /// `None` when all pages follow after the switch.
    progress: Option<Progress>,
    throttle: u8,
    /// Device state that is to be sent.
    package: Option<Vec<u8>>,
    /// The destination has said that it is prepared.
    prepared: bool,
}

impl Source {
    /// Begins a migration of this machine over an open control connection.
    #[must_use]
    pub fn new(now: Now, machine: MachineDescription, bulk_lanes: u8, strategy: Strategy) -> Self {
        let page_bytes = machine.page_bytes;
        let describe = ToDestination::Describe { machine, bulk_lanes, mode: strategy.mode() };
        Self {
            state: SourceState::Describing,
            actions: VecDeque::from([SourceAction::Send(describe)]),
            error: None,
            stopped_at: None,
            deadline: Some(now + READY_WITHIN),
            next_inquiry_after: FIRST_INQUIRY,
            inquiry_under_way: false,
            verified: false,
            page_bytes,
            progress: strategy.rounds.map(Progress::new),
            throttle: 0,
            package: None,
            prepared: false,
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
    /// Only for [`SourceEvent::Cancel`], [`SourceEvent::StartPostcopy`] and
    /// [`SourceEvent::Resolve`]: why it cannot be done now.
    pub fn handle(&mut self, now: Now, event: SourceEvent) -> Result<(), String> {
        match event {
            SourceEvent::Message(message) => self.message(now, message),
            SourceEvent::Opened(result) => self.opened(now, result),
            SourceEvent::Tracking(result) => self.tracking(now, result),
            SourceEvent::RoundSent(result) => self.round_sent(now, result),
            SourceEvent::Collected(result) => self.collected(now, result),
            SourceEvent::Stopped(result) => self.stopped(now, result),
            SourceEvent::LinkLost(why) => self.link_lost(now, why),
            SourceEvent::Answer(answer) => self.answer(now, answer),
            SourceEvent::Cancel => return self.cancel(),
            SourceEvent::StartPostcopy => return self.start_postcopy(),
            SourceEvent::Resolve(operator) => return self.resolve(operator),
            SourceEvent::Tick => self.tick(now),
        }
        Ok(())
    }

    fn message(&mut self, now: Now, message: ToSource) {
        use SourceState::{
            Describing, HandoverUnknown, Opening, Preparing, Rounds, Serving, Stopping, Switching,
        };
        match (self.state, message) {
            (Describing, ToSource::Ready { credit_bytes }) => {
                self.state = SourceState::Opening;
                self.deadline = None;
                self.act(SourceAction::OpenLanes { credit_bytes });
            }
            (
                Describing | Opening | Rounds | Switching | Stopping | Preparing,
                ToSource::Refused(why),
            ) => {
                self.fail(format!("the destination refuses the guest: {why}"));
            }
            (Rounds | Preparing, ToSource::RoundPlaced { round, digest }) => {
                if !self.round_placed(now, round, digest) {
                    let what =
                        format!("the destination has placed round {round}, which is not due");
                    self.link_lost(now, what);
                }
            }
            (Switching, ToSource::PageServiceReady) => self.stop_guest(),
            (Preparing, ToSource::Prepared) if self.may_be_prepared() => {
                self.prepared = true;
                self.hand_over_when_ready(now);
            }
            (HandoverUnknown, ToSource::Running) => self.serve(),
            (HandoverUnknown, ToSource::HandoverRefused(why)) => {
                self.take_back(format!("the destination cannot run the guest: {why}"));
            }
            (Serving, ToSource::Complete { digest }) => {
                self.act(SourceAction::CompareDigest(digest));
            }
            (Serving, ToSource::MemoryVoid(_)) => self.release_void(),
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

    /// When the guest stopped, by its own machine's account; before `Stopped`.
    pub fn note_stop(&mut self, at: Now) {
        self.stopped_at = Some(at);
    }

    /// How long the guest has stood still; zero before it stops.
    #[must_use]
    pub fn since_stop(&self, now: Now) -> Duration {
        self.stopped_at.map_or(Duration::ZERO, |at| now.saturating_sub(at))
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
        use SourceState::{Describing, Opening, Preparing, Rounds, Stopping, Switching};
        match self.state {
            Describing | Opening | Rounds | Switching | Stopping | Preparing => {
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

    fn tick(&mut self, now: Now) {
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        self.deadline = None;
        match self.state {
            SourceState::Describing => self.late(now, READY_WITHIN, "to the description"),
            SourceState::Rounds => self.round_is_late(now),
            SourceState::Switching => self.page_service_is_late(now),
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
}

fn name(message: &ToSource) -> &'static str {
    match message {
        ToSource::Ready { .. } => "READY",
        ToSource::Refused(_) => "REFUSED",
        ToSource::Prepared => "PREPARED",
        ToSource::Running => "RUNNING",
        ToSource::HandoverRefused(_) => "HANDOVER-REFUSED",
        ToSource::Complete { .. } => "COMPLETE",
        ToSource::MemoryVoid(_) => "MEMORY-VOID",
        ToSource::Trouble(_) => "TROUBLE",
        ToSource::Owner(_) => "OWNER",
        ToSource::RoundPlaced { .. } => "ROUND-PLACED",
        ToSource::PageServiceReady => "PAGE-SERVICE-READY",
    }
}
