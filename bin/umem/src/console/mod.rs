//! The host's side of the guest's serial port, and the terminal.

mod desk;
mod mux;
mod socket;
mod stdio;
mod terminal;

pub(crate) use stdio::{Keys, run_monitor};
pub(crate) use terminal::{RawTerminal, restore};

use anyhow::Context as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Where the serial port goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SerialSpec {
    /// Nowhere.
    Null,
    /// Standard input and output.
    Stdio,
    /// Standard input and output, together with the text monitor.
    WithMonitor,
    /// Output into a file; no input.
    File(PathBuf),
    /// One client at a time of a Unix socket.
    Unix {
        path: PathBuf,
        /// Whether output waits for a client; it is dropped otherwise.
        wait: bool,
    },
}

/// Both directions of a serial port.
pub(crate) struct SerialStreams {
    pub(crate) output: Box<dyn Write + Send>,
    pub(crate) input: Option<Box<dyn Read + Send>>,
}

/// A serial port at its place. Dropping it removes its Unix socket.
pub(crate) struct Serial {
    path: Option<PathBuf>,
    /// Where the keys for the guest go, when the monitor shares the terminal.
    pub(crate) keys: Option<Keys>,
}

impl Drop for Serial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Someone else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl SerialSpec {
    /// Opens the place.
    pub(crate) fn open(&self) -> anyhow::Result<(Serial, SerialStreams)> {
        let mut serial = Serial { path: None, keys: None };
        let streams = match self {
            Self::Null => SerialStreams { output: Box::new(io::sink()), input: None },
            Self::Stdio => {
                SerialStreams { output: Box::new(io::stdout()), input: Some(Box::new(io::stdin())) }
            }
            Self::WithMonitor => {
                let (keys, input) = stdio::guest_keys();
                serial.keys = Some(keys);
                SerialStreams { output: Box::new(io::stdout()), input: Some(Box::new(input)) }
            }
            Self::File(path) => {
                let file = File::create(path)
                    .with_context(|| format!("serial port: cannot write {}", path.display()))?;
                SerialStreams { output: Box::new(file), input: None }
            }
            Self::Unix { path, wait } => {
                let (output, input) = socket::listen(path, *wait)
                    .with_context(|| format!("serial port: cannot listen on {}", path.display()))?;
                serial.path = Some(path.clone());
                SerialStreams { output: Box::new(output), input: Some(Box::new(input)) }
            }
        };
        Ok((serial, streams))
    }
}
