//! Each end's state machine alone, step by step: which actions follow which events, in which order.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use umem_migrate::{
    AutoConverge, Destination, DestinationAction, DestinationEvent, DestinationState, RoundReport,
    Rounds, Source, SourceAction, SourceEvent, SourceState, Strategy, Switch,
};
use umem_wire::{Block, MachineDescription, Mode, Ownership, ToDestination, ToSource};

const CREDIT: u32 = 1 << 20;

fn machine() -> MachineDescription {
    MachineDescription {
        board: "model".into(),
        vcpus: 1,
        processor: vec![],
        page_bytes: 4096,
        blocks: vec![Block { name: "ram".into(), address: 0, bytes: 4096 << 10 }],
        devices: vec![],
        program: "test".into(),
    }
}

fn rounds(switch: Switch) -> Rounds {
    let downtime_limit = Duration::from_millis(10);
    Rounds { most: None, downtime_limit, switch, finish: true, throttle: None }
}

/// A source, its clock, and what it did last.
struct Here {
    engine: Source,
    now: Duration,
}

impl Here {
    fn new(rounds: Option<Rounds>) -> Self {
        let engine = Source::new(Duration::ZERO, machine(), 2, Strategy { rounds });
        let mut here = Self { engine, now: Duration::ZERO };
        here.actions();
        here
    }

    /// One whose connections are open.
    fn opened(rounds: Option<Rounds>) -> (Self, Vec<SourceAction>) {
        let mut here = Self::new(rounds);
        here.message(ToSource::Ready { credit_bytes: CREDIT });
        let actions = here.event(SourceEvent::Opened(Ok(())));
        (here, actions)
    }

    /// One that sends round 1.
    fn in_first_round(rounds: Rounds) -> Self {
        let (mut here, _) = Self::opened(Some(rounds));
        let actions = here.event(SourceEvent::Tracking(Ok(())));
        assert_eq!(actions, [SourceAction::SendRound { round: 1 }]);
        here
    }

    fn actions(&mut self) -> Vec<SourceAction> {
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    fn event(&mut self, event: SourceEvent) -> Vec<SourceAction> {
        self.engine.handle(self.now, event).unwrap();
        self.actions()
    }

    fn message(&mut self, message: ToSource) -> Vec<SourceAction> {
        self.event(SourceEvent::Message(message))
    }

    fn sent(&mut self, round: u32, pages: u64) -> Vec<SourceAction> {
        self.sent_but(round, pages, 0)
    }

    /// A round that was cut short.
    fn sent_but(&mut self, round: u32, pages: u64, left: u64) -> Vec<SourceAction> {
        let bytes = pages * 4096;
        let report = RoundReport { round, pages, bytes, left, digest: u128::from(round) };
        self.event(SourceEvent::RoundSent(Ok(report)))
    }

    fn placed(&mut self, round: u32) -> Vec<SourceAction> {
        self.message(ToSource::RoundPlaced { round, digest: u128::from(round) })
    }

    /// A whole round that takes 100 ms and leaves this many pages pending.
    fn round(&mut self, round: u32, pages: u64, pending: u64) -> Vec<SourceAction> {
        assert_eq!(self.sent(round, pages), []);
        self.now += Duration::from_millis(100);
        assert_eq!(self.placed(round), [SourceAction::Collect]);
        self.event(SourceEvent::Collected(Ok(pending)))
    }
}

fn state_length(after_round: u32) -> SourceAction {
    SourceAction::Send(ToDestination::StateLength { bytes: 3, after_round })
}

fn state_piece() -> SourceAction {
    SourceAction::Send(ToDestination::StatePiece(vec![7; 3]))
}

fn failed(why: &str) -> [SourceAction; 2] {
    [SourceAction::Send(ToDestination::Cancel(why.into())), SourceAction::Close]
}

#[test]
fn postcopy_begins_page_service_at_once_and_never_touches_the_dirty_log() {
    let (mut here, actions) = Here::opened(None);
    assert_eq!(actions, [SourceAction::Send(ToDestination::BeginPageService)]);
    assert_eq!(here.message(ToSource::PageServiceReady), [SourceAction::StopGuest]);
    let actions = here.event(SourceEvent::Stopped(Ok(vec![7; 3])));
    assert_eq!(actions, [state_length(0), state_piece()]);
    let actions = here.message(ToSource::Prepared);
    assert_eq!(actions, [SourceAction::HandOver { since_stop: Duration::ZERO }]);
    assert_eq!(here.engine.rounds(), None);
}

#[test]
fn precopy_that_finishes_hands_over_after_the_last_round_agrees() {
    let mut here = Here::in_first_round(rounds(Switch::Never));
    assert_eq!(here.round(1, 1000, 400), [SourceAction::SendRound { round: 2 }]);
    assert_eq!(here.round(2, 400, 20), [SourceAction::StopGuest]);
    assert_eq!(here.event(SourceEvent::Stopped(Ok(vec![7; 3]))), [SourceAction::Collect]);
    let actions = here.event(SourceEvent::Collected(Ok(25)));
    assert_eq!(actions, [SourceAction::SendRound { round: 3 }, state_length(3), state_piece()]);
    // The destination is faster with its words than our thread is with its report.
    assert_eq!(here.placed(3), []);
    assert_eq!(here.message(ToSource::Prepared), []);
    assert_eq!(here.engine.state(), SourceState::Preparing);
    assert_eq!(here.sent(3, 25), [SourceAction::HandOver { since_stop: Duration::ZERO }]);
    assert_eq!(here.message(ToSource::Running), [SourceAction::Serve]);
    // All was there and agreed on before.
    let actions = here.event(SourceEvent::LinkLost("cut".into()));
    assert_eq!(actions, [SourceAction::Release, SourceAction::Close]);
    assert!(here.engine.verified() && here.engine.state() == SourceState::Released);
}

#[test]
fn an_answer_that_precopy_has_succeeded_releases_the_source_and_the_operators_word_does_not() {
    for by_operator in [false, true] {
        let mut here = Here::in_first_round(rounds(Switch::Never));
        here.round(1, 1000, 0);
        here.event(SourceEvent::Stopped(Ok(vec![7; 3])));
        here.event(SourceEvent::Collected(Ok(0)));
        here.sent(2, 0);
        here.placed(2);
        here.message(ToSource::Prepared);
        here.event(SourceEvent::LinkLost("cut".into()));
        assert_eq!(here.engine.state(), SourceState::Inquiring);
        if by_operator {
            here.event(SourceEvent::Resolve(umem_migrate::Operator::GiveUp));
            assert_eq!(here.engine.state(), SourceState::Stranded, "the pages are kept");
        } else {
            let actions = here.event(SourceEvent::Answer(Ok(Ownership::Running)));
            let expected = [SourceAction::Serve, SourceAction::Release, SourceAction::Close];
            assert_eq!(actions, expected);
            assert_eq!(here.engine.error(), None);
        }
    }
}

#[test]
fn the_switch_discards_before_page_service_and_again_after_the_stop() {
    let mut here = Here::in_first_round(rounds(Switch::ByItself));
    let begin = SourceAction::Send(ToDestination::BeginPageService);
    assert_eq!(here.round(1, 1000, 950), [SourceAction::Discard, begin]);
    assert_eq!(here.engine.state(), SourceState::Switching);
    assert_eq!(here.message(ToSource::PageServiceReady), [SourceAction::StopGuest]);
    assert_eq!(here.event(SourceEvent::Stopped(Ok(vec![7; 3]))), [SourceAction::Collect]);
    let actions = here.event(SourceEvent::Collected(Ok(970)));
    assert_eq!(actions, [SourceAction::Discard, state_length(0), state_piece()]);
    let actions = here.message(ToSource::Prepared);
    assert_eq!(actions, [SourceAction::HandOver { since_stop: Duration::ZERO }]);
}

#[test]
fn the_operators_switch_cuts_the_round_once_and_comes_as_soon_as_it_can() {
    let begin = SourceAction::Send(ToDestination::BeginPageService);
    let mut here = Here::in_first_round(rounds(Switch::WhenTold));
    assert_eq!(here.event(SourceEvent::StartPostcopy), [SourceAction::CutRound]);
    assert_eq!(here.event(SourceEvent::StartPostcopy), []);
    assert_eq!(here.round(1, 100, 10), [SourceAction::Discard, begin.clone()]);
    assert_eq!(here.event(SourceEvent::StartPostcopy), [], "it has begun");
    // While a round waits to be placed there is nothing to cut.
    let mut here = Here::in_first_round(rounds(Switch::WhenTold));
    here.sent(1, 1000);
    assert_eq!(here.event(SourceEvent::StartPostcopy), []);
    // Before the first round there is none.
    let mut here = Here::new(Some(rounds(Switch::ByItself)));
    assert_eq!(here.event(SourceEvent::StartPostcopy), []);
    here.message(ToSource::Ready { credit_bytes: CREDIT });
    assert_eq!(here.event(SourceEvent::Opened(Ok(()))), [SourceAction::StartDirtyLog]);
    let actions = here.event(SourceEvent::Tracking(Ok(())));
    assert_eq!(actions, [SourceAction::Discard, begin]);
    // A migration that may not switch says so.
    let mut here = Here::in_first_round(rounds(Switch::Never));
    let refused = here.engine.handle(here.now, SourceEvent::StartPostcopy).unwrap_err();
    assert!(refused.contains("without postcopy"), "{refused}");
}

#[test]
fn words_about_rounds_that_are_not_due_end_the_link() {
    let in_first = || Here::in_first_round(rounds(Switch::Never));
    let (mut placed_already, mut in_second) = (in_first(), in_first());
    placed_already.placed(1);
    in_second.round(1, 1000, 400);
    for (mut here, round) in [(in_first(), 2), (placed_already, 1), (in_second, 1)] {
        here.placed(round);
        assert_eq!(here.engine.state(), SourceState::Failed);
        assert!(here.engine.error().unwrap().contains("not due"), "{:?}", here.engine.error());
    }
    let mut here = Here::in_first_round(rounds(Switch::Never));
    here.round(1, 1000, 0);
    here.event(SourceEvent::Stopped(Ok(vec![7; 3])));
    here.event(SourceEvent::Collected(Ok(0)));
    let actions = here.message(ToSource::Prepared);
    assert!(actions.contains(&SourceAction::TakeBack), "prepared before the last round is placed");
}

#[test]
fn different_digests_keep_the_guest_at_the_source() {
    let mut here = Here::in_first_round(rounds(Switch::ByItself));
    here.sent(1, 1000);
    here.message(ToSource::RoundPlaced { round: 1, digest: 99 });
    assert_eq!(here.engine.state(), SourceState::Failed);
    assert!(here.engine.error().unwrap().contains("other pages"), "{:?}", here.engine.error());
}

#[test]
fn a_last_round_that_leaves_a_page_keeps_the_guest_at_the_source() {
    let mut here = Here::in_first_round(rounds(Switch::ByItself));
    here.round(1, 1000, 20);
    here.event(SourceEvent::Stopped(Ok(vec![7; 3])));
    here.event(SourceEvent::Collected(Ok(25)));
    here.placed(2);
    here.message(ToSource::Prepared);
    assert!(here.sent_but(2, 24, 1).contains(&SourceAction::TakeBack));
    assert_eq!(here.engine.state(), SourceState::Failed);
    assert!(here.engine.error().unwrap().contains("left 1 pages"), "{:?}", here.engine.error());
}

#[test]
fn the_throttle_ends_before_the_stop_and_at_every_failure() {
    let slow = AutoConverge { initial: 20, increment: 10, most: 99 };
    let slowed = || {
        let rounds = Rounds { throttle: Some(slow), ..rounds(Switch::Never) };
        let mut here = Here::in_first_round(rounds);
        here.round(1, 1000, 800);
        let actions = here.round(2, 800, 700);
        assert_eq!(actions, [SourceAction::Throttle(20), SourceAction::SendRound { round: 3 }]);
        assert_eq!(here.engine.rounds().unwrap().throttle, 20);
        here
    };
    let actions = slowed().round(3, 700, 0);
    assert_eq!(actions, [SourceAction::Throttle(0), SourceAction::StopGuest]);
    let [cancel, close] = failed("cancelled");
    let actions = slowed().event(SourceEvent::Cancel);
    assert_eq!(actions, [cancel, SourceAction::Throttle(0), close]);
}

#[test]
fn what_comes_late_after_a_cancel_does_nothing() {
    let mut here = Here::in_first_round(rounds(Switch::ByItself));
    assert_eq!(here.event(SourceEvent::Cancel), failed("cancelled"));
    assert_eq!(here.sent(1, 1000), []);
    assert_eq!(here.event(SourceEvent::RoundSent(Err("closed".into()))), []);
    assert_eq!(here.event(SourceEvent::Collected(Ok(5))), []);
    assert_eq!(here.event(SourceEvent::Tracking(Ok(()))), []);
    assert_eq!(here.placed(1), []);
    assert_eq!(here.engine.error(), Some("cancelled"));
}

#[test]
fn the_downtime_limit_can_be_raised_between_rounds_and_the_figures_are_shown() {
    let mut here = Here::in_first_round(rounds(Switch::Never));
    assert_eq!(here.engine.rounds().unwrap().expected_downtime, None);
    here.round(1, 1000, 300);
    let view = here.engine.rounds().unwrap();
    assert_eq!((view.passes, view.dirty_pages_rate), (2, 3000));
    assert_eq!(view.send_rate, 40_960_000);
    assert_eq!(view.expected_downtime, Some(Duration::from_millis(30)));
    here.engine.set_downtime_limit(Duration::from_millis(35));
    // Too little was sent for a rate of its own.
    assert_eq!(here.round(2, 250, 310), [SourceAction::StopGuest]);
}

#[test]
fn what_a_cut_round_has_left_is_not_taken_for_written() {
    let mut here = Here::in_first_round(rounds(Switch::WhenTold));
    here.now += Duration::from_millis(100);
    here.event(SourceEvent::StartPostcopy);
    here.sent_but(1, 400, 600);
    here.placed(1);
    here.event(SourceEvent::Collected(Ok(620)));
    assert_eq!(here.engine.rounds().unwrap().dirty_pages_rate, 200);
}

#[test]
fn pages_that_cannot_be_read_end_the_rounds_where_postcopy_may_follow() {
    for switch in [Switch::ByItself, Switch::WhenTold] {
        let mut here = Here::in_first_round(rounds(switch));
        here.sent_but(1, 999, 1);
        here.placed(1);
        let actions = here.event(SourceEvent::Collected(Ok(1)));
        let begin = SourceAction::Send(ToDestination::BeginPageService);
        assert_eq!(actions, [SourceAction::Discard, begin]);
    }
}

/// A destination that has said READY.
fn there(mode: Mode) -> Destination {
    let mut engine = Destination::new(Duration::ZERO, CREDIT);
    let describe = ToDestination::Describe { machine: machine(), bulk_lanes: 2, mode };
    tell(&mut engine, DestinationEvent::Message(describe));
    let actions = tell(&mut engine, DestinationEvent::Checked(Ok(())));
    assert_eq!(actions, [say(ToSource::Ready { credit_bytes: CREDIT })]);
    engine
}

fn tell(engine: &mut Destination, event: DestinationEvent) -> Vec<DestinationAction> {
    engine.handle(Duration::ZERO, event);
    std::iter::from_fn(|| engine.poll_action()).collect()
}

fn hear(engine: &mut Destination, message: ToDestination) -> Vec<DestinationAction> {
    tell(engine, DestinationEvent::Message(message))
}

fn say(message: ToSource) -> DestinationAction {
    DestinationAction::Send(message)
}

fn placed(round: u32) -> DestinationEvent {
    DestinationEvent::RoundPlaced { round, digest: 100 + u128::from(round) }
}

fn length(after_round: u32) -> ToDestination {
    ToDestination::StateLength { bytes: 3, after_round }
}

fn discard() -> ToDestination {
    ToDestination::Discard { start: 3, bits: vec![5] }
}

#[test]
fn device_state_waits_for_its_round_and_a_precopy_is_complete_when_it_runs() {
    let mut engine = there(Mode::PRECOPY);
    assert_eq!(engine.deadline(), None, "rounds take as long as they take");
    let word = |round: u32| say(ToSource::RoundPlaced { round, digest: 100 + u128::from(round) });
    assert_eq!(tell(&mut engine, placed(1)), [word(1)]);
    assert_eq!(hear(&mut engine, length(2)), []);
    assert!(engine.deadline().is_some());
    assert_eq!(hear(&mut engine, ToDestination::StatePiece(vec![7; 3])), []);
    assert_eq!(tell(&mut engine, placed(2)), [word(2), DestinationAction::Load(vec![7; 3])]);
    assert_eq!(tell(&mut engine, DestinationEvent::Loaded(Ok(()))), [say(ToSource::Prepared)]);
    hear(&mut engine, ToDestination::Handover { since_stop_ns: 1 });
    let complete = say(ToSource::Complete { digest: 102 });
    let expected = [say(ToSource::Running), DestinationAction::PagesComplete, complete];
    assert_eq!(tell(&mut engine, DestinationEvent::Started(Ok(()))), expected);
    // The handover itself says that the source agrees.
    let actions = tell(&mut engine, DestinationEvent::LinkLost("cut".into()));
    assert_eq!(actions, [DestinationAction::Close]);
    assert!(engine.verified() && engine.state() == DestinationState::Agreed);
}

#[test]
fn after_rounds_the_destination_switches_and_may_have_all_pages_before_it_runs() {
    let mut engine = there(Mode::HYBRID);
    tell(&mut engine, placed(1));
    let taken_out = [DestinationAction::Discard { start: 3, bits: vec![5] }];
    assert_eq!(hear(&mut engine, discard()), taken_out);
    tell(&mut engine, DestinationEvent::Discarded(Ok(())));
    let actions = hear(&mut engine, ToDestination::BeginPageService);
    assert_eq!(actions, [DestinationAction::BeginPageService]);
    let actions = tell(&mut engine, DestinationEvent::PageService(Ok(())));
    assert_eq!(actions, [say(ToSource::PageServiceReady)]);
    assert_eq!(hear(&mut engine, discard()), taken_out);
    hear(&mut engine, length(0));
    let actions = hear(&mut engine, ToDestination::StatePiece(vec![7; 3]));
    assert_eq!(actions, [], "not loaded while pages are being taken out");
    let actions = tell(&mut engine, DestinationEvent::Discarded(Ok(())));
    assert_eq!(actions, [DestinationAction::Load(vec![7; 3])]);
    tell(&mut engine, DestinationEvent::Loaded(Ok(())));
    hear(&mut engine, ToDestination::Handover { since_stop_ns: 1 });
    assert_eq!(tell(&mut engine, DestinationEvent::AllPages { digest: 9 }), []);
    let complete = say(ToSource::Complete { digest: 9 });
    let expected = [say(ToSource::Running), DestinationAction::PagesComplete, complete];
    assert_eq!(tell(&mut engine, DestinationEvent::Started(Ok(()))), expected);
}

#[test]
fn memory_that_is_given_up_releases_the_source_without_a_digest() {
    let mut engine = there(Mode::POSTCOPY);
    hear(&mut engine, ToDestination::BeginPageService);
    tell(&mut engine, DestinationEvent::PageService(Ok(())));
    hear(&mut engine, length(0));
    hear(&mut engine, ToDestination::StatePiece(vec![7; 3]));
    tell(&mut engine, DestinationEvent::Loaded(Ok(())));
    assert_eq!(tell(&mut engine, DestinationEvent::MemoryVoid("early".into())), []);
    hear(&mut engine, ToDestination::Handover { since_stop_ns: 1 });
    tell(&mut engine, DestinationEvent::Started(Ok(())));
    let void = ToSource::MemoryVoid("switched off".into());
    let actions = tell(&mut engine, DestinationEvent::MemoryVoid("switched off".into()));
    assert_eq!(actions, [say(void.clone())]);
    // The last page came meanwhile.
    assert_eq!(tell(&mut engine, DestinationEvent::AllPages { digest: 9 }), []);
    assert_eq!(hear(&mut engine, ToDestination::DigestAgreed), [DestinationAction::Close]);
    assert!(engine.state() == DestinationState::Agreed && !engine.verified());
    assert!(engine.error().is_none());

    let (mut here, _) = Here::opened(None);
    here.message(ToSource::PageServiceReady);
    here.event(SourceEvent::Stopped(Ok(vec![7; 3])));
    here.message(ToSource::Prepared);
    here.message(ToSource::Running);
    let actions = here.message(void);
    let heard = SourceAction::Send(ToDestination::DigestAgreed);
    assert_eq!(actions, [heard, SourceAction::Release, SourceAction::Close]);
    assert!(here.engine.state() == SourceState::Released && !here.engine.verified());
}

#[test]
fn a_discard_that_fails_and_page_service_that_does_not_come_up_refuse_the_guest() {
    let refused = |actions: &[DestinationAction], why: &str| {
        let text = match &actions[0] {
            DestinationAction::Send(ToSource::Refused(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(text.contains(why), "{text}");
        assert_eq!(actions[1..], [DestinationAction::Abandon, DestinationAction::Close]);
    };
    let mut engine = there(Mode::HYBRID);
    tell(&mut engine, placed(1));
    hear(&mut engine, discard());
    refused(&tell(&mut engine, DestinationEvent::Discarded(Err("no page 3".into()))), "no page 3");
    let mut engine = there(Mode::POSTCOPY);
    hear(&mut engine, ToDestination::BeginPageService);
    let event = DestinationEvent::PageService(Err("no userfaultfd".into()));
    refused(&tell(&mut engine, event), "no userfaultfd");
}

#[test]
fn what_does_not_fit_the_mode_or_the_moment_ends_the_session() {
    use ToDestination::{BeginPageService, StatePiece};
    let message = DestinationEvent::Message;
    let ready = || DestinationEvent::PageService(Ok(()));
    let discarded = || DestinationEvent::Discarded(Ok(()));
    let cases: Vec<(Mode, Vec<DestinationEvent>)> = vec![
        (Mode::PRECOPY, vec![message(BeginPageService)]),
        (Mode::PRECOPY, vec![placed(1), message(discard())]),
        (Mode::POSTCOPY, vec![message(discard())]),
        (Mode::POSTCOPY, vec![placed(1)]),
        // Device state that would be loaded over missing pages.
        (Mode::POSTCOPY, vec![message(length(0))]),
        (Mode::PRECOPY, vec![placed(1), message(length(0))]),
        (Mode::PRECOPY, vec![placed(1), message(length(3))]),
        (Mode::HYBRID, vec![placed(1), placed(2), message(length(1))]),
        // Rounds out of order.
        (Mode::PRECOPY, vec![placed(2)]),
        (Mode::PRECOPY, vec![placed(1), placed(1)]),
        // A round after a discard: what it leaves out would be missing, or stale.
        (Mode::HYBRID, vec![placed(1), message(discard()), discarded(), placed(2)]),
        (Mode::HYBRID, vec![placed(1), message(discard()), discarded(), message(length(1))]),
        (Mode::HYBRID, vec![placed(1), message(discard()), discarded(), message(length(2))]),
        // A round, or a discard, when it is too late for it.
        (Mode::HYBRID, vec![message(BeginPageService), placed(1)]),
        (Mode::HYBRID, vec![message(BeginPageService), message(discard())]),
        (Mode::HYBRID, vec![message(BeginPageService), ready(), placed(1)]),
        (
            Mode::HYBRID,
            vec![message(BeginPageService), ready(), message(length(0)), message(discard())],
        ),
        (Mode::HYBRID, vec![message(BeginPageService), ready(), message(length(1))]),
        (Mode::HYBRID, vec![placed(1), message(length(2)), message(BeginPageService)]),
        (Mode::PRECOPY, vec![placed(1), message(length(2)), placed(2), placed(3)]),
        // Device state twice, or more of it than announced.
        (Mode::PRECOPY, vec![placed(1), message(length(2)), message(length(2))]),
        (
            Mode::PRECOPY,
            vec![
                placed(1),
                message(length(1)),
                message(StatePiece(vec![7; 3])),
                message(StatePiece(vec![7])),
            ],
        ),
    ];
    for (mode, events) in cases {
        let mut engine = there(mode);
        let (last, before) = events.split_last().unwrap();
        for event in before {
            tell(&mut engine, event.clone());
            assert!(!matches!(engine.state(), DestinationState::Dead(_)), "{events:?}");
        }
        tell(&mut engine, last.clone());
        let dead = DestinationState::Dead(Ownership::NeverGotIt);
        assert_eq!(engine.state(), dead, "{mode:?} {events:?}");
    }
}
