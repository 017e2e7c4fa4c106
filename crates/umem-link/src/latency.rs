//! Keeps the host's CPUs out of sleep while threads of a move wake one another.
//!
//! A CPU with nothing to do sleeps, and takes its time to wake up: 50 µs and more in a virtual machine, up to 200 µs on
//! hardware. While the guest is stopped nearly all there is to do is that one thread wakes another, a dozen times at both
//! ends; and so it is when it waits for a page. The kernel's PM QoS takes requests for a latency that holds as long as a
//! file is open (`Documentation/power/pm_qos_interface.rst`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/cpu_dma_latency";
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// How long [`LowLatency::Auto`] asks for it at most. Most of what a guest misses at first has come by then, and CPUs
/// that do not sleep cost power, and threads beside them speed.
const AUTO_WITHIN: Duration = Duration::from_secs(1);

/// Whether the host is asked to keep its CPUs from sleeping, from when the guest is stopped. Where this process may not ask
/// (`/dev/cpu_dma_latency` is root's unless a rule says otherwise) nothing changes but the latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LowLatency {
    /// Until all pages are there, for 1 s at most.
    #[default]
    Auto,
    /// Until all pages are there.
    On,
    /// Not at all.
    Off,
}

/// One session's request.
pub(crate) struct CpuLatency {
    wish: LowLatency,
    /// It holds as long as this is open.
    request: Option<File>,
    /// When it began.
    since: Option<Instant>,
}

impl CpuLatency {
    pub(crate) fn new(wish: LowLatency) -> Self {
        Self { wish, request: None, since: None }
    }

    /// Asks, if that is wanted and was not done before.
    pub(crate) fn begin(&mut self) {
        if self.wish == LowLatency::Off || self.since.is_some() {
            return;
        }
        self.since = Some(Instant::now());
        match ask(microseconds()) {
            Ok(file) => self.request = Some(file),
            Err(error) => log::debug!("idle CPUs may sleep during the move: {DEVICE}: {error}"),
        }
    }

    /// How long the request still holds; `None` when that has no end of its own, or there is none.
    pub(crate) fn left(&self) -> Option<Duration> {
        match (&self.request, self.since, self.wish) {
            (Some(_), Some(since), LowLatency::Auto) => {
                Some(AUTO_WITHIN.saturating_sub(since.elapsed()))
            }
            _ => None,
        }
    }

    /// Takes the request back when its time is up.
    pub(crate) fn settle(&mut self) {
        if self.left() == Some(Duration::ZERO) {
            self.end();
        }
    }

    /// Takes it back; it is not made again.
    pub(crate) fn end(&mut self) {
        self.request = None;
    }
}

/// What to ask for. Hardware's lightest sleep takes no longer than 2 µs to end and costs no power to speak of; in a
/// virtual machine each sleep goes through its host, and only 0, which has CPUs look for work without end, avoids that.
fn microseconds() -> i32 {
    match std::fs::read_to_string(DRIVER) {
        Ok(driver) if driver.trim() == "haltpoll" => 0,
        _ => 2,
    }
}

fn ask(microseconds: i32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(DEVICE)?;
    // The kernel takes four bytes as a number, more as text.
    file.write_all(&microseconds.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as it is after so much time.
    fn after(wish: LowLatency, time: Duration) -> CpuLatency {
        let request = Some(File::open("/dev/null").unwrap());
        CpuLatency { wish, request, since: Instant::now().checked_sub(time) }
    }

    #[test]
    fn one_that_nobody_wants_is_not_made() {
        let mut latency = CpuLatency::new(LowLatency::Off);
        latency.begin();
        assert!(latency.request.is_none() && latency.since.is_none());
        assert_eq!(latency.left(), None);
    }

    #[test]
    fn the_automatic_one_ends_by_itself_and_the_other_when_told() {
        let hour = Duration::from_secs(3600);
        for (wish, time, holds) in [
            (LowLatency::Auto, Duration::ZERO, true),
            (LowLatency::Auto, hour, false),
            (LowLatency::On, hour, true),
        ] {
            let mut latency = after(wish, time);
            latency.settle();
            assert_eq!(latency.request.is_some(), holds, "{wish:?} after {time:?}");
            latency.end();
            // Not once more, for the same guest.
            latency.begin();
            assert!(latency.request.is_none());
        }
        let left = after(LowLatency::Auto, Duration::from_millis(100)).left().unwrap();
        assert!(left < AUTO_WITHIN && left > Duration::ZERO, "{left:?}");
        assert_eq!(after(LowLatency::On, hour).left(), None);
    }

    /// Where it can be asked for: root, or who may.
    #[test]
    fn the_kernel_takes_the_request() {
        match ask(microseconds()) {
            Ok(_) => {}
            Err(error) => assert!(
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied),
                "{error}"
            ),
        }
    }
}
