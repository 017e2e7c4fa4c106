//! What the host can do at best: bytes through loopback TCP, its round trip, pages through `UFFDIO_COPY`, and both
//! together as a move's data plane has them.

mod drain;
mod round_trip;
mod tcp;
mod uffd;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

pub use drain::drain;

use crate::{interrupt, stats, warm};
use uffd::Watched;

/// How much is measured, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Through loopback TCP.
    pub tcp: usize,
    /// Through `UFFDIO_COPY`.
    pub copy: usize,
}

impl Amount {
    /// Figures that repeat.
    pub const FULL: Self = Self { tcp: 2 << 30, copy: 512 << 20 };
    /// In a second.
    pub const QUICK: Self = Self { tcp: 512 << 20, copy: 128 << 20 };
}

/// Bytes of one `UFFDIO_COPY`: a page, and a chunk.
const COPY_SIZES: [usize; 2] = [4 << 10, 64 << 10];

fn mib_per_second(bytes: usize, time: Duration) -> f64 {
    stats::rounded(bytes as f64 / f64::from(1 << 20) / time.as_secs_f64())
}

fn copy(bytes: usize, size: usize) -> Result<f64> {
    let watched = Watched::new(bytes)?;
    let source = vec![0x5a_u8; size];
    let began = Instant::now();
    for offset in (0..bytes).step_by(size) {
        watched.place(offset, &source)?;
    }
    Ok(mib_per_second(bytes, began.elapsed()))
}

/// Microseconds of a request and a page back.
fn round_trip() -> Result<[Value; 2]> {
    let times = round_trip::times()?;
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    Ok([0.5, 0.99].map(|share| json!(stats::quantile(&times, share).map(stats::rounded))))
}

/// Medians over the runs: rates in MiB/s, round trips in microseconds.
///
/// # Errors
/// When there is no memory, or loopback TCP fails. A host without userfaultfd only lacks those figures.
pub fn measure(runs: u32, amount: Amount) -> Result<Value> {
    let mut all = Vec::new();
    for run in 1..=runs {
        eprintln!("bench: limits, run {run} of {runs}");
        interrupt::check()?;
        warm::memory(amount.copy as u64)?;
        let [half, most] = round_trip()?;
        let mut row = json!({
            "tcp_mib_s": mib_per_second(amount.tcp, tcp::send(amount.tcp, |_, _| Ok(()))?),
            "round_trip_p50_us": half,
            "round_trip_p99_us": most,
        });
        for (name, size) in ["copy_4k_mib_s", "copy_64k_mib_s"].into_iter().zip(COPY_SIZES) {
            match copy(amount.copy, size) {
                Ok(rate) => row[name] = json!(rate),
                Err(error) => eprintln!("bench: {error:#}; left out"),
            }
        }
        match drain(amount.copy as u64) {
            Ok(time) => row["drain_mib_s"] = json!(mib_per_second(amount.copy, time)),
            Err(error) => eprintln!("bench: {error:#}; left out"),
        }
        all.push(row);
    }
    let mut found = json!({ "runs": all });
    for name in NAMES {
        found[name] = stats::median_of(&all, name);
    }
    Ok(found)
}

const NAMES: [&str; 6] = [
    "tcp_mib_s",
    "copy_4k_mib_s",
    "copy_64k_mib_s",
    "drain_mib_s",
    "round_trip_p50_us",
    "round_trip_p99_us",
];
