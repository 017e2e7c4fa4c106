//! Virtual machines as processes, and what their guests say with the time it was heard.

use std::{
    ffi::OsString,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Setup, qmp::Qmp};
use crate::run;

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Umem,
    Qemu,
}

impl Contender {
    pub(crate) const BOTH: [Self; 2] = [Self::Umem, Self::Qemu];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Umem => "umem",
            Self::Qemu => "qemu",
        }
    }
}

impl Setup {
    /// A machine of one hart on the software CPU, with no console or monitor yet.
    pub(crate) fn machine(&self, whose: Contender, memory: &str) -> Command {
        let mut command = match whose {
            Contender::Umem => run::command(&self.umem, ["vm"]),
            Contender::Qemu => run::command(&self.qemu, ["-display", "none"]),
        };
        command.args(["-machine", "virt,accel=tcg", "-smp", "1", "-m", memory]);
        command.args(["-monitor", "none"]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The Linux guest.
    pub(crate) fn linux(&self, command: &mut Command, append: &str) {
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-append", append]);
    }
}

/// A process that does not outlive us.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub(crate) fn start(mut command: Command, name: &str) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Fails when the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended ({status})", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of a console, and when they were read.
struct Chunk {
    end: usize,
    at: Instant,
    bytes: Vec<u8>,
}

/// A line of a guest, when its last byte was heard, and at which end of a move.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) end: usize,
    pub(crate) at: Instant,
    pub(crate) line: String,
}

/// The console of one guest, whichever machine it is in: a line may begin at one end of a move and end at
/// the other.
pub(crate) struct Console {
    sender: Sender<Chunk>,
    chunks: Receiver<Chunk>,
    partial: Vec<u8>,
    whole: std::collections::VecDeque<Heard>,
}

impl Console {
    pub(crate) fn new() -> Self {
        let (sender, chunks) = channel();
        Self { sender, chunks, partial: Vec::new(), whole: std::collections::VecDeque::new() }
    }

    /// Reads from here too, in a thread that ends with its source.
    pub(crate) fn listen(&self, mut from: impl Read + Send + 'static, end: usize) -> Result<()> {
        let sender = self.sender.clone();
        let read = move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let at = Instant::now();
                let Some(bytes) = buffer.get(..count) else { return };
                if sender.send(Chunk { end, at, bytes: bytes.to_vec() }).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(format!("console-{end}")).spawn(read)?;
        Ok(())
    }

    /// The next whole line, if one is heard until then.
    pub(crate) fn next(&mut self, until: Instant) -> Option<Heard> {
        loop {
            if let Some(heard) = self.whole.pop_front() {
                return Some(heard);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.take(&chunk),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn take(&mut self, chunk: &Chunk) {
        for &byte in &chunk.bytes {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                    self.partial.clear();
                    self.whole.push_back(Heard { end: chunk.end, at: chunk.at, line });
                }
                // A guest's line is short: what is longer is noise that must not fill memory.
                _ if self.partial.len() < 65_536 => self.partial.push(byte),
                _ => {}
            }
        }
    }
}

/// Runs a machine with its console on standard output until the guest says a line that is wanted.
///
/// Every line goes to `each` with the time since the process was started; it says whether that was the last.
pub(crate) fn run_until(
    mut command: Command,
    name: &str,
    limit: Duration,
    mut each: impl FnMut(&str, Duration) -> Result<bool>,
) -> Result<()> {
    command.args(["-serial", "stdio"]).stdout(Stdio::piped());
    let start = Instant::now();
    let mut process = Process::start(command, name)?;
    let mut console = Console::new();
    let output = process.child.stdout.take().context("no standard output")?;
    console.listen(output, 0)?;
    let mut last = String::new();
    loop {
        match console.next((start + limit).min(Instant::now() + Duration::from_millis(200))) {
            Some(heard) => {
                if each(&heard.line, heard.at - start)? {
                    return Ok(());
                }
                last = heard.line;
            }
            None if start.elapsed() >= limit => {
                bail!("{name}: not done after {} s; the guest's last line: {last}", limit.as_secs())
            }
            None => process.check()?,
        }
    }
}

/// A machine with its console and its JSON monitor on sockets.
pub(crate) struct Machine {
    pub(crate) process: Process,
    pub(crate) qmp: Qmp,
    serial: UnixStream,
}

impl Machine {
    /// Starts it and has `console` listen to it as this end of a move.
    pub(crate) fn start(
        mut command: Command,
        name: &str,
        folder: &Path,
        console: &Console,
        end: usize,
    ) -> Result<Self> {
        let place = |kind: &str| folder.join(format!("{name}.{kind}"));
        let option = |path: PathBuf| {
            let mut text = OsString::from("unix:");
            text.push(path);
            text.push(",server,nowait");
            text
        };
        command.arg("-serial").arg(option(place("serial")));
        command.arg("-qmp").arg(option(place("qmp")));
        let mut process = Process::start(command, name)?;
        let serial = connect(&place("serial"), &mut process)?;
        console.listen(serial.try_clone()?, end)?;
        let qmp = Qmp::new(connect(&place("qmp"), &mut process)?, name)?;
        Ok(Self { process, qmp, serial })
    }

    /// Sends the guest a byte.
    pub(crate) fn send(&mut self, byte: u8) -> Result<()> {
        self.serial.write_all(&[byte]).context("cannot send to the guest")
    }
}

fn connect(path: &Path, process: &mut Process) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("cannot connect to {}", path.display()));
            }
            Err(_) => process.check()?,
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::Console;
    use std::time::{Duration, Instant};

    #[test]
    fn a_line_that_begins_at_one_end_and_ends_at_the_other_is_one_line() {
        let mut console = Console::new();
        console.listen(&b"h 10 1\r\nh 2"[..], 0).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        assert_eq!(console.next(until).unwrap().line, "h 10 1");
        assert!(console.next(Instant::now() + Duration::from_millis(50)).is_none());
        console.listen(&b"0 2\r\n"[..], 1).unwrap();
        let heard = console.next(until).unwrap();
        assert_eq!((heard.end, heard.line.as_str()), (1, "h 20 2"));
    }
}
