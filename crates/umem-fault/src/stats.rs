//! How long it took until a needed page was there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What needed a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultCause {
    /// A vCPU that looked at the table first.
    Vcpu,
    /// A device, or the monitor for it.
    Device,
    /// Whatever touched the page; the kernel told.
    Userfault,
}

/// Faults so far: how many, and from the claim to the page's presence, in nanoseconds. Faults
/// found by the kernel count from when they were read from it, which is somewhat later.
///
/// Mean and longest are as they were; the shares are told to 1.6 %, and never as too short.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FaultStats {
    /// Faults that were resolved.
    pub count: u64,
    /// Of those, by vCPUs that looked at the table first.
    pub vcpu: u64,
    /// Of those, by devices.
    pub device: u64,
    /// Of those, told by the kernel.
    pub userfault: u64,
    /// Mean latency.
    pub mean: f64,
    /// Latency that half of them did not exceed.
    pub p50: u64,
    /// Latency that 90 % did not exceed.
    pub p90: u64,
    /// Latency that 99 % did not exceed.
    pub p99: u64,
    /// Latency that 99.9 % did not exceed.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Microseconds, a power of two, and how many took less than that but no less than half of it (the first:
    /// less than 1 µs); from the shortest that happened to the longest.
    pub histogram: Vec<(u64, u64)>,
}

/// Each octave has so many buckets of equal width, as a power of two. A value is told to one part in 64.
const STEPS_LOG2: u32 = 6;
const STEPS: usize = 1 << STEPS_LOG2;
/// Latencies are counted in 1/1024 µs, so that octaves begin at powers of two of microseconds.
const TICKS_LOG2: u32 = 10;
/// The last octave ends at 2^32 µs, more than an hour; what takes longer is counted there.
const OCTAVES: usize = (32 + TICKS_LOG2 - STEPS_LOG2) as usize;
/// Values below one octave's steps have a bucket each; then come the octaves.
const BUCKETS: usize = STEPS * (1 + OCTAVES);

fn ticks(nanoseconds: u64) -> u64 {
    nanoseconds.saturating_mul(128) / 125
}

fn nanoseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(125) / 128
}

fn bucket_of(ticks: u64) -> usize {
    let octave = ticks.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_LOG2);
    let step = (ticks >> octave) as usize;
    (STEPS * octave as usize + step).min(BUCKETS - 1)
}

/// The least number of ticks that belongs to a later bucket than this one.
fn end_of(bucket: usize) -> u64 {
    let octave = (bucket / STEPS).saturating_sub(1);
    ((bucket - STEPS * octave) as u64 + 1) << octave
}

/// Collects [`FaultStats`]: a few counters, which no thread ever waits for. Someone who reads them meanwhile may
/// see a fault in one of them that is not in another yet.
pub(crate) struct Recorder {
    causes: [AtomicU64; 3],
    nanoseconds: AtomicU64,
    longest: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            causes: Default::default(),
            nanoseconds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn record(&self, cause: FaultCause, latency: Duration) {
        let took = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let [vcpu, device, userfault] = &self.causes;
        let cause = match cause {
            FaultCause::Vcpu => vcpu,
            FaultCause::Device => device,
            FaultCause::Userfault => userfault,
        };
        // Counters of their own: nothing is read on the strength of what another one says.
        cause.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(took, Ordering::Relaxed);
        if took > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(took, Ordering::Relaxed);
        }
        if let Some(bucket) = self.buckets.get(bucket_of(ticks(took))) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> FaultStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [vcpu, device, userfault] = [0, 1, 2].map(|at| self.causes.get(at).map_or(0, read));
        let counts: Vec<u64> = self.buckets.iter().map(read).collect();
        let (count, max) = (vcpu + device + userfault, read(&self.longest));
        let share = |share: f64| quantile(&counts, share).min(max);
        FaultStats {
            count,
            vcpu,
            device,
            userfault,
            mean: if count == 0 { 0.0 } else { read(&self.nanoseconds) as f64 / count as f64 },
            p50: share(0.5),
            p90: share(0.9),
            p99: share(0.99),
            p999: share(0.999),
            max,
            histogram: octaves(&counts),
        }
    }
}

/// Nanoseconds that `share` of all, by nearest rank, did not exceed: the end of the bucket of that rank.
fn quantile(counts: &[u64], share: f64) -> u64 {
    let rank = (share * counts.iter().sum::<u64>() as f64).ceil() as u64;
    let mut seen = 0;
    let reached = counts.iter().position(|count| {
        seen += count;
        seen >= rank && seen > 0
    });
    reached.map_or(0, |bucket| nanoseconds(end_of(bucket)))
}

/// Faults by powers of two of microseconds.
fn octaves(counts: &[u64]) -> Vec<(u64, u64)> {
    let mut octaves: Vec<(u64, u64)> = Vec::new();
    for (bucket, count) in counts.iter().enumerate() {
        let whole = (end_of(bucket) - 1) >> TICKS_LOG2;
        let below = whole.checked_ilog2().map_or(1, |top| 2 << top);
        match octaves.last_mut() {
            Some((last, sum)) if *last == below => *sum += count,
            // What nobody was as fast as is left out.
            None if *count == 0 => {}
            _ => octaves.push((below, *count)),
        }
    }
    let used = octaves.iter().rposition(|(_, count)| *count > 0).map_or(0, |last| last + 1);
    octaves.truncate(used);
    octaves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stats(microseconds: &[f64]) -> FaultStats {
        let recorder = Recorder::new();
        for us in microseconds {
            recorder.record(FaultCause::Userfault, Duration::from_secs_f64(us / 1e6));
        }
        recorder.snapshot()
    }

    #[test]
    fn nothing_has_happened_at_first() {
        assert_eq!(Recorder::new().snapshot(), FaultStats::default());
    }

    #[test]
    fn faults_are_counted_by_cause_and_by_the_power_of_two_that_they_stayed_below() {
        let recorder = Recorder::new();
        for (cause, us) in [
            (FaultCause::Vcpu, 0),
            (FaultCause::Device, 1),
            (FaultCause::Userfault, 16),
            (FaultCause::Userfault, 31),
            (FaultCause::Userfault, 32),
        ] {
            recorder.record(cause, Duration::from_micros(us));
        }
        let found = recorder.snapshot();
        assert_eq!((found.count, found.vcpu, found.device, found.userfault), (5, 1, 1, 3));
        let expected = [(1, 1), (2, 1), (4, 0), (8, 0), (16, 0), (32, 2), (64, 1)];
        assert_eq!(found.histogram, expected);
        assert_eq!((found.mean, found.max), (16_000.0, 32_000));
    }

    #[test]
    fn shares_are_by_rank_and_no_longer_than_the_longest() {
        let all: Vec<f64> = (1..=1000).map(f64::from).collect();
        let found = stats(&all);
        for (told, exact) in [(found.p50, 500e3), (found.p90, 900e3), (found.p99, 990e3)] {
            assert!((exact..exact * 1.016).contains(&(told as f64)), "{told} for {exact}");
        }
        assert_eq!((found.p999, found.max), (1_000_000, 1_000_000));
        assert_eq!(stats(&[7.0]).p50, 7000);
    }

    #[test]
    fn what_takes_longer_than_anything_is_counted_in_the_last_octave() {
        let recorder = Recorder::new();
        recorder.record(FaultCause::Device, Duration::MAX);
        let found = recorder.snapshot();
        assert_eq!((found.max, found.histogram), (u64::MAX, vec![(1 << 32, 1)]));
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(ticks in 0..1u64 << 42) {
            let bucket = bucket_of(ticks);
            prop_assert!(ticks < end_of(bucket), "{bucket}");
            prop_assert!(bucket == 0 || ticks >= end_of(bucket - 1), "{bucket}");
            prop_assert!(end_of(bucket) - 1 <= ticks + (ticks >> STEPS_LOG2), "{bucket}");
        }
    }
}
