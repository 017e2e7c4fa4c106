//! When rounds of precopy end, and how. A value in, a decision out; docs/protocol.md does not depend
//! on it.
//!
//! After each round, with *predicted* the time that the pages pending now take at the send rate, the
//! first line that fits decides:
//!
//! | condition | decision |
//! |---|---|
//! | told to, or pages cannot be read, and the migration may switch | switch to postcopy |
//! | `finish`, predicted ≤ `downtime_limit` | stop the guest, send the rest as the last round |
//! | switches by itself: `most` rounds are sent | switch |
//! | switches by itself, not `finish`: predicted ≤ [`NOTHING_TO_GAIN`] | switch |
//! | switches by itself: pending ≥ [`KEEPS_UP_PERCENT`] of what the round sent | switch |
//! | switches by itself: pending ≥ [`KEEPS_UP_PERCENT`] of pending after the round before | switch |
//! | throttle on: pending ≥ [`HALF_PERCENT`] of what the round sent, twice in a row | throttle up, another round |
//! | else | another round |

use std::time::Duration;
use umem_wire::Mode;

/// From this share of the pages sent on the guest writes as fast as the link sends, per cent.
pub const KEEPS_UP_PERCENT: u64 = 90;
/// From this share of the pages sent on the rounds shrink too slowly, per cent.
pub const HALF_PERCENT: u64 = 50;
/// Below this predicted downtime another round gains nothing when postcopy follows anyway.
pub const NOTHING_TO_GAIN: Duration = Duration::from_millis(10);
/// A round that sent less does not tell the link's rate, bytes.
pub const TELLING_BYTES: u64 = 1 << 20;

/// Whether a migration that begins with precopy may switch to postcopy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Never: the guest's memory is all at the destination before the guest is.
    Never,
    /// When the operator says so.
    WhenTold,
    /// As soon as rounds gain little, or when the operator says so.
    ByItself,
}

/// Slowing the guest down when it writes faster than the link sends. All in per cent of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoConverge {
    /// The first step.
    pub initial: u8,
    /// Each further step.
    pub increment: u8,
    /// No more than this.
    pub most: u8,
}

/// Rounds of precopy, and how they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// Most rounds, when it switches by itself.
    pub most: Option<u32>,
    /// Longest predicted downtime with which precopy may finish.
    pub downtime_limit: Duration,
    /// Whether postcopy may follow.
    pub switch: Switch,
    /// Whether precopy may finish by itself.
    pub finish: bool,
    /// Slowing the guest down.
    pub throttle: Option<AutoConverge>,
}

/// How a guest's pages move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strategy {
    /// Rounds before the switch; `None`: all pages after it.
    pub rounds: Option<Rounds>,
}

impl Strategy {
    /// All pages after the switch.
    pub const POSTCOPY: Self = Self { rounds: None };

    /// What the destination is told.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.rounds {
            None => Mode::POSTCOPY,
            Some(Rounds { switch: Switch::Never, .. }) => Mode::PRECOPY,
            Some(_) => Mode::HYBRID,
        }
    }
}

/// What a round has brought, when it is placed and the dirty log is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundFacts {
    /// Its number, from 1.
    pub round: u32,
    /// From its start until it was placed.
    pub took: Duration,
    /// Pages sent in it.
    pub pages: u64,
    /// Bytes sent in it, as on the wire if no page had been packed.
    pub bytes: u64,
    /// Pages to send now.
    pub pending: u64,
    /// Bytes of a page.
    pub page_bytes: u32,
}

/// What follows a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Another one; before it the guest is to be slowed down to this, if given, per cent.
    Again {
        /// New throttle.
        throttle: Option<u8>,
    },
    /// The guest stops, and what is pending is the last round.
    Finish,
    /// Postcopy.
    Switch,
}

/// What the rounds so far have shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Of the newest round that sent enough to tell.
    telling: Option<(u64, Duration)>,
    all_bytes: u64,
    all_time: Duration,
    pending_before: Option<u64>,
    /// Rounds in a row that shrank too slowly.
    slow: u8,
    throttle: u8,
}

impl History {
    /// What tells the send rate: bytes, and the nanoseconds that they took.
    fn rate(&self) -> (u128, u128) {
        let (bytes, time) = self.telling.unwrap_or((self.all_bytes, self.all_time));
        (u128::from(bytes), time.as_nanos().max(1))
    }

    /// Bytes a second; 0 while nothing was sent.
    #[must_use]
    pub fn send_rate(&self) -> u64 {
        let (bytes, nanoseconds) = self.rate();
        u64::try_from(bytes * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
    }

    /// Time that these pages take, rounded up to nanoseconds; [`Duration::MAX`] when nothing tells it.
    #[must_use]
    pub fn predicted_downtime(&self, pending: u64, page_bytes: u32) -> Duration {
        if pending == 0 {
            return Duration::ZERO;
        }
        let (bytes, nanoseconds) = self.rate();
        if bytes == 0 {
            return Duration::MAX;
        }
        let work = u128::from(pending) * u128::from(page_bytes);
        let predicted = work.saturating_mul(nanoseconds).div_ceil(bytes);
        u64::try_from(predicted).map_or(Duration::MAX, Duration::from_nanos)
    }

    /// Takes a round into account and decides what follows it.
    pub fn decide(&mut self, rounds: &Rounds, told: bool, facts: RoundFacts) -> Decision {
        self.all_bytes = self.all_bytes.saturating_add(facts.bytes);
        self.all_time = self.all_time.saturating_add(facts.took);
        if facts.bytes >= TELLING_BYTES {
            self.telling = Some((facts.bytes, facts.took));
        }
        let pending_before = self.pending_before.replace(facts.pending);
        let predicted = self.predicted_downtime(facts.pending, facts.page_bytes);
        if told && rounds.switch != Switch::Never {
            return Decision::Switch;
        }
        if rounds.finish && predicted <= rounds.downtime_limit {
            return Decision::Finish;
        }
        let is_share = |percent: u64, of: u64| {
            u128::from(facts.pending) * 100 >= u128::from(of) * u128::from(percent)
        };
        if rounds.switch == Switch::ByItself {
            let enough = rounds.most.is_some_and(|most| facts.round >= most);
            let nothing_to_gain = !rounds.finish && predicted <= NOTHING_TO_GAIN;
            let keeps_up = is_share(KEEPS_UP_PERCENT, facts.pages);
            let stands = pending_before.is_some_and(|before| is_share(KEEPS_UP_PERCENT, before));
            if enough || nothing_to_gain || keeps_up || stands {
                return Decision::Switch;
            }
        }
        let slow = is_share(HALF_PERCENT, facts.pages);
        Decision::Again { throttle: rounds.throttle.and_then(|steps| self.step(steps, slow)) }
    }

    /// The next step of the throttle, if one is due.
    fn step(&mut self, steps: AutoConverge, slow: bool) -> Option<u8> {
        self.slow = if slow { self.slow + 1 } else { 0 };
        if self.slow < 2 {
            return None;
        }
        self.slow = 0;
        let step = if self.throttle == 0 { steps.initial } else { steps.increment };
        let throttle = self.throttle.saturating_add(step).min(steps.most);
        (std::mem::replace(&mut self.throttle, throttle) != throttle).then_some(throttle)
    }
}

#[cfg(test)]
mod tests;
