//! One direction of bytes between two threads: bounded, closable from anywhere, and, for tests, with
//! latency and a byte at which the link breaks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a direction misbehaves; the default does not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behaviour {
    /// Time from writing to readability.
    pub(super) latency: Duration,
    /// Number of the first byte that does not get through; it and all after it are lost.
    pub(super) cut_at: Option<u64>,
    /// Number of a byte that arrives inverted.
    pub(super) damage_at: Option<u64>,
    /// Whether a cut is silent: the writer goes on writing into nothing, the reader waits.
    pub(super) silent: bool,
}

struct State {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes of the first chunk that were read.
    consumed: usize,
    buffered: usize,
    written: u64,
    read: u64,
    cut: bool,
    closed: bool,
}

pub(super) struct Pipe {
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
    capacity: usize,
    behaviour: Behaviour,
}

impl Pipe {
    pub(super) fn new(capacity: usize, behaviour: Behaviour) -> Self {
        let state = State {
            chunks: VecDeque::new(),
            consumed: 0,
            buffered: 0,
            written: 0,
            read: 0,
            cut: false,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            readable: Condvar::new(),
            writable: Condvar::new(),
            capacity,
            behaviour,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes some bytes, waiting for room for at least one.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.lock();
        while !state.closed && !state.cut && state.buffered >= self.capacity {
            state = self.writable.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.cut && !self.behaviour.silent {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = self.capacity.saturating_sub(state.buffered).max(1);
        let count = bytes.len().min(room);
        self.put(&mut state, bytes[..count].to_vec())?;
        Ok(count)
    }

    /// Takes a whole buffer without waiting for room.
    ///
    /// # Errors
    /// `OutOfMemory` when that would go beyond the capacity: the peer did not keep to its credit.
    pub(super) fn push(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut state = self.lock();
        if state.buffered.saturating_add(bytes.len()) > self.capacity {
            return Err(ErrorKind::OutOfMemory.into());
        }
        self.put(&mut state, bytes)
    }

    fn put(&self, state: &mut State, mut bytes: Vec<u8>) -> io::Result<()> {
        if state.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let first = state.written;
        state.written += bytes.len() as u64;
        if let Some(cut_at) = self.behaviour.cut_at.filter(|cut| *cut < state.written) {
            state.cut = true;
            bytes.truncate(usize::try_from(cut_at.saturating_sub(first)).unwrap_or(0));
        }
        let damaged = self.behaviour.damage_at.and_then(|at| at.checked_sub(first));
        let damaged = damaged.and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = damaged.and_then(|at| bytes.get_mut(at)) {
            *byte = !*byte;
        }
        state.buffered += bytes.len();
        if !bytes.is_empty() {
            state.chunks.push_back((Instant::now() + self.behaviour.latency, bytes));
        }
        self.readable.notify_one();
        Ok(())
    }

    /// Gives some bytes, waiting for the first; 0 when there will be no more.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            match state.chunks.front() {
                Some((due, _)) if *due <= now => break,
                Some((due, _)) if !state.closed => {
                    let left = *due - now;
                    let waited = self.readable.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ if state.closed || (state.cut && !self.behaviour.silent) => return Ok(0),
                _ => {
                    state = self.readable.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        Ok(self.take(&mut state, buffer))
    }

    fn take(&self, state: &mut State, buffer: &mut [u8]) -> usize {
        let State { chunks, consumed, buffered, .. } = state;
        let Some((_, chunk)) = chunks.front() else { return 0 };
        let rest = &chunk[*consumed..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        *buffered -= count;
        *consumed += count;
        if *consumed == chunk.len() {
            chunks.pop_front();
            *consumed = 0;
        }
        state.read += count as u64;
        self.writable.notify_one();
        count
    }

    /// Ends it for both sides. What was not read yet is lost.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.chunks.clear();
        state.buffered = 0;
        state.consumed = 0;
        self.readable.notify_all();
        self.writable.notify_all();
    }

    /// Ends it for the writer; the reader gets what was written, then the end.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.cut = true;
        self.readable.notify_all();
        self.writable.notify_all();
    }

    /// Bytes written and read so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.written, state.read)
    }
}
