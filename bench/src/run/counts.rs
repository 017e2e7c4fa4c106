//! What a move costs beside time: system calls, context switches and page faults of both ends, counted by perf, and
//! the processors' time that the kernel accounts for them, and that which the host's own host took away.

use crate::interrupt;
use anyhow::{Context as _, Result};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// perf's names of what is counted, in the order of [`Counts`].
const EVENTS: [&str; 3] = ["raw_syscalls:sys_enter", "context-switches", "page-faults"];

/// How long perf may take to begin or to write what it counted.
const PERF: Duration = Duration::from_secs(10);

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) syscalls: Option<f64>,
    pub(super) switches: Option<f64>,
    pub(super) page_faults: Option<f64>,
    pub(super) cpu_us: Option<f64>,
    /// Of all processors of this host together.
    pub(super) stolen_ms: Option<f64>,
}

/// Whether perf can count system calls here.
pub(crate) fn perf_works() -> bool {
    let mut command = Command::new("perf");
    command.args(["stat", "-x,", "-e", EVENTS[0], "--", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Counts from its start to its stop.
pub(super) struct Counting {
    processes: Vec<u32>,
    perf: Option<(Child, PathBuf)>,
    before_us: Option<f64>,
    stolen_before_ms: Option<f64>,
}

impl Counting {
    /// Begins; without perf only the processors' time is told.
    pub(super) fn start(processes: &[u32], folder: &Path, with_perf: bool) -> Result<Self> {
        let mut perf = None;
        if with_perf {
            let file = folder.join("perf");
            let numbers: Vec<String> = processes.iter().map(u32::to_string).collect();
            let mut command = Command::new("perf");
            command.args(["stat", "-x,", "-e", &EVENTS.join(","), "-p", &numbers.join(",")]);
            command.arg("-o").arg(&file);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            perf = Some((command.spawn().context("cannot start perf")?, file.clone()));
            // It opens the file when it begins to count.
            let until = Instant::now() + PERF;
            while !file.exists() && Instant::now() < until {
                interrupt::check()?;
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let (processes, before_us) = (processes.to_vec(), cpu_us(processes));
        Ok(Self { processes, perf, before_us, stolen_before_ms: stolen_ms() })
    }

    /// Ends; what was counted.
    pub(super) fn stop(mut self) -> Counts {
        let mut counts = Counts::default();
        if let (Some(before), Some(after)) = (self.before_us, cpu_us(&self.processes)) {
            counts.cpu_us = Some(after - before);
        }
        if let (Some(before), Some(after)) = (self.stolen_before_ms, stolen_ms()) {
            counts.stolen_ms = Some(after - before);
        }
        let Some((child, file)) = &mut self.perf else { return counts };
        let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(number) = number {
            // Fails when it has ended already.
            let _ = kill_process(number, Signal::INT);
        }
        let until = Instant::now() + PERF;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let text = fs::read_to_string(file).unwrap_or_default();
        [counts.syscalls, counts.switches, counts.page_faults] =
            EVENTS.map(|name| read(&text, name));
        counts
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.perf {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A line of `perf stat -x,`: count, unit, event, and more.
fn read(text: &str, name: &str) -> Option<f64> {
    let fields = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let line =
        text.lines().map(fields).find(|fields| fields.get(2).is_some_and(|event| event == name))?;
    line.first()?.parse().ok()
}

/// User and system time of these processes so far, of threads that have ended too.
fn cpu_us(processes: &[u32]) -> Option<f64> {
    let each = processes.iter().map(|number| {
        let text = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        ticks(&text).map(|ticks| ticks * 1e6 / clock_ticks_per_second() as f64)
    });
    each.sum()
}

/// proc(5): the name, in parentheses, may hold anything; user and system time are fields 14 and 15.
fn ticks(text: &str) -> Option<f64> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(number(11)? + number(12)?)
}

/// Time so far that this host's processors would have run and its own host ran something else, if it is a virtual
/// machine.
fn stolen_ms() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    stolen(&text).map(|ticks| ticks * 1e3 / clock_ticks_per_second() as f64)
}

/// proc_stat(5): the line of all processors; stolen time is its field 8.
fn stolen(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("cpu "))?.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_lines_are_read_and_what_it_could_not_count_is_not() {
        let text = "# started on\n\n144,,raw_syscalls:sys_enter,17078,100.00,84.318,K/sec\n\
                    <not counted>,,context-switches,0,0.00,,\n";
        assert_eq!(read(text, "raw_syscalls:sys_enter"), Some(144.0));
        assert_eq!(read(text, "context-switches"), None);
        assert_eq!(read(text, "page-faults"), None);
    }

    #[test]
    fn a_processs_time_is_read_behind_its_name_whatever_that_is() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 150 25 0 0 20 0 1 0 100";
        assert_eq!(ticks(text), Some(175.0));
        assert_eq!(ticks("7 (x"), None);
    }

    #[test]
    fn stolen_time_is_that_of_all_processors() {
        let text = "cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1\n";
        assert_eq!(stolen(text), Some(80.0));
        assert_eq!(stolen("cpu  1 2 3\n"), None);
        assert!(stolen_ms().is_some());
    }

    #[test]
    fn a_busy_process_takes_time_and_perf_sees_its_calls_if_it_works() {
        let folder = tempfile::tempdir().unwrap();
        let script = "while :; do :; done";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let counting = Counting::start(&[child.id()], folder.path(), perf_works()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let enough = counting.before_us.map(|before| before + 50_000.0);
        while cpu_us(&[child.id()]) < enough && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let counts = counting.stop();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(counts.cpu_us >= Some(50_000.0), "{counts:?}");
        assert_eq!(counts.switches.is_some(), perf_works(), "{counts:?}");
    }
}
