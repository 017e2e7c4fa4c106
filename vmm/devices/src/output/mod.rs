//! A guest's way out to the host's terminal, pipe or file.
//!
//! The host's writer may block for as long as it likes (a pipe that nobody reads), so a thread of
//! its own calls it, and the guest's bytes wait in a bounded queue before. A device tells its guest
//! when there is room.
//!
//! At a move the writer is parked: what is in the queue then moves with the guest; what the thread
//! has taken out belongs to this host, whose kernel may write it still. So nothing is printed twice,
//! and nothing is lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most bytes given to the host in one call.
const CHUNK: usize = 1024;
/// What a guest that stands still may have to wait for its terminal. One that is read takes microseconds.
const PATIENCE: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    parked: bool,
    closed: bool,
    /// Whether the thread is inside the host's writer.
    writing: bool,
}

type Callback = Box<dyn Fn() + Send + Sync>;

struct Shared {
    capacity: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    on_drained: Mutex<Option<Callback>>,
}

/// A bounded queue of bytes and the thread that writes them out.
pub struct OutputPort {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for OutputPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OutputPort").field(&*self.shared.queue()).finish()
    }
}

impl OutputPort {
    /// Starts the thread `name`, which writes to `writer`. The queue holds `capacity` bytes.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str, capacity: usize, writer: Box<dyn Write + Send>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            capacity,
            queue: Mutex::default(),
            changed: Condvar::new(),
            on_drained: Mutex::default(),
        });
        let thread = shared.clone();
        // Not joined: it may sit in the host's writer for ever. It ends with the port otherwise.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || thread.drain(writer))?;
        Ok(Self { shared })
    }

    /// Sets what the thread calls after it took bytes out of the queue. It is called without a lock
    /// of the port's.
    pub(crate) fn on_drained(&self, callback: Callback) {
        *self.shared.on_drained.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
    }

    /// Bytes that the queue takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.shared.capacity.saturating_sub(self.shared.queue().bytes.len())
    }

    /// Takes as many bytes from the front of `bytes` as there is room for; how many.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut queue = self.shared.queue();
        let room = self.shared.capacity.saturating_sub(queue.bytes.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        queue.bytes.extend(taken);
        self.shared.changed.notify_all();
        taken.len()
    }

    /// Writes nothing more until [`OutputPort::unpark`]. Waits until `deadline`, but 2 ms at most, for
    /// what the thread is writing; returns whether that was done in time. If not it belongs to this
    /// host's writer all the same.
    pub fn park(&self, deadline: Instant) -> bool {
        self.finish(deadline.min(Instant::now() + PATIENCE))
    }

    /// As [`OutputPort::park`], and waits until `deadline`: for a guest that does not go on.
    pub fn finish(&self, deadline: Instant) -> bool {
        let mut queue = self.shared.queue();
        queue.parked = true;
        while queue.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes again.
    pub fn unpark(&self) {
        self.shared.queue().parked = false;
        self.shared.changed.notify_all();
    }

    /// What is in the queue, to move with the guest.
    #[must_use]
    pub fn pending(&self) -> Vec<u8> {
        self.shared.queue().bytes.iter().copied().collect()
    }

    /// Parks the port and replaces what is in the queue; false, and nothing is changed, when that is
    /// more than the queue holds.
    #[must_use]
    pub(crate) fn restore_parked(&self, bytes: Vec<u8>) -> bool {
        let mut queue = self.shared.queue();
        if bytes.len() > self.shared.capacity {
            return false;
        }
        queue.parked = true;
        queue.bytes = bytes.into();
        true
    }
}

impl Drop for OutputPort {
    /// What was accepted is still written, unless the port is parked: then it has moved.
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn drain(&self, mut writer: Box<dyn Write + Send>) {
        let mut broken = false;
        while let Some(chunk) = self.next_chunk() {
            if let Some(callback) = &*self.on_drained.lock().unwrap_or_else(PoisonError::into_inner)
            {
                callback();
            }
            if !broken && let Err(error) = writer.write_all(&chunk).and_then(|()| writer.flush()) {
                // The guest goes on, as it would with its terminal unplugged.
                log::warn!("guest output is dropped from now on: {error}");
                broken = true;
            }
        }
    }

    fn next_chunk(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        queue.writing = false;
        self.changed.notify_all();
        while queue.parked || queue.bytes.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.writing = true;
        let count = queue.bytes.len().min(CHUNK);
        Some(queue.bytes.drain(..count).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests;
