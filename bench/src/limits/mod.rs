//! What the host can do at best: bytes through loopback TCP, its round trip, pages through `UFFDIO_COPY`, and both
//! together as a move's data plane has them; a missing page of a guest under KVM, placed by this process.

mod drain;
#[cfg(target_arch = "x86_64")]
mod kvm_fault;
mod round_trip;
mod tcp;
mod uffd;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

pub use drain::drain;

use crate::{cores, interrupt, stats, warm};
use uffd::{Faults, Watched};

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
    let watched = Watched::new(bytes, Faults::User)?;
    let source = vec![0x5a_u8; size];
    let began = Instant::now();
    for offset in (0..bytes).step_by(size) {
        watched.place(offset, &source)?;
    }
    Ok(mib_per_second(bytes, began.elapsed()))
}

/// Who shares a core with whom: the kernel chooses, both are on one, each has its own. The names of figures say so.
fn places() -> Vec<(&'static str, Option<[usize; 2]>)> {
    let mut places = vec![("", None)];
    if let Ok([one, other]) = cores::pair() {
        places.extend([("_one_core", Some([one, one])), ("_two_cores", Some([one, other]))]);
    }
    places
}

/// Microseconds of a request and a page back.
fn round_trip(on: Option<[usize; 2]>) -> Result<[Value; 2]> {
    let times = round_trip::times(on)?;
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    Ok([0.5, 0.99].map(|share| json!(stats::quantile(&times, share).map(stats::rounded))))
}

/// Microseconds from a guest's touch under KVM until it goes on, if the page comes from this process.
#[cfg(target_arch = "x86_64")]
fn kvm_fault(on: Option<[usize; 2]>) -> Result<f64> {
    Ok(stats::rounded(kvm_fault::mean(on)?.as_secs_f64() * 1e6))
}

#[cfg(not(target_arch = "x86_64"))]
fn kvm_fault(_: Option<[usize; 2]>) -> Result<f64> {
    anyhow::bail!("guests under KVM are x86-64")
}

/// What a demand fault of a guest under KVM, from touch to page, is to be compared with, microseconds: half as much again
/// as a fault that this process answers and the network's round trip together. `None` where one of them was not measured.
#[must_use]
pub fn fault_goal_us(limits: &Value) -> Option<f64> {
    let us = |name: &str| limits[name].as_f64();
    Some(1.5 * (us("kvm_fault_us")? + us("round_trip_p50_us")?))
}

/// Medians over the runs: rates in MiB/s, round trips and, with `kvm`, faults in microseconds.
///
/// # Errors
/// When there is no memory, or loopback TCP fails. A host without userfaultfd only lacks those figures.
pub fn measure(runs: u32, amount: Amount, kvm: bool) -> Result<Value> {
    let mut all = Vec::new();
    for run in 1..=runs {
        eprintln!("bench: limits, run {run} of {runs}");
        interrupt::check()?;
        let mut row = json!({
            "tcp_mib_s": mib_per_second(amount.tcp, tcp::send(amount.tcp, |_, _| Ok(()))?),
        });
        for (place, on) in places() {
            let [half, most] = round_trip(on)?;
            row[format!("round_trip{place}_p50_us")] = half;
            row[format!("round_trip{place}_p99_us")] = most;
        }
        for (name, size) in ["copy_4k_mib_s", "copy_64k_mib_s"].into_iter().zip(COPY_SIZES) {
            warm::memory(amount.copy as u64)?;
            match copy(amount.copy, size) {
                Ok(rate) => row[name] = json!(rate),
                Err(error) => eprintln!("bench: {error:#}; left out"),
            }
        }
        warm::memory(2 * amount.copy as u64)?;
        match drain(amount.copy as u64) {
            Ok(time) => row["drain_mib_s"] = json!(mib_per_second(amount.copy, time)),
            Err(error) => eprintln!("bench: {error:#}; left out"),
        }
        for (place, on) in places().into_iter().filter(|_| kvm) {
            match kvm_fault(on) {
                Ok(us) => row[format!("kvm_fault{place}_us")] = json!(us),
                Err(error) => eprintln!("bench: no local fault under KVM: {error:#}; left out"),
            }
        }
        all.push(row);
    }
    let mut found = json!({ "runs": all });
    for name in NAMES {
        found[name] = stats::median_of(&all, name);
    }
    Ok(found)
}

const NAMES: [&str; 13] = [
    "tcp_mib_s",
    "copy_4k_mib_s",
    "copy_64k_mib_s",
    "drain_mib_s",
    "round_trip_p50_us",
    "round_trip_p99_us",
    "round_trip_one_core_p50_us",
    "round_trip_one_core_p99_us",
    "round_trip_two_cores_p50_us",
    "round_trip_two_cores_p99_us",
    "kvm_fault_us",
    "kvm_fault_one_core_us",
    "kvm_fault_two_cores_us",
];

#[cfg(test)]
mod tests {
    use super::fault_goal_us;
    use serde_json::json;

    #[test]
    fn a_goal_needs_both_of_its_parts() {
        let limits = json!({ "kvm_fault_us": 20.0, "round_trip_p50_us": 60.0 });
        assert_eq!(fault_goal_us(&limits), Some(120.0));
        assert_eq!(fault_goal_us(&json!({ "round_trip_p50_us": 60.0 })), None);
        assert_eq!(fault_goal_us(&json!({ "kvm_fault_us": null, "round_trip_p50_us": 1.0 })), None);
    }
}
