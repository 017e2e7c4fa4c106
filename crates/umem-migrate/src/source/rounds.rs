//! Rounds of precopy, from the first page to the decision that ends them.

use super::{Source, SourceAction, SourceState};
use crate::Now;
use crate::policy::{Decision, History, RoundFacts, Rounds, Switch};
use std::time::Duration;
use umem_wire::ToDestination;

/// Longest wait for a round to be placed, from its end on.
const PLACED_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for page service at the destination.
const PAGE_SERVICE_WITHIN: Duration = Duration::from_secs(30);

/// A round as it was sent, and the digest over all that was sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundReport {
    /// Its number, from 1.
    pub round: u32,
    /// Pages sent in it.
    pub pages: u64,
    /// Bytes sent in it, as on the wire if no page had been packed.
    pub bytes: u64,
    /// Pages that it has not sent although they were due: it was cut short, or they cannot be read.
    pub left: u64,
    /// Over all copies sent and all pages discarded, in this round and before.
    pub digest: u128,
}

/// How the rounds go, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundsView {
    /// Rounds begun.
    pub passes: u32,
    /// Pages that the guest wrote in the newest round, a second.
    pub dirty_pages_rate: u64,
    /// Bytes a second.
    pub send_rate: u64,
    /// What the guest's standing still would take now; `None` before it can be told.
    pub expected_downtime: Option<Duration>,
    /// How much the guest is slowed down, per cent.
    pub throttle: u8,
}

/// A round under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundAtHand {
    pub(super) round: u32,
    started: Now,
    sent: Option<RoundReport>,
    /// Digest of the destination.
    placed: Option<u128>,
}

/// What becomes of a round.
enum RoundStatus {
    UnderWay,
    /// Sent, placed, and both ends have the same digest.
    Agreed,
    Differs {
        ours: u128,
        theirs: u128,
    },
}

impl RoundAtHand {
    fn status(&self) -> RoundStatus {
        match (self.sent, self.placed) {
            (Some(RoundReport { digest: ours, .. }), Some(theirs)) if ours == theirs => {
                RoundStatus::Agreed
            }
            (Some(RoundReport { digest: ours, .. }), Some(theirs)) => {
                RoundStatus::Differs { ours, theirs }
            }
            _ => RoundStatus::UnderWay,
        }
    }
}

/// All that a source with rounds remembers of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    rules: Rounds,
    history: History,
    passes: u32,
    pub(super) at_hand: Option<RoundAtHand>,
    /// The newest round that is placed, until the dirty log after it is collected.
    placed: Option<(RoundReport, Duration)>,
    /// As last collected.
    pending: Option<u64>,
    dirty_pages_rate: u64,
    told: bool,
    /// Whether the dirty log is on and pages can be pending.
    pub(super) tracking: bool,
    /// The guest is stopped to finish by precopy.
    pub(super) finishing: bool,
}

impl Progress {
    pub(super) fn new(rules: Rounds) -> Self {
        Self {
            rules,
            history: History::default(),
            passes: 0,
            at_hand: None,
            placed: None,
            pending: None,
            dirty_pages_rate: 0,
            told: false,
            tracking: false,
            finishing: false,
        }
    }
}

impl Source {
    /// How the rounds go; `None` when there are none.
    #[must_use]
    pub fn rounds(&self) -> Option<RoundsView> {
        let progress = self.progress.as_ref()?;
        let predict = |pending| progress.history.predicted_downtime(pending, self.page_bytes);
        let expected = progress.pending.map(predict);
        Some(RoundsView {
            passes: progress.passes,
            dirty_pages_rate: progress.dirty_pages_rate,
            send_rate: progress.history.send_rate(),
            expected_downtime: expected.filter(|expected| *expected != Duration::MAX),
            throttle: self.throttle,
        })
    }

    /// Changes the longest downtime with which precopy may finish, from the next decision on.
    pub fn set_downtime_limit(&mut self, limit: Duration) {
        if let Some(progress) = &mut self.progress {
            progress.rules.downtime_limit = limit;
        }
    }

    pub(super) fn opened(&mut self, now: Now, result: Result<(), String>) {
        if self.state != SourceState::Opening {
            return;
        }
        match result {
            Ok(()) if self.progress.is_some() => {
                self.state = SourceState::Rounds;
                self.act(SourceAction::StartDirtyLog);
            }
            Ok(()) => self.begin_page_service(now),
            Err(why) => self.fail(why),
        }
    }

    pub(super) fn tracking(&mut self, now: Now, result: Result<(), String>) {
        let Some(progress) = &mut self.progress else { return };
        if self.state != SourceState::Rounds || progress.tracking {
            return;
        }
        match result {
            Ok(()) => {
                progress.tracking = true;
                if progress.told {
                    self.begin_page_service(now);
                } else {
                    self.send_round(now);
                }
            }
            Err(why) => self.fail(format!("the guest's writes cannot be tracked: {why}")),
        }
    }

    /// What is pending, once the guest stands still; its number.
    pub(super) fn send_last_round(&mut self, now: Now) -> u32 {
        self.send_round(now);
        self.progress.map_or(0, |progress| progress.passes)
    }

    /// The next round, of all that is pending.
    fn send_round(&mut self, now: Now) {
        let Some(progress) = &mut self.progress else { return };
        progress.passes = progress.passes.saturating_add(1);
        let round = progress.passes;
        progress.at_hand = Some(RoundAtHand { round, started: now, sent: None, placed: None });
        self.act(SourceAction::SendRound { round });
    }

    pub(super) fn round_sent(&mut self, now: Now, result: Result<RoundReport, String>) {
        let Some(at_hand) = self.progress.as_mut().and_then(|progress| progress.at_hand.as_mut())
        else {
            return;
        };
        if !matches!(self.state, SourceState::Rounds | SourceState::Preparing) {
            return;
        }
        match result {
            // Nobody would send it after this round, and the destination may have an older copy of it.
            Ok(RoundReport { round, left, .. })
                if self.state == SourceState::Preparing && round == at_hand.round && left > 0 =>
            {
                self.fail(format!(
                    "the last round has left {left} pages, which cannot be read (a hardware error); \
                     postcopy (migrate -p) can move this guest, without them"
                ));
            }
            Ok(report) if report.round == at_hand.round && at_hand.sent.is_none() => {
                at_hand.sent = Some(report);
                if self.state == SourceState::Rounds {
                    self.deadline = Some(now + PLACED_WITHIN);
                }
                self.settle_round(now);
            }
            Ok(_) => {}
            Err(why) => self.fail(format!("a round of pages could not be sent: {why}")),
        }
    }

    /// Takes the destination's word on a round; `false` when none such is under way.
    pub(super) fn round_placed(&mut self, now: Now, round: u32, digest: u128) -> bool {
        let at_hand = self.progress.as_mut().and_then(|progress| progress.at_hand.as_mut());
        let Some(at_hand) = at_hand.filter(|at_hand| at_hand.round == round) else { return false };
        if at_hand.placed.replace(digest).is_some() {
            return false;
        }
        self.settle_round(now);
        true
    }

    /// Goes on once the round at hand is sent and placed.
    fn settle_round(&mut self, now: Now) {
        let Some(progress) = &mut self.progress else { return };
        let Some(at_hand) = progress.at_hand else { return };
        match at_hand.status() {
            RoundStatus::UnderWay => {}
            RoundStatus::Differs { ours, theirs } => self.fail(format!(
                "the destination has other pages than were sent up to round {} (digest there \
                 {theirs:032x}, here {ours:032x})",
                at_hand.round
            )),
            RoundStatus::Agreed if self.state == SourceState::Preparing => {
                self.hand_over_when_ready(now);
            }
            RoundStatus::Agreed => {
                let took = now.saturating_sub(at_hand.started);
                progress.placed = at_hand.sent.map(|report| (report, took));
                progress.at_hand = None;
                self.deadline = None;
                self.act(SourceAction::Collect);
            }
        }
    }

    /// The last round, if all pages go before the handover.
    fn last_round(&self) -> Option<RoundAtHand> {
        self.progress.and_then(|progress| progress.at_hand)
    }

    pub(super) fn last_round_is_placed(&self) -> bool {
        self.last_round().is_none_or(|last| last.placed.is_some())
    }

    /// Whether nothing of the last round is missing at the destination.
    pub(super) fn last_round_agreed(&self) -> bool {
        self.last_round().is_none_or(|last| matches!(last.status(), RoundStatus::Agreed))
    }

    pub(super) fn collected(&mut self, now: Now, result: Result<u64, String>) {
        let pending = match (self.state, result) {
            (SourceState::Rounds | SourceState::Preparing, Ok(pending)) => pending,
            (SourceState::Rounds | SourceState::Preparing, Err(why)) => {
                return self.fail(format!("the guest's writes cannot be collected: {why}"));
            }
            _ => return,
        };
        if let Some(progress) = &mut self.progress {
            progress.pending = Some(pending);
        }
        match self.state {
            SourceState::Preparing => self.send_state(now),
            _ => self.decide(now, pending),
        }
    }

    fn decide(&mut self, now: Now, pending: u64) {
        let page_bytes = self.page_bytes;
        let Some(progress) = &mut self.progress else { return };
        let Some((report, took)) = progress.placed.take() else { return };
        let RoundReport { round, pages, bytes, left, .. } = report;
        let (written, nanoseconds) = (pending.saturating_sub(left), took.as_nanos().max(1));
        progress.dirty_pages_rate =
            u64::try_from(u128::from(written) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX);
        let facts = RoundFacts { round, took, pages, bytes, pending, page_bytes };
        // Not told, and yet not all is sent: some of it cannot be read, and only postcopy goes without.
        let told = progress.told || left > 0;
        match progress.history.decide(&progress.rules, told, facts) {
            Decision::Switch => self.begin_page_service(now),
            Decision::Finish => {
                progress.finishing = true;
                self.stop_guest();
            }
            Decision::Again { throttle } => {
                if let Some(throttle) = throttle {
                    self.throttle = throttle;
                    self.act(SourceAction::Throttle(throttle));
                }
                self.send_round(now);
            }
        }
    }

    /// No more rounds: what is pending now follows after the switch.
    fn begin_page_service(&mut self, now: Now) {
        self.state = SourceState::Switching;
        self.deadline = Some(now + PAGE_SERVICE_WITHIN);
        if self.progress.is_some() {
            self.act(SourceAction::Discard);
        }
        self.act(SourceAction::Send(ToDestination::BeginPageService));
    }

    /// The operator wants postcopy now.
    pub(super) fn start_postcopy(&mut self) -> Result<(), String> {
        use SourceState::{Failed, Released, Stranded};
        if matches!(self.state, Failed | Released | Stranded) {
            return Err("no migration is under way".to_owned());
        }
        let Some(progress) = &mut self.progress else { return Ok(()) };
        if progress.rules.switch == Switch::Never {
            return Err(
                "this migration was begun without postcopy (capability postcopy-ram)".to_owned()
            );
        }
        let told_before = std::mem::replace(&mut progress.told, true);
        let sending = progress.at_hand.is_some_and(|at_hand| at_hand.sent.is_none());
        if self.state == SourceState::Rounds && sending && !told_before {
            self.act(SourceAction::CutRound);
        }
        Ok(())
    }

    /// Ends the slowing down of the guest.
    pub(super) fn end_throttle(&mut self) {
        if std::mem::take(&mut self.throttle) != 0 {
            self.act(SourceAction::Throttle(0));
        }
    }

    pub(super) fn round_is_late(&mut self, now: Now) {
        self.late(now, PLACED_WITHIN, "to a round's end");
    }

    pub(super) fn page_service_is_late(&mut self, now: Now) {
        self.late(now, PAGE_SERVICE_WITHIN, "to the switch");
    }
}
