//! A VM as a process of its own.

use super::interrupted;
use anyhow::{Context as _, bail};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of standard error that are kept.
const LINES_KEPT: usize = 10;

/// A VM's process. It ends with this.
pub(super) struct VmProcess {
    child: Child,
    name: &'static str,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl VmProcess {
    /// Starts `umem vm` with these options.
    pub(super) fn start(name: &'static str, options: &[OsString]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut child = Command::new(program)
            .arg("vm")
            .args(["-name", name])
            .args(options)
            .env(crate::vm::END_WITH_PARENT, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let lines = child.stderr.take();
        let process = Self { child, name, stderr: stderr.clone() };
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

    /// Fails when the VM has ended, with its last words.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
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
    pub(super) fn wait(&mut self, deadline: Instant) -> bool {
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
pub(super) fn connect(path: &Path, deadline: Instant) -> anyhow::Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("cannot reach {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        interrupted()?;
    }
}
