//! What is typed to the guest, what it prints to the host.

use super::SavedVirtioConsole;
use super::input::{CAPACITY, Input};
use crate::output::OutputPort;
use crate::virtio::device::{ConfigSpace, Progress, TransportHandle, VirtioDevice};
use crate::virtio::requests::{QueueError, Requests};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use umem_state::{SaveRestore, StateError};

/// Queue of buffers for what is typed.
pub(super) const RECEIVE: usize = 0;
/// Queue of what is printed.
const TRANSMIT: usize = 1;
/// Bytes that wait for the host's writer.
const OUTPUT_CAPACITY: usize = 64 << 10;
/// Bytes taken from the guest at once.
const PIECE: usize = 4096;

/// A console with one port.
pub struct VirtioConsole {
    input: Arc<Input>,
    output: OutputPort,
    /// Bytes of the next request to print that were taken over already: a request may be longer
    /// than there is room for.
    sent: AtomicU64,
}

impl VirtioConsole {
    /// A console whose output goes to `writer` through a thread named `NAME-out`, and whose input
    /// comes from `reader`, if any, through one named `NAME-in`. Both may block.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(
        name: &str,
        reader: Option<Box<dyn Read + Send>>,
        writer: Box<dyn Write + Send>,
    ) -> io::Result<Self> {
        let output = OutputPort::start(&format!("{name}-out"), OUTPUT_CAPACITY, writer)?;
        let input = Arc::new(Input::default());
        if let Some(reader) = reader {
            input.start(&format!("{name}-in"), reader)?;
        }
        Ok(Self { input, output, sent: AtomicU64::new(0) })
    }

    fn receive(&self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        loop {
            if self.input.is_empty() {
                return Ok(Progress::Blocked);
            }
            let Some(chain) = requests.take()? else { return Ok(Progress::Drained) };
            let bytes = self.input.take(chain.writable.bytes());
            let written = chain.writable.write(requests.ram(), &bytes)?;
            requests.complete(chain.head, written as u64)?;
        }
    }

    fn transmit(&self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        while let Some(mut chain) = requests.take()? {
            let mut sent = self.sent.load(Ordering::Relaxed);
            // Taken over before the request was given back.
            let _ = chain.readable.take_front(sent);
            while chain.readable.bytes() > 0 {
                let piece = self.output.room().min(PIECE);
                let stopped = requests.check_interrupted();
                if piece == 0 || stopped.is_err() {
                    requests.give_back();
                    return stopped.map(|()| Progress::Blocked);
                }
                let mut bytes = vec![0; piece];
                let count =
                    chain.readable.take_front(piece as u64).read(requests.ram(), &mut bytes)?;
                // The worker alone pushes, so there is room for all of it.
                sent += self.output.push(bytes.get(..count).unwrap_or_default()) as u64;
                self.sent.store(sent, Ordering::Relaxed);
            }
            self.sent.store(0, Ordering::Relaxed);
            requests.complete(chain.head, 0)?;
        }
        Ok(Progress::Drained)
    }
}

impl Drop for VirtioConsole {
    fn drop(&mut self) {
        self.input.close();
    }
}

impl VirtioDevice for VirtioConsole {
    const ID: u32 = 3;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 64]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn connect(&mut self, transport: TransportHandle) {
        let drained = transport.clone();
        self.output.on_drained(Box::new(move || drained.kick(TRANSMIT)));
        self.input.connect(transport);
    }

    fn process(
        &mut self,
        queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        if queue == RECEIVE { self.receive(requests) } else { self.transmit(requests) }
    }

    /// A terminal that nobody reads does not stop a move: see [`OutputPort`].
    fn quiesce(&mut self, deadline: Instant) {
        self.input.park(true);
        self.output.park(deadline);
    }

    fn resume(&mut self) {
        self.output.unpark();
        self.input.park(false);
    }

    /// What was printed is still written. What was typed stays for the next driver: a driver resets
    /// the device when it finds it, and input typed ahead is the host's, as in a terminal.
    fn reset(&mut self) {
        self.sent.store(0, Ordering::Relaxed);
    }
}

impl SaveRestore for VirtioConsole {
    type Saved = SavedVirtioConsole;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedVirtioConsole {
        SavedVirtioConsole {
            input: self.input.pending(),
            output: self.output.pending(),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    fn restore(&self, saved: SavedVirtioConsole) -> Result<(), StateError> {
        let refused = |what, bytes, most| {
            let text = format!("{bytes} bytes of {what}, {most} are possible");
            StateError::refused("virtio-console", text)
        };
        if saved.input.len() > CAPACITY {
            return Err(refused("input", saved.input.len(), CAPACITY));
        }
        let bytes = saved.output.len();
        if !self.output.restore_parked(saved.output) {
            return Err(refused("output", bytes, OUTPUT_CAPACITY));
        }
        self.input.park(true);
        self.input.replace(saved.input);
        self.sent.store(saved.sent, Ordering::Relaxed);
        Ok(())
    }
}
