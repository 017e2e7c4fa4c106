//! Both ends of a migration in virtual time: thousands of schedules of postcopy, precopy and both in
//! turn, with delay, reordering between channels, refusals, damage, cancellation, an operator who wants
//! the switch, a reset of the guest, and loss of the link at every message, each from a printed seed.
//!
//! What must hold after every step: at most one side runs the guest; a page read by the guest has
//! what the guest last wrote. At the end: exactly one side runs it; every page has there what was last
//! written, or is missing there and kept at the source; an agreed end means that all pages are there
//! and both digests alike.
#![allow(clippy::unwrap_used)]

mod destination_end;
mod network;
mod random;
mod script;
mod source_end;
mod world;

use random::Random;
use script::{Script, Stall, precopy};
use std::collections::BTreeMap;
use std::time::Duration;
use umem_migrate::{Rounds, Strategy, Switch};
use world::{Outcome, Way, World};

const SCHEDULES: u64 = 16_000;

fn run(seed: u64) -> (Way, Outcome) {
    let mut random = Random::new(seed);
    let script = Script::random(&mut random);
    World::new(script, random).play()
}

#[test]
fn exactly_one_side_runs_the_guest_and_no_page_is_lost_or_stale_in_any_schedule() {
    let mut seen: BTreeMap<(Way, Outcome), u64> = BTreeMap::new();
    for seed in 0..SCHEDULES {
        let ended = std::panic::catch_unwind(|| run(seed));
        match ended {
            Ok(ended) => *seen.entry(ended).or_default() += 1,
            Err(cause) => {
                eprintln!("schedule with seed {seed} failed");
                std::panic::resume_unwind(cause);
            }
        }
    }
    eprintln!("{seen:#?}");
    // The schedules reach what they are for.
    use Outcome::{
        Agreed, CompleteWithoutAgreement, HandedOverByAsking, LinkLostWhilePagesMissing,
        MemoryVoid, StaysAtSource, TakenBackByAsking,
    };
    let mut reached = vec![(Way::NotStopped, StaysAtSource)];
    for way in [Way::Postcopy, Way::FinishedByPrecopy, Way::SwitchedAfterRounds] {
        reached.extend([Agreed, StaysAtSource, TakenBackByAsking].map(|outcome| (way, outcome)));
    }
    for way in [Way::Postcopy, Way::SwitchedAfterRounds] {
        reached.extend([HandedOverByAsking, LinkLostWhilePagesMissing].map(|end| (way, end)));
        reached.extend([CompleteWithoutAgreement, MemoryVoid].map(|end| (way, end)));
    }
    for ended in reached {
        assert!(seen.get(&ended).is_some_and(|count| *count >= 20), "{ended:?}: {seen:#?}");
    }
    let stranded = |&(way, outcome): &(Way, Outcome)| {
        way == Way::FinishedByPrecopy
            && !matches!(outcome, Agreed | StaysAtSource | TakenBackByAsking)
    };
    assert!(!seen.keys().any(stranded), "precopy that finished needs the link no more: {seen:#?}");
}

fn hybrid() -> Strategy {
    let rounds = precopy(Duration::from_millis(1));
    let rounds = Rounds { most: Some(2), switch: Switch::ByItself, finish: false, ..rounds };
    Strategy { rounds: Some(rounds) }
}

#[test]
fn a_cut_after_each_message_of_an_undisturbed_move_ends_well() {
    let by_precopy = Strategy { rounds: Some(precopy(Duration::from_millis(5))) };
    for (strategy, way) in [
        (Strategy::POSTCOPY, Way::Postcopy),
        (by_precopy, Way::FinishedByPrecopy),
        (hybrid(), Way::SwitchedAfterRounds),
    ] {
        let script = Script::undisturbed(strategy);
        let mut undisturbed = World::new(script.clone(), Random::new(1));
        assert_eq!(undisturbed.play(), (way, Outcome::Agreed));
        let messages = undisturbed.messages();
        assert!(messages > 30, "{way:?}: {messages}");
        for cut in 0..messages {
            let script = Script { cut_after: Some(cut), ..script.clone() };
            let (_, outcome) = World::new(script, Random::new(1)).play();
            // Precopy is agreed on before the handover.
            let may_agree = way == Way::FinishedByPrecopy;
            assert!(may_agree || outcome != Outcome::Agreed, "{way:?}, cut after message {cut}");
        }
    }
}

#[test]
fn an_operator_gets_the_switch_in_the_middle_of_a_round() {
    let rounds = Rounds { switch: Switch::WhenTold, ..precopy(Duration::ZERO) };
    let mut switched = 0;
    for microseconds in (0..6000).step_by(50) {
        let at = Duration::from_micros(microseconds);
        let script = Script {
            start_postcopy_at: Some(at),
            quiet_at: Duration::from_secs(1),
            working_set: 24,
            ..Script::undisturbed(Strategy { rounds: Some(rounds) })
        };
        let (way, outcome) = World::new(script, Random::new(microseconds)).play();
        assert_eq!(outcome, Outcome::Agreed, "told at {at:?}");
        switched += u64::from(way == Way::SwitchedAfterRounds);
    }
    assert!(switched > 100, "{switched} of 120");
}

#[test]
fn a_page_damaged_in_a_round_is_found_before_the_handover() {
    let by_precopy = Strategy { rounds: Some(precopy(Duration::from_secs(5))) };
    for (strategy, round, way) in [
        (hybrid(), 1, Way::NotStopped),
        (by_precopy, 1, Way::NotStopped),
        // The last one, with the guest stopped.
        (by_precopy, 2, Way::FinishedByPrecopy),
    ] {
        let script = Script { damage_in_round: Some(round), ..Script::undisturbed(strategy) };
        let mut world = World::new(script, Random::new(3));
        assert_eq!(world.play(), (way, Outcome::StaysAtSource));
        let error = world.source.error().unwrap();
        assert!(error.contains(&format!("up to round {round}")), "{error}");
    }
}

#[test]
fn a_destination_that_stands_still_is_given_up_in_time() {
    let by_precopy = Strategy { rounds: Some(precopy(Duration::from_secs(5))) };
    for (strategy, stall, way, bound) in [
        (by_precopy, Stall::Round(1), Way::NotStopped, 60),
        (by_precopy, Stall::Round(2), Way::FinishedByPrecopy, 30),
        (hybrid(), Stall::Round(1), Way::NotStopped, 60),
        (hybrid(), Stall::PageService, Way::NotStopped, 30),
        (Strategy::POSTCOPY, Stall::PageService, Way::NotStopped, 30),
    ] {
        let script = Script { stall: Some(stall), ..Script::undisturbed(strategy) };
        let mut world = World::new(script, Random::new(4));
        assert_eq!(world.play(), (way, Outcome::StaysAtSource), "{stall:?}");
        let error = world.source.error().unwrap();
        assert!(error.contains(&format!("within {bound} s")), "{error}");
        let late = world.network.now.as_secs();
        assert!((bound..bound + 2).contains(&late), "{late} s, {stall:?}");
    }
}
