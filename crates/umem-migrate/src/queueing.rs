//! How much of the background may be under way, so that a demanded page does not stand behind it in a queue of
//! the network. What the kernel knows of the path in, a budget out; docs/protocol.md does not depend on it.
//!
//! A connection that nobody holds back fills the queue before the slowest link; all that shares this link
//! waits in it. The round trip that the kernel measures tells: what it has grown by is the queue.
//!
//! | the queue | under way at most |
//! |---|---|
//! | at most [`SEEN_FROM`], or twice [`Queueing::delay`], so far | twice what the path holds, at least [`AMPLE`] |
//! | once more than that | what the path holds, and as much as passes in [`Queueing::delay`] |
//!
//! What a path holds is its rate times its shortest round trip. The rate is what was acknowledged in
//! [`RATE_OVER`], the greatest seen, which fades by an eighth a second: a budget that is too small shows in no
//! queue, so the rate rises, and the budget with it. (What the kernel tells of the rate is of one round trip,
//! in which a token bucket lets a burst pass many times faster than what follows it.)

use std::time::Duration;

/// Bytes under way at least, where nothing tells against it.
pub const AMPLE: u64 = 1 << 20;
/// Bytes under way at least, whatever the path is like.
pub const LEAST: u64 = 12 << 10;
/// Bytes under way while there is a queue and no rate is known: what 10 Gbit/s are in [`SHORTEST_DELAY`].
const UNKNOWN: u64 = 125_000;
/// Longest queue that a demanded page may find, on a path without a length of its own.
pub const SHORTEST_DELAY: Duration = Duration::from_micros(100);
/// Growth of the round trip that is a queue, and not how busy the hosts are.
pub const SEEN_FROM: Duration = Duration::from_micros(500);
/// Time over which a rate is measured.
pub const RATE_OVER: Duration = Duration::from_millis(10);
/// Time in which a rate that is not seen again fades, if nothing is looked at meanwhile.
const FADES_IN: Duration = Duration::from_secs(8);

/// What the kernel knows of the path of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFacts {
    /// The round trip now, smoothed.
    pub round_trip: Duration,
    /// The shortest round trip so far.
    pub shortest: Duration,
    /// Bytes that the peer has acknowledged so far.
    pub acknowledged: u64,
}

/// What may be under way on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes sent and not acknowledged.
    pub bytes: u64,
    /// Bytes of a frame: two of them fit.
    pub frame: u64,
    /// Whether there was a queue.
    pub queued: bool,
}

/// The path of one connection, as far as it was seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Queueing {
    /// Bytes a second.
    rate: u64,
    /// When the rate was measured last, and what was acknowledged by then.
    measured: Option<(Duration, u64)>,
    queued: bool,
}

impl Queueing {
    /// Longest queue that a demanded page may find on a path.
    #[must_use]
    pub fn delay(shortest: Duration) -> Duration {
        SHORTEST_DELAY.max(shortest / 4)
    }

    /// What may be under way, by what is known `now` (any clock that does not go back). A queue matters only
    /// when somebody may wait in it.
    pub fn look(&mut self, now: Duration, facts: PathFacts, waited_for: bool) -> Budget {
        self.measure(now, facts.acknowledged);
        let delay = Self::delay(facts.shortest);
        let seen_from = SEEN_FROM.max(delay.saturating_mul(2));
        let queue = facts.round_trip.saturating_sub(facts.shortest) > seen_from;
        self.queued |= waited_for && queue;
        let holds = |time: Duration| {
            let bytes = u128::from(self.rate).saturating_mul(time.as_micros()) / 1_000_000;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        let bytes = match self.queued {
            true if self.rate > 0 => holds(facts.shortest.saturating_add(delay)).max(LEAST),
            true => UNKNOWN,
            false => holds(facts.shortest).saturating_mul(2).max(AMPLE),
        };
        Budget { bytes, frame: bytes / 2, queued: self.queued }
    }

    fn measure(&mut self, now: Duration, acknowledged: u64) {
        let (since, before) = *self.measured.get_or_insert((now, acknowledged));
        let passed = now.saturating_sub(since);
        if passed < RATE_OVER {
            return;
        }
        self.measured = Some((now, acknowledged));
        let bytes = u128::from(acknowledged.saturating_sub(before));
        let seen = u64::try_from(bytes * 1_000_000 / passed.as_micros()).unwrap_or(u64::MAX);
        let fades = passed.as_micros().min(FADES_IN.as_micros()) * u128::from(self.rate);
        let fades = u64::try_from(fades / FADES_IN.as_micros()).unwrap_or(u64::MAX);
        self.rate = self.rate.saturating_sub(fades).max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT: u64 = 118_000_000;

    /// A path with a clock.
    #[derive(Default)]
    struct Path {
        queueing: Queueing,
        now: Duration,
        acknowledged: u64,
    }

    impl Path {
        /// So many milliseconds at this rate, then a look.
        fn after(&mut self, ms: u64, rate: u64, round_trip_us: u64, shortest_us: u64) -> Budget {
            self.now += Duration::from_millis(ms);
            self.acknowledged += rate / 1000 * ms;
            let [round_trip, shortest] = [round_trip_us, shortest_us].map(Duration::from_micros);
            let facts = PathFacts { round_trip, shortest, acknowledged: self.acknowledged };
            self.queueing.look(self.now, facts, true)
        }
    }

    #[test]
    fn the_budget_fits_the_path() {
        for (round_trip, shortest, rate, bytes, queued) in [
            // A fast path without a queue, and one where nothing passes.
            (40, 20, 2_000_000_000, AMPLE, false),
            (0, 0, 0, AMPLE, false),
            // Busy hosts, but no queue.
            (550, 100, GBIT, AMPLE, false),
            // A long one, whose length is no queue.
            (51_000, 50_000, GBIT, 11_800_000, false),
            // 1 Gbit/s across a room with 2 ms of queue; the same across a country.
            (2100, 100, GBIT, 23_600, true),
            (45_000, 20_000, GBIT, 2_950_000, true),
            // A link so slow that one page takes longer than the delay.
            (90_000, 1000, 1 << 17, LEAST, true),
        ] {
            let mut path = Path::default();
            path.after(0, 0, 0, 0);
            let budget = path.after(10, rate, round_trip, shortest);
            assert_eq!(budget, Budget { bytes, frame: bytes / 2, queued });
        }
    }

    #[test]
    fn a_queue_is_remembered_and_a_rate_fades() {
        let mut path = Path::default();
        let first = path.after(0, 0, 900, 100);
        assert_eq!((first.queued, first.bytes), (true, 125_000), "no rate is known");
        let full = path.after(10, GBIT, 900, 100);
        assert_eq!(full.bytes, 23_600);
        // A burst that is too short to tell changes nothing.
        assert_eq!(path.after(2, 20 * GBIT, 900, 100), full);
        path.acknowledged -= GBIT / 1000 * 40;
        // One slow stretch changes little; the queue is gone because of the budget, which stays.
        let soon = path.after(10, GBIT / 10, 150, 100);
        assert!(soon.queued && soon.bytes > full.bytes * 99 / 100, "{soon:?}");
        let later = path.after(1000, GBIT / 10, 150, 100);
        assert!(later.bytes < soon.bytes && later.bytes > soon.bytes * 4 / 5, "{later:?}");
        // A rate that grows is believed at once.
        let grown = path.after(10, 2 * GBIT, 150, 100);
        assert_eq!(grown.bytes, 2 * full.bytes);
        assert!(path.after(1 << 40, 0, 150, 100).bytes >= LEAST);
    }

    #[test]
    fn a_queue_in_which_nobody_waits_does_not_matter() {
        let mut queueing = Queueing::default();
        let [round_trip, shortest] = [2100, 100].map(Duration::from_micros);
        let facts = PathFacts { round_trip, shortest, acknowledged: 0 };
        assert!(!queueing.look(Duration::ZERO, facts, false).queued);
        assert!(queueing.look(Duration::ZERO, facts, true).queued);
        let most = PathFacts {
            round_trip: Duration::MAX,
            shortest: Duration::MAX,
            acknowledged: u64::MAX,
        };
        assert!(queueing.look(Duration::MAX, most, true).bytes >= LEAST);
    }
}
