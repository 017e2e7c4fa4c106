//! The guest's heartbeats as the host heard them: the same measure for whoever moves it.

use super::{End, GuestLine, Heard};
use anyhow::{Result, bail};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Length of a window of the writing rate.
const WINDOW: Duration = Duration::from_millis(100);
/// A longer time between two heartbeats counts as a silence. Linux beats each 10 ms.
const SILENCE: Duration = Duration::from_millis(20);
/// The guest is back when it writes at this share of its former rate ...
const BACK: f64 = 0.9;
/// ... in the first of these windows and, on average, in the second.
const BACK_IN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// How long before the move the former rate is taken.
pub const BEFORE: Duration = Duration::from_secs(2);
/// How long after the move the guest is listened to.
pub const AFTER: Duration = Duration::from_secs(1);

/// A heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// Where it was heard.
    pub end: End,
    /// When it was heard.
    pub at: Instant,
    /// Pages that the guest had written.
    pub writes: u64,
}

/// Writes in one window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Window {
    /// Its begin, from the start of the migration.
    pub ms: i64,
    /// Pages written in it.
    pub writes: u64,
    /// Whether the guest was switched over in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub switch: bool,
}

/// All heartbeats, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Beats(Vec<Beat>);

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Beats {
    /// Adds one.
    pub fn push(&mut self, beat: Beat) {
        self.0.push(beat);
    }

    /// Takes the heartbeats out of what was heard; all else goes to `said`.
    ///
    /// # Errors
    /// When the guest says that it cannot go on.
    pub fn take(&mut self, heard: Vec<Heard>, said: &mut Vec<Heard>) -> Result<()> {
        for heard in heard {
            match heard.line {
                GuestLine::Beat { writes, .. } => {
                    self.push(Beat { end: heard.end, at: heard.at, writes });
                }
                GuestLine::Failed(why) => bail!("the guest cannot go on: {why}"),
                _ => said.push(heard),
            }
        }
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&Beat> {
        self.0.last()
    }

    /// All of them from `from` until `until`.
    #[must_use]
    pub fn between(&self, from: Instant, until: Instant) -> &[Beat] {
        let begin = self.0.partition_point(|beat| beat.at < from);
        let end = self.0.partition_point(|beat| beat.at <= until);
        self.0.get(begin..end).unwrap_or_default()
    }

    /// The last one heard at the source, if any came from the destination.
    #[must_use]
    pub fn switch(&self) -> Option<Instant> {
        self.0.iter().find(|beat| beat.end == End::Destination)?;
        self.0.iter().rfind(|beat| beat.end == End::Source).map(|beat| beat.at)
    }

    /// Longest time between two heartbeats from `from` until `until`, in milliseconds.
    #[must_use]
    pub fn longest_gap_ms(&self, from: Instant, until: Instant) -> f64 {
        self.gaps(from, until).max().map_or(0.0, milliseconds)
    }

    /// Silences of more than 20 ms that touch the time from `from` until `until`, each whole, added up, in
    /// milliseconds. A heartbeat behind `heard` ends none: the guest was asked to be silent.
    #[must_use]
    pub fn stall_ms(&self, from: Instant, until: Instant, heard: Instant) -> f64 {
        // The silence that goes on at the end ends with the next heartbeat.
        let after = self.0.partition_point(|beat| beat.at <= until);
        let next = self.0.get(after).filter(|beat| beat.at <= heard);
        let until = next.map_or(until, |beat| beat.at);
        milliseconds(self.gaps(from, until).filter(|gap| *gap > SILENCE).sum())
    }

    /// Times between heartbeats that follow each other, the first begun at or before `from`.
    fn gaps(&self, from: Instant, until: Instant) -> impl Iterator<Item = Duration> {
        let begin = self.0.partition_point(|beat| beat.at < from).saturating_sub(1);
        let end = self.0.partition_point(|beat| beat.at <= until);
        let pairs = self.0.get(begin..end).unwrap_or_default().windows(2);
        pairs.filter_map(|pair| Some(pair.last()?.at.duration_since(pair.first()?.at)))
    }

    /// Time between the last heartbeat from the source and the first from the destination.
    #[must_use]
    pub fn gap_at_switch_ms(&self) -> Option<f64> {
        let first = self.0.iter().position(|beat| beat.end == End::Destination)?;
        let (first, last) = (self.0.get(first)?, self.0.get(first.checked_sub(1)?)?);
        Some(milliseconds(first.at.duration_since(last.at)))
    }

    /// Pages written a second in this window; `None` beyond what was heard.
    #[must_use]
    pub fn per_second(&self, from: Instant, window: Duration) -> Option<f64> {
        let writes = self.about(from.checked_add(window)?)? - self.about(from)?;
        Some(writes / window.as_secs_f64())
    }

    /// From the last heartbeat at the source until one at the destination from which on the guest writes at 90 % of
    /// the rate `former`, in the next 100 ms and in the next 500 ms, in milliseconds. `None`: not as far as was
    /// listened, or it wrote nothing before.
    #[must_use]
    pub fn back_ms(&self, former: f64) -> Option<f64> {
        let last = self.switch().filter(|_| former > 0.0)?;
        let well = |from: Instant| {
            let fast =
                |window| self.per_second(from, window).is_some_and(|now| now >= BACK * former);
            BACK_IN.into_iter().all(fast)
        };
        let after = self.0.iter().filter(|beat| beat.end == End::Destination);
        after.map(|beat| beat.at).find(|&at| well(at)).map(|at| milliseconds(at - last))
    }

    /// The guest's writes at a moment between two heartbeats, as if they were made evenly.
    fn about(&self, moment: Instant) -> Option<f64> {
        let after = self.0.partition_point(|beat| beat.at < moment);
        let (before, after) = (self.0.get(after.checked_sub(1)?)?, self.0.get(after)?);
        let whole = (after.at - before.at).as_secs_f64();
        let share = if whole > 0.0 { (moment - before.at).as_secs_f64() / whole } else { 1.0 };
        Some(before.writes as f64 + share * after.writes.saturating_sub(before.writes) as f64)
    }

    /// Writes in each window of 100 ms, from one second before `start` until `until`.
    #[must_use]
    pub fn rate(&self, start: Instant, until: Instant) -> Vec<Window> {
        let from = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        let switched = self.switch();
        let mut windows = Vec::new();
        let (mut begin, mut ms) = (from, -milliseconds(start.duration_since(from)) as i64);
        while let Some(end) = begin.checked_add(WINDOW).filter(|end| *end <= until) {
            let switch = switched.is_some_and(|switched| (begin..end).contains(&switched));
            let writes = self.writes_at(end).saturating_sub(self.writes_at(begin));
            windows.push(Window { ms, writes, switch });
            (begin, ms) = (end, ms + WINDOW.as_millis() as i64);
        }
        windows
    }

    /// The counter as last heard by `moment`.
    fn writes_at(&self, moment: Instant) -> u64 {
        let next = self.0.partition_point(|beat| beat.at <= moment);
        let last = next.checked_sub(1).and_then(|last| self.0.get(last));
        last.or(self.0.first()).map_or(0, |beat| beat.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_taken_out_of_what_was_heard_and_a_guest_that_gives_up_is_an_error() {
        let heard = |line| Heard { end: End::Source, at: Instant::now(), line };
        let (mut beats, mut said) = (Beats::default(), Vec::new());
        let lines = [GuestLine::Mark, GuestLine::Beat { clock_us: 5, writes: 7 }, GuestLine::Bye];
        beats.take(lines.map(heard).into(), &mut said).unwrap();
        assert_eq!((beats.count(), beats.last().unwrap().writes), (1, 7));
        let said_lines: Vec<_> = said.iter().map(|heard| &heard.line).collect();
        assert_eq!(said_lines, [&GuestLine::Mark, &GuestLine::Bye]);
        let gives_up = vec![heard(GuestLine::Failed("no memory".into()))];
        let why = beats.take(gives_up, &mut said).unwrap_err().to_string();
        assert!(why.contains("no memory"), "{why}");
    }

    #[test]
    fn gaps_and_windows_follow_from_the_arrivals() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut beats = Beats::default();
        let mut writes = 0;
        for ms in (-1000_i64..1000).step_by(10) {
            // The guest stands still from 40 to 310 ms; the host heard nothing.
            if (41..310).contains(&ms) {
                continue;
            }
            writes += 5;
            let end = if ms <= 40 { End::Source } else { End::Destination };
            let at = start - Duration::from_secs(1) + Duration::from_millis((ms + 1000) as u64);
            beats.push(Beat { end, at, writes });
        }
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(beats.longest_gap_ms(start, after(1000)).round(), 270.0);
        assert_eq!(beats.gap_at_switch_ms().map(f64::round), Some(270.0));
        assert_eq!(beats.longest_gap_ms(start, after(300)).round(), 10.0);
        assert_eq!(beats.longest_gap_ms(after(400), after(1000)).round(), 10.0);
        let end = after(1000);
        assert_eq!(beats.stall_ms(start, end, end).round(), 270.0);
        assert_eq!(beats.stall_ms(after(400), end, end), 0.0);
        assert_eq!(beats.stall_ms(start, after(200), end).round(), 270.0, "it goes on at the end");
        assert_eq!(beats.stall_ms(start, after(200), after(300)), 0.0, "that was not listened to");
        assert_eq!(beats.between(after(30), after(310)).len(), 3);
        let windows = beats.rate(start, after(550));
        let seen: Vec<_> = windows.iter().map(|w| (w.ms, w.writes, w.switch)).skip(9).collect();
        let expected = [
            (-100, 50, false),
            (0, 20, true),
            (100, 0, false),
            (200, 0, false),
            (300, 50, false),
            (400, 50, false),
        ];
        assert_eq!(seen, expected);
    }

    /// Beats each 10 ms with 200 writes each, around a switch at 3 s with this silence and a slow time after it.
    fn series(zero: Instant, silence: u64, slow: u64) -> Beats {
        let mut beats = Beats::default();
        let (mut now, mut writes) = (0, 0);
        while now < 6000 {
            let end = if now >= 3000 { End::Destination } else { End::Source };
            beats.push(Beat { end, at: zero + Duration::from_millis(now), writes });
            let silent = now == 2990;
            let is_slow = end == End::Destination && now < 3000 + silence + slow;
            writes += if silent || is_slow { 20 } else { 200 };
            now += if silent { 10 + silence } else { 10 };
        }
        beats
    }

    #[test]
    fn a_guest_is_back_when_it_writes_as_before() {
        let zero = Instant::now();
        let beats = series(zero, 100, 500);
        let former = beats.per_second(zero + Duration::from_millis(500), BEFORE).unwrap();
        assert_eq!(former.round(), 20_000.0);
        assert_eq!(beats.switch(), Some(zero + Duration::from_millis(2990)));
        // 0.6 of the second at a tenth of the rate or less.
        let first = beats.per_second(beats.switch().unwrap(), Duration::from_secs(1)).unwrap();
        assert!((0.4..0.5).contains(&(first / former)), "{first}");
        let back = beats.back_ms(former).unwrap();
        assert!((590.0..=620.0).contains(&back), "{back}");
    }

    #[test]
    fn a_guest_that_never_slowed_down_is_back_after_the_gap_and_one_that_stays_slow_never() {
        let zero = Instant::now();
        assert_eq!(series(zero, 0, 10_000).back_ms(20_000.0), None);
        assert_eq!(series(zero, 0, 0).back_ms(0.0), None, "it wrote nothing before");
        assert_eq!(series(zero, 0, 0).back_ms(20_000.0).map(f64::round), Some(10.0));
    }
}
