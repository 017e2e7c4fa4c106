//! The host's input: a thread that reads, and a bounded buffer.

use crate::virtio::device::TransportHandle;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that wait for the guest.
pub(super) const CAPACITY: usize = 4096;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    parked: bool,
    closed: bool,
    transport: Option<TransportHandle>,
}

/// Input that waits for the guest. While parked it takes nothing: what the thread has read by then
/// is given to the guest only if it goes on here.
#[derive(Default)]
pub(super) struct Input {
    state: Mutex<State>,
    changed: Condvar,
}

impl Input {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread `name`, which reads until the end or an error.
    pub(super) fn start(
        self: &Arc<Self>,
        name: &str,
        reader: Box<dyn Read + Send>,
    ) -> io::Result<()> {
        let input = self.clone();
        // Not joined: it may sit in the host's reader for ever.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || input.feed(reader))?;
        Ok(())
    }

    fn feed(&self, mut reader: Box<dyn Read + Send>) {
        let mut bytes = [0; 512];
        loop {
            let count = match reader.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::warn!("guest input has ended: {error}");
                    return;
                }
            };
            if !self.push(bytes.get(..count).unwrap_or_default()) {
                return;
            }
        }
    }

    /// Adds all bytes, waiting for room; false when the device is gone.
    fn push(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let mut state = self.state();
            while !state.closed && (state.parked || state.bytes.len() >= CAPACITY) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return false;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(CAPACITY - state.bytes.len()));
            state.bytes.extend(now);
            bytes = rest;
            let transport = state.transport.clone();
            drop(state);
            if let Some(transport) = transport {
                transport.kick(super::device::RECEIVE);
            }
        }
        true
    }

    pub(super) fn connect(&self, transport: TransportHandle) {
        self.state().transport = Some(transport);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().bytes.is_empty()
    }

    /// Takes up to `most` bytes.
    pub(super) fn take(&self, most: u64) -> Vec<u8> {
        let mut state = self.state();
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(state.bytes.len());
        let taken = state.bytes.drain(..count).collect();
        self.changed.notify_all();
        taken
    }

    pub(super) fn park(&self, parked: bool) {
        self.state().parked = parked;
        self.changed.notify_all();
    }

    pub(super) fn pending(&self) -> Vec<u8> {
        self.state().bytes.iter().copied().collect()
    }

    /// Replaces what waits.
    pub(super) fn replace(&self, bytes: Vec<u8>) {
        self.state().bytes = bytes.into();
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}
