//! What is to happen in a schedule, beside chance.

use crate::random::Random;
use std::time::Duration;
use umem_migrate::{AutoConverge, Prefault, Rounds, Strategy, Switch};

/// Something that never happens because an end stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    /// The destination does not see the end of this round.
    Round(u32),
    /// Page service does not come up.
    PageService,
}

/// What goes wrong in a schedule, and how its guest behaves.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) strategy: Strategy,
    /// The operator wants the switch at this time.
    pub(crate) start_postcopy_at: Option<Duration>,
    /// The link breaks when this many messages have been sent.
    pub(crate) cut_after: Option<u64>,
    /// The link breaks at this time.
    pub(crate) cut_at: Option<Duration>,
    pub(crate) refuse_check: bool,
    pub(crate) refuse_load: bool,
    pub(crate) refuse_run: bool,
    pub(crate) refuse_stop: bool,
    pub(crate) refuse_log: bool,
    pub(crate) refuse_collect: bool,
    pub(crate) refuse_discard: bool,
    pub(crate) refuse_page_service: bool,
    /// A page of this round cannot be read.
    pub(crate) unreadable_in_round: Option<u32>,
    /// A page of this round is damaged on its way, in a way that no checksum finds.
    pub(crate) damage_in_round: Option<u32>,
    pub(crate) stall: Option<Stall>,
    pub(crate) cancel_at: Option<Duration>,
    /// The guest is reset at this time, if it runs at the destination.
    pub(crate) reset_at: Option<Duration>,
    /// Inquiries that do not get through.
    pub(crate) lost_inquiries: u64,
    pub(crate) prefault: Prefault,
    pub(crate) no_background: bool,
    /// Whether the background is told which pages were written last.
    pub(crate) prefers: bool,
    /// The guest writes pages below this number while it runs at the source, and reads all.
    pub(crate) working_set: u64,
    /// After this time it writes no more at the source.
    pub(crate) quiet_at: Duration,
}

impl Script {
    /// Nothing goes wrong.
    pub(crate) fn undisturbed(strategy: Strategy) -> Self {
        Self {
            strategy,
            start_postcopy_at: None,
            cut_after: None,
            cut_at: None,
            refuse_check: false,
            refuse_load: false,
            refuse_run: false,
            refuse_stop: false,
            refuse_log: false,
            refuse_collect: false,
            refuse_discard: false,
            refuse_page_service: false,
            unreadable_in_round: None,
            damage_in_round: None,
            stall: None,
            cancel_at: None,
            reset_at: None,
            lost_inquiries: 0,
            prefault: Prefault::default(),
            no_background: false,
            prefers: false,
            working_set: 6,
            quiet_at: Duration::from_millis(20),
        }
    }

    pub(crate) fn random(random: &mut Random) -> Self {
        let strategy = strategy(random);
        let told = match strategy.rounds {
            // Nothing else would end the rounds of a guest that does not come to rest.
            Some(Rounds { switch: Switch::WhenTold, .. }) => true,
            _ => random.once_in(5),
        };
        // Rounds give more to disturb, and take longer.
        let (messages, length) =
            if strategy.rounds.is_some() { (240, 40_000) } else { (90, 12_000) };
        let disturbed = !random.once_in(3);
        Self {
            start_postcopy_at: told.then(|| Duration::from_micros(random.below(20_000))),
            cut_after: (disturbed && !random.once_in(3)).then(|| random.below(messages)),
            cut_at: (disturbed && random.once_in(3))
                .then(|| Duration::from_micros(random.below(length))),
            refuse_check: random.once_in(40),
            refuse_load: random.once_in(30),
            refuse_run: random.once_in(12),
            refuse_stop: random.once_in(30),
            refuse_log: random.once_in(60),
            refuse_collect: random.once_in(60),
            refuse_discard: random.once_in(40),
            refuse_page_service: random.once_in(40),
            unreadable_in_round: random.once_in(30).then(|| 1 + random.below(4) as u32),
            damage_in_round: random.once_in(20).then(|| 1 + random.below(4) as u32),
            stall: random.once_in(30).then(|| match random.once_in(3) {
                true => Stall::PageService,
                false => Stall::Round(1 + random.below(4) as u32),
            }),
            cancel_at: random.once_in(8).then(|| Duration::from_micros(random.below(length / 2))),
            reset_at: random.once_in(8).then(|| Duration::from_micros(random.below(length))),
            lost_inquiries: random.below(4),
            prefault: Prefault {
                adaptive: random.once_in(2),
                forward: random.below(4),
                backward: random.below(3),
                move_background: random.once_in(2),
            },
            no_background: random.once_in(10),
            prefers: random.once_in(2),
            working_set: 1 + random.below(24),
            quiet_at: Duration::from_micros(random.below(40_000)),
            strategy,
        }
    }
}

/// Precopy that finishes when the rest takes this long.
pub(crate) fn precopy(downtime_limit: Duration) -> Rounds {
    Rounds { most: None, downtime_limit, switch: Switch::Never, finish: true, throttle: None }
}

fn strategy(random: &mut Random) -> Strategy {
    if random.once_in(3) {
        return Strategy::POSTCOPY;
    }
    let limit = [0, 300, 2000, 50_000][random.below(4) as usize];
    let mut rounds = precopy(Duration::from_micros(limit));
    if random.once_in(3) {
        let percent = |random: &mut Random| random.below(60) as u8;
        let (initial, increment) = (percent(random), percent(random));
        rounds.throttle = Some(AutoConverge { initial, increment, most: 40 + percent(random) / 2 });
    }
    if !random.once_in(3) {
        rounds.switch = if random.once_in(4) { Switch::WhenTold } else { Switch::ByItself };
        rounds.finish = random.once_in(2);
        rounds.most = random.once_in(2).then(|| 1 + random.below(4) as u32);
    }
    Strategy { rounds: Some(rounds) }
}
