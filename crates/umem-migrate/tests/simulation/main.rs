//! Both ends of a migration in virtual time: thousands of schedules with delay, reordering between
//! channels, refusals, cancellation and loss of the link at every message, each from a printed seed.
//!
//! What must hold after every step: at most one side runs the guest; a page read by the guest has
//! what the guest last wrote. At the end: exactly one side runs it, and an agreed end means that all
//! pages are there.
#![allow(clippy::unwrap_used)]

mod random;
mod world;

use random::Random;
use std::collections::BTreeMap;
use world::{Outcome, Script, World};

const SCHEDULES: u64 = 12_000;

fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let script = Script::random(&mut random);
    World::new(script, random).run()
}

#[test]
fn exactly_one_side_runs_the_guest_and_no_page_is_lost_in_any_schedule() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..SCHEDULES {
        let outcome = std::panic::catch_unwind(|| run(seed));
        match outcome {
            Ok(outcome) => *seen.entry(format!("{outcome:?}")).or_default() += 1,
            Err(cause) => {
                eprintln!("schedule with seed {seed} failed");
                std::panic::resume_unwind(cause);
            }
        }
    }
    eprintln!("{seen:#?}");
    // The schedules reach what they are for.
    for outcome in [
        Outcome::Agreed,
        Outcome::StaysAtSource,
        Outcome::TakenBackByAsking,
        Outcome::HandedOverByAsking,
        Outcome::LinkLostWhilePagesMissing,
        Outcome::CompleteWithoutAgreement,
    ] {
        assert!(
            seen.get(&format!("{outcome:?}")).is_some_and(|count| *count >= 50),
            "{outcome:?}: {seen:?}"
        );
    }
}

#[test]
fn a_cut_after_each_message_of_an_undisturbed_move_ends_well() {
    let undisturbed = || World::new(Script::default(), Random::new(1));
    let messages = {
        let mut world = undisturbed();
        assert_eq!(world.play(), Outcome::Agreed);
        world.messages()
    };
    assert!(messages > 30, "{messages}");
    for cut in 0..messages {
        let script = Script { cut_after: Some(cut), ..Script::default() };
        let outcome = World::new(script, Random::new(1)).run();
        assert_ne!(outcome, Outcome::Agreed, "cut after message {cut}");
    }
}
