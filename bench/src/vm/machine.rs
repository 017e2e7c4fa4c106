//! A VM with its JSON monitor and its serial port.

use super::process::VmProcess;
use super::qmp::Qmp;
use crate::guest::{Chunk, End, Port};
use crate::interrupt;
use crossbeam_channel::Sender;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One end of a move.
#[derive(Debug)]
pub struct Machine {
    /// The process.
    pub process: VmProcess,
    /// Its monitor.
    pub qmp: Qmp,
    /// Its serial port; what the guest says goes to the channel that it was started with.
    pub port: Port,
    /// A second port that the guest speaks by, if it was asked for.
    _words: Option<Port>,
}

/// How it is spoken to beside its monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// By its serial port, whose output waits for us.
    Serial,
    /// The same, but output that nobody reads is dropped (QEMU's would hold up all the rest).
    Dropped,
    /// QEMU's debug port beside it: its serial port takes half a millisecond a character under KVM.
    DebugPort,
}

fn option(path: &Path, rest: &str) -> OsString {
    let mut option = OsString::from("unix:");
    option.push(path);
    option.push(rest);
    option
}

impl Machine {
    /// Starts it with sockets in `folder`.
    ///
    /// # Errors
    /// When it ends at once, or is not there by the deadline.
    pub fn start(
        end: End,
        mut command: Command,
        folder: &Path,
        chunks: Sender<Chunk>,
        words: Words,
        deadline: Instant,
    ) -> anyhow::Result<Self> {
        let name = end.name();
        let place = |kind: &str| folder.join(format!("{name}.{kind}"));
        let (qmp, serial, debug) = (place("qmp"), place("serial"), place("debug"));
        command.arg("-qmp").arg(option(&qmp, ",server,nowait"));
        let waits = if words == Words::Serial { ",server" } else { ",server,nowait" };
        command.arg("-serial").arg(option(&serial, waits));
        if words == Words::DebugPort {
            let socket = format!("socket,id=words,path={},server=on,wait=off", debug.display());
            command.args(["-chardev", &socket]);
            command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=words"]);
        }
        let mut process = VmProcess::start(name, command)?;
        let mut exists = |path: &PathBuf| {
            // A VM that ended at once never makes its sockets.
            while !path.exists() && Instant::now() < deadline {
                process.check()?;
                interrupt::check()?;
                std::thread::sleep(Duration::from_millis(5));
            }
            anyhow::Ok(())
        };
        exists(&serial)?;
        let port = Port::connect(&serial, end, chunks.clone(), deadline)?;
        let mut more = None;
        if words == Words::DebugPort {
            exists(&debug)?;
            more = Some(Port::connect(&debug, end, chunks, deadline)?);
        }
        exists(&qmp)?;
        let qmp = Qmp::connect(name, &qmp, deadline)?;
        Ok(Self { process, qmp, port, _words: more })
    }
}
