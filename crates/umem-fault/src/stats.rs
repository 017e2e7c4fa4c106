//! How long it took until a needed page was there.

use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};
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
#[derive(Debug, Clone, Copy, PartialEq, Default)]
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
}

#[derive(Default)]
struct Recorded {
    /// `None` only if it cannot be made, which its fixed bounds rule out.
    latency: Option<Histogram<u64>>,
    causes: [u64; 3],
}

/// Collects [`FaultStats`].
pub(crate) struct Recorder {
    recorded: Mutex<Recorded>,
}

/// Up to an hour, to three digits.
const LONGEST: u64 = 3_600_000_000_000;

impl Recorder {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).ok();
        Self { recorded: Mutex::new(Recorded { latency, causes: [0; 3] }) }
    }

    pub(crate) fn record(&self, cause: FaultCause, latency: Duration) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = &mut recorded.latency {
            histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LONGEST));
        }
        let [vcpu, device, userfault] = &mut recorded.causes;
        *match cause {
            FaultCause::Vcpu => vcpu,
            FaultCause::Device => device,
            FaultCause::Userfault => userfault,
        } += 1;
    }

    pub(crate) fn snapshot(&self) -> FaultStats {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let [vcpu, device, userfault] = recorded.causes;
        let counts = FaultStats {
            count: vcpu + device + userfault,
            vcpu,
            device,
            userfault,
            ..FaultStats::default()
        };
        let Some(latency) = &recorded.latency else { return counts };
        FaultStats {
            mean: latency.mean(),
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
            ..counts
        }
    }
}
