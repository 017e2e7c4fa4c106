//! The policy against a book of its rules.

use super::{AutoConverge, Decision, History, RoundFacts, Rounds, Switch};
use proptest::prelude::*;
use std::time::Duration;

const PAGE_BYTES: u32 = 4096;

/// The rules as the design has them, over the whole history and in exact fractions.
fn rule_book(
    rounds: &Rounds,
    told: bool,
    history: &[RoundFacts],
    throttle: &mut (u8, u32),
) -> Decision {
    let facts = history.last().unwrap();
    let telling = history.iter().rev().find(|facts| facts.bytes >= 1024 * 1024);
    let (bytes, time) = match telling {
        Some(facts) => (facts.bytes, facts.took),
        None => (
            history.iter().map(|facts| facts.bytes).sum(),
            history.iter().map(|facts| facts.took).sum(),
        ),
    };
    // predicted = pending * page_bytes * time / bytes
    let work = u128::from(facts.pending) * u128::from(PAGE_BYTES) * time.as_nanos();
    let predicted_within = |limit: Duration| work <= limit.as_nanos() * u128::from(bytes);
    if told && rounds.switch != Switch::Never {
        return Decision::Switch;
    }
    if rounds.finish && (facts.pending == 0 || bytes > 0 && predicted_within(rounds.downtime_limit))
    {
        return Decision::Finish;
    }
    let percent_of = |percent: u128, of: u64| u128::from(of) * percent;
    let pending = u128::from(facts.pending) * 100;
    let by_itself = [
        rounds.most.is_some_and(|most| history.len() >= most as usize),
        !rounds.finish
            && (facts.pending == 0 || bytes > 0 && predicted_within(Duration::from_millis(10))),
        pending >= percent_of(90, facts.pages),
        history.len() >= 2 && pending >= percent_of(90, history[history.len() - 2].pending),
    ];
    if rounds.switch == Switch::ByItself && by_itself.contains(&true) {
        return Decision::Switch;
    }
    let Some(steps) = rounds.throttle else { return Decision::Again { throttle: None } };
    let (now, slow) = throttle;
    *slow = if pending >= percent_of(50, facts.pages) { *slow + 1 } else { 0 };
    let before = *now;
    if *slow == 2 {
        *slow = 0;
        let next = if before == 0 { steps.initial } else { before.saturating_add(steps.increment) };
        *now = next.min(steps.most);
    }
    Decision::Again { throttle: (*now != before).then_some(*now) }
}

fn rounds() -> impl Strategy<Value = Rounds> {
    let switch = prop::sample::select(vec![Switch::Never, Switch::WhenTold, Switch::ByItself]);
    let throttle = prop::option::of((0u8..100, 0u8..100, 0u8..100));
    let limit = prop::sample::select(vec![0u64, 1, 10, 300, 10_000]);
    (prop::option::of(1u32..8), limit, switch, any::<bool>(), throttle).prop_map(
        |(most, limit, switch, finish, throttle)| Rounds {
            most,
            downtime_limit: Duration::from_millis(limit),
            switch,
            finish,
            throttle: throttle.map(|(initial, increment, most)| AutoConverge {
                initial,
                increment,
                most,
            }),
        },
    )
}

/// A round: milliseconds, pages, bytes a page on the wire, pages pending in per cent of it.
fn facts() -> impl Strategy<Value = (u64, u64, u64, u64)> {
    (1u64..2000, 0u64..4000, prop::sample::select(vec![0u64, 1, 4120]), 0u64..130)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn decisions_are_those_of_the_rule_book(
        rounds in rounds(),
        told_in in 1usize..12,
        sequence in prop::collection::vec(facts(), 1..10),
    ) {
        let mut policy = History::default();
        let (mut history, mut throttle) = (Vec::new(), (0, 0));
        for (at, (milliseconds, pages, bytes, percent)) in sequence.into_iter().enumerate() {
            let facts = RoundFacts {
                round: at as u32 + 1,
                took: Duration::from_millis(milliseconds),
                pages,
                bytes: pages * bytes,
                pending: pages * percent / 100,
                page_bytes: PAGE_BYTES,
            };
            history.push(facts);
            let told = at + 1 >= told_in;
            let expected = rule_book(&rounds, told, &history, &mut throttle);
            prop_assert_eq!(policy.decide(&rounds, told, facts), expected);
            if !matches!(expected, Decision::Again { .. }) {
                break;
            }
        }
    }

    #[test]
    fn no_figures_overflow(
        numbers in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..4),
        page_bytes in any::<u32>(),
        rounds in rounds(),
    ) {
        let mut policy = History::default();
        for (round, (time, pages, bytes, pending)) in (1..).zip(numbers) {
            let took = Duration::from_nanos(time);
            policy.decide(&rounds, false, RoundFacts { round, took, pages, bytes, pending, page_bytes });
            let _ = policy.send_rate();
        }
    }
}

fn facts_of(round: u32, pages: u64, pending: u64) -> RoundFacts {
    let took = Duration::from_millis(100);
    RoundFacts { round, took, pages, bytes: pages * 4096, pending, page_bytes: PAGE_BYTES }
}

#[test]
fn each_rule_decides_a_case_that_no_other_does() {
    let rounds = Rounds {
        most: None,
        downtime_limit: Duration::from_millis(50),
        switch: Switch::ByItself,
        finish: true,
        throttle: None,
    };
    // 1000 pages in 100 ms: 500 pages take 50 ms.
    let decide = |rounds: Rounds, told, sequence: &[(u64, u64)]| {
        let mut policy = History::default();
        let decide = |(round, &(pages, pending))| {
            policy.decide(&rounds, told, facts_of(round, pages, pending))
        };
        (1..).zip(sequence).map(decide).last().unwrap()
    };
    let again = Decision::Again { throttle: None };
    assert_eq!(decide(rounds, false, &[(1000, 500)]), Decision::Finish);
    assert_eq!(decide(rounds, false, &[(1000, 501)]), again);
    assert_eq!(decide(rounds, true, &[(1000, 501)]), Decision::Switch);
    let never = Rounds { switch: Switch::Never, ..rounds };
    assert_eq!(decide(never, true, &[(1000, 501)]), again, "told, and may not");
    assert_eq!(decide(rounds, false, &[(1000, 900)]), Decision::Switch, "keeps up");
    assert_eq!(decide(never, false, &[(1000, 900)]), again);
    let told_only = Rounds { switch: Switch::WhenTold, ..rounds };
    assert_eq!(decide(told_only, false, &[(1000, 900)]), again);
    assert_eq!(decide(rounds, false, &[(1000, 700), (1000, 630)]), Decision::Switch, "stands");
    assert_eq!(decide(rounds, false, &[(1000, 700), (1000, 629)]), again);
    let two = Rounds { most: Some(2), ..rounds };
    assert_eq!(decide(two, false, &[(1000, 800)]), again);
    assert_eq!(decide(two, false, &[(1000, 800), (1000, 600)]), Decision::Switch, "enough");
    let whole = Rounds { finish: false, ..rounds };
    assert_eq!(decide(whole, false, &[(1000, 500)]), again, "it may not finish");
    assert_eq!(decide(whole, false, &[(1000, 100)]), Decision::Switch, "nothing to gain");
    let slow = AutoConverge { initial: 20, increment: 10, most: 35 };
    let throttled = Rounds { throttle: Some(slow), ..never };
    let throttle = |rounds: usize| decide(throttled, false, &vec![(1000, 800); rounds]);
    let steps = [None, Some(20), None, Some(30), None, Some(35), None, None];
    for (rounds, step) in (1..).zip(steps) {
        assert_eq!(throttle(rounds), Decision::Again { throttle: step }, "after {rounds}");
    }
}
