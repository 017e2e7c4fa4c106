//! A VM as a process of its own.
#![allow(unsafe_code)]

use crate::interrupt;
use anyhow::{Context as _, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of standard error that are kept.
const LINES_KEPT: usize = 10;
/// Time between two looks at whether a process lives.
const LOOK: Duration = Duration::from_millis(200);

/// A VM's process. It ends with this, and with the thread that started it.
#[derive(Debug)]
pub struct VmProcess {
    child: Child,
    name: String,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl VmProcess {
    /// Starts it; its standard output, unless it is piped, is nobody's.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let end = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
        // SAFETY: between fork and exec the closure makes one system call and takes no memory or lock.
        unsafe { command.pre_exec(end) };
        let mut child = command.spawn().with_context(|| {
            format!("cannot start the {name} ({})", command.get_program().to_string_lossy())
        })?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let lines = child.stderr.take();
        let process = Self { child, name: name.to_owned(), stderr: stderr.clone() };
        if let Some(lines) = lines {
            std::thread::Builder::new()
                .name(format!("{name}-stderr"))
                .spawn(move || {
                    for line in BufReader::new(lines).lines().map_while(Result::ok) {
                        let mut kept = stderr.lock().unwrap_or_else(PoisonError::into_inner);
                        if kept.len() >= LINES_KEPT {
                            kept.pop_front();
                        }
                        kept.push_back(line);
                    }
                })
                .context("cannot start a thread")?;
        }
        Ok(process)
    }

    /// The number that the system knows it by.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the VM has ended, with its last words.
    ///
    /// # Errors
    /// Then.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot wait for a VM")? {
            // What it wrote may still be on its way here.
            std::thread::sleep(Duration::from_millis(50));
            let lines = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
            let words: Vec<&str> = lines.iter().map(String::as_str).collect();
            let words = if words.is_empty() {
                "its guest has powered off".into()
            } else {
                words.join("; ")
            };
            bail!("the {} ended early, {status}: {words}", self.name);
        }
        Ok(())
    }

    /// Waits for the end until `deadline`; whether it came.
    pub fn wait(&mut self, deadline: Instant) -> bool {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                ended => return matches!(ended, Ok(Some(_))),
            }
        }
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        // Fails only when it has ended, and then it is only to be collected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects to a socket that a VM is about to make.
///
/// # Errors
/// When there is none by the deadline, or this process is asked to end.
pub fn connect(path: &Path, deadline: Instant) -> anyhow::Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("cannot reach {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        interrupt::check()?;
    }
}

/// Runs a machine with its console on standard output until its guest says a line that is wanted.
///
/// Every line goes to `each` with the time since the process was started; it says whether that was the last.
///
/// # Errors
/// When the machine ends or does not get there in `limit`, or `each` fails.
pub fn run_until(
    mut command: Command,
    name: &str,
    limit: Duration,
    mut each: impl FnMut(&str, Duration) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    command.args(["-serial", "stdio"]).stdout(Stdio::piped());
    let start = Instant::now();
    let mut process = VmProcess::start(name, command)?;
    let output = process.child.stdout.take().context("no standard output")?;
    let (sender, lines) = channel();
    let read = move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name(format!("{name}-console")).spawn(read)?;
    let mut last = String::new();
    while start.elapsed() < limit {
        interrupt::check()?;
        match lines.recv_timeout(LOOK) {
            Ok((at, line)) => {
                last = String::from_utf8_lossy(&line).trim_end().to_owned();
                if each(&last, at - start)? {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => process.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                process.check()?;
                bail!("the {name} closed its console; the guest's last line: {last}");
            }
        }
    }
    bail!("the {name} is not done after {} s; the guest's last line: {last}", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        // The options behind it become the script's own arguments.
        command.args(["-c", script, "sh"]);
        command
    }

    #[test]
    fn a_process_that_ends_early_is_told_with_its_last_words() {
        let mut process =
            VmProcess::start("source", shell("echo out of luck >&2; exit 3")).unwrap();
        assert!(process.wait(Instant::now() + Duration::from_secs(20)));
        let why = process.check().unwrap_err().to_string();
        assert!(why.contains("source ended early") && why.contains("out of luck"), "{why}");
    }

    #[test]
    fn lines_of_a_console_come_with_growing_times_until_the_wanted_one() {
        let (mut seen, mut times) = (Vec::new(), Vec::new());
        let script = "echo one; sleep 0.05; echo two; echo three; sleep 100";
        run_until(shell(script), "guest", Duration::from_secs(20), |line, at| {
            seen.push(line.to_owned());
            times.push(at);
            Ok(line == "two")
        })
        .unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert!(times[1] - times[0] >= Duration::from_millis(30), "{times:?}");
    }
}
