//! What is read off the guest's heartbeats and verdict: the same measure for whoever moves it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use umem_bench::stats::rounded;

/// A silence longer than this counts as a stall; heartbeats come each 10 ms.
const SILENCE: Duration = Duration::from_millis(20);
/// The guest is back when it writes at this share of its former rate ...
const BACK: f64 = 0.9;
/// ... in the first of these windows and, on average, in the second.
const WINDOWS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// How long before the move the former rate is taken.
pub(crate) const BEFORE: Duration = Duration::from_secs(2);
/// How long after the move the guest is listened to.
pub(crate) const AFTER: Duration = Duration::from_secs(1);

/// A heartbeat: when it was heard, at which end, and the guest's writes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    pub(crate) end: usize,
    pub(crate) at: Instant,
    pub(crate) writes: u64,
}

impl Beat {
    /// `h <clock us> <writes>`
    pub(crate) fn parse(line: &str, end: usize, at: Instant) -> Option<Self> {
        let mut words = line.strip_prefix("h ")?.split(' ');
        words.next()?.parse::<u64>().ok()?;
        Some(Self { end, at, writes: words.next()?.parse().ok()? })
    }
}

/// The numbers of a verdict, by their names; `ok` is its word.
pub(crate) fn verdict(line: &str) -> Option<Value> {
    let mut words = line.strip_prefix("verdict ")?.split(' ');
    let mut found = Map::new();
    found.insert("ok".into(), json!(words.next()? == "ok"));
    for word in words {
        let (name, value) = word.split_once('=')?;
        found.insert(name.into(), json!(value.parse::<u64>().ok()));
    }
    Some(Value::Object(found))
}

fn ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// Silences longer than [`SILENCE`] that touch the time between, added up.
fn stall(beats: &[Beat], from: Instant, until: Instant) -> Duration {
    let silences = beats.windows(2).filter_map(|pair| match pair {
        [before, after] if after.at > from && before.at < until => Some(after.at - before.at),
        _ => None,
    });
    silences.filter(|&silence| silence > SILENCE).sum()
}

/// The guest's writes at a time between two heartbeats, as if they were made evenly.
fn writes_at(beats: &[Beat], time: Instant) -> Option<f64> {
    let after = beats.iter().position(|beat| beat.at >= time)?;
    let (before, after) = (beats.get(after.checked_sub(1)?)?, beats.get(after)?);
    let share = (time - before.at).as_secs_f64() / (after.at - before.at).as_secs_f64();
    Some(before.writes as f64 + share * after.writes.saturating_sub(before.writes) as f64)
}

fn rate(beats: &[Beat], from: Instant, window: Duration) -> Option<f64> {
    let writes = writes_at(beats, from + window)? - writes_at(beats, from)?;
    Some(writes / window.as_secs_f64())
}

/// From the last heartbeat at the source until the guest writes as fast as before, for good as far as
/// was listened.
fn back(beats: &[Beat], last: Instant, former: f64) -> Option<Duration> {
    let well = |from| {
        WINDOWS
            .iter()
            .all(|&window| rate(beats, from, window).is_some_and(|now| now >= BACK * former))
    };
    let after = beats.iter().filter(|beat| beat.end == 1);
    after.map(|beat| beat.at).find(|&at| well(at)).map(|at| at - last)
}

/// What the heartbeats tell of a move that began at `start` and was complete at `done`.
pub(crate) fn analyse(beats: &[Beat], start: Instant, done: Instant) -> Result<Value> {
    let last = beats.iter().rfind(|beat| beat.end == 0).context("no heartbeat at the source")?;
    let first = beats.iter().find(|beat| beat.end == 1);
    let first = first.context("no heartbeat at the destination")?;
    let former = rate(beats, start - BEFORE, BEFORE).context("no heartbeats before the move")?;
    let before: Vec<Beat> = beats.iter().copied().filter(|beat| beat.at < start).collect();
    let longest = beats
        .windows(2)
        .filter_map(|pair| match pair {
            [before, after] if after.at > start => Some(after.at - before.at),
            _ => None,
        })
        .max();
    Ok(json!({
        "gap_at_switch_ms": ms(first.at.saturating_duration_since(last.at)),
        "longest_gap_ms": longest.map(ms),
        "stall_ms": ms(stall(beats, start, done)),
        "stall_before_ms": ms(stall(&before, start - BEFORE, start)),
        "rate_before": rounded(former),
        // Of the writes that the second after the switch would have had without it.
        "first_second_percent": rate(beats, last.at, Duration::from_secs(1))
            .map(|now| rounded(100.0 * now / former)),
        "back_to_90_ms": back(beats, last.at, former).map(ms),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beats each 10 ms with `rate` writes each, around a switch at 3 s with this silence and a slow time
    /// after it.
    fn series(start: Instant, silence: u64, slow: u64) -> Vec<Beat> {
        let mut beats = Vec::new();
        let (mut now, mut writes) = (0, 0);
        while now < 6000 {
            let end = usize::from(now >= 3000);
            beats.push(Beat { end, at: start + Duration::from_millis(now), writes });
            let silent = now == 2990;
            writes += if silent || (end == 1 && now < 3000 + silence + slow) { 20 } else { 200 };
            now += if silent { 10 + silence } else { 10 };
        }
        beats
    }

    #[test]
    fn gap_stall_and_return_are_read_off_the_heartbeats() {
        let zero = Instant::now();
        let beats = series(zero, 100, 500);
        let at = |ms| zero + Duration::from_millis(ms);
        let found = analyse(&beats, at(2900), at(4000)).unwrap();
        assert_eq!(found["gap_at_switch_ms"], 110.0);
        assert_eq!(found["longest_gap_ms"], 110.0);
        assert_eq!(found["stall_ms"], 110.0);
        assert_eq!(found["stall_before_ms"], 0.0);
        assert_eq!(found["rate_before"], 20_000.0);
        // 0.6 of the second at a tenth of the rate or less.
        let percent = found["first_second_percent"].as_f64().unwrap();
        assert!((40.0..50.0).contains(&percent), "{percent}");
        let back = found["back_to_90_ms"].as_f64().unwrap();
        assert!((590.0..=620.0).contains(&back), "{back}");
    }

    #[test]
    fn a_guest_that_stays_slow_is_never_back() {
        let zero = Instant::now();
        let beats = series(zero, 0, 10_000);
        let at = |ms| zero + Duration::from_millis(ms);
        assert!(analyse(&beats, at(2900), at(4000)).unwrap()["back_to_90_ms"].is_null());
    }

    #[test]
    fn verdict_and_heartbeat_are_read_and_other_lines_are_not() {
        let line = "verdict bad checked_pages=9 bad_pages=1 first_bad=- touch_us_p99=204";
        let verdict = verdict(line).unwrap();
        assert_eq!(verdict["ok"], false);
        assert_eq!(verdict["touch_us_p99"], 204);
        assert!(verdict["first_bad"].is_null());
        assert_eq!(Beat::parse("h 12 34", 0, Instant::now()).unwrap().writes, 34);
        assert!(Beat::parse("[ 1.0] h 12 34", 0, Instant::now()).is_none());
    }
}
