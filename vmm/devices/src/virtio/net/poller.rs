//! A thread that waits for the tap, so that the worker never does.

use super::tap::Tap;
use crate::virtio::device::TransportHandle;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// A frame has come.
    Readable,
    /// There is room for a frame.
    Writable,
}

impl Until {
    fn event(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }

    fn queue(self) -> usize {
        match self {
            Self::Readable => super::device::RECEIVE,
            Self::Writable => super::device::TRANSMIT,
        }
    }
}

#[derive(Default)]
struct State {
    /// Events that are waited for, each once.
    events: i16,
    /// The tap is gone: nothing comes and nothing goes.
    gone: bool,
    closed: bool,
    transport: Option<TransportHandle>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's handle. The thread ends with it.
pub(super) struct Poller {
    shared: Arc<Shared>,
    wake: UnixDatagram,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("events", &self.shared.state().events).finish()
    }
}

impl Poller {
    /// Starts the thread `name`.
    ///
    /// # Errors
    /// When the system has no thread or no descriptors left.
    pub(super) fn start(name: &str, tap: Arc<Tap>) -> io::Result<Self> {
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        let body = move || thread.work(&tap, &woken);
        std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { shared, wake })
    }

    pub(super) fn connect(&self, transport: TransportHandle) {
        self.shared.state().transport = Some(transport);
    }

    /// Kicks the queue once what is waited for is there.
    pub(super) fn kick_when(&self, until: Until) {
        self.shared.state().events |= until.event();
        self.wake();
    }

    /// Whether the tap is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.shared.state().gone
    }

    /// The tap is gone.
    pub(super) fn set_gone(&self) {
        self.shared.state().gone = true;
    }

    fn wake(&self) {
        // A full queue wakes as well.
        let _ = self.wake.send(&[0]);
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.wake();
    }
}

impl Shared {
    /// The thread.
    fn work(&self, tap: &Tap, woken: &UnixDatagram) {
        loop {
            let events = {
                let state = self.state();
                if state.closed {
                    return;
                }
                if state.gone { 0 } else { state.events }
            };
            let found = match tap.wait(events, woken) {
                Ok(found) => found,
                Err(error) => {
                    log::warn!("network: cannot wait for the tap: {error}");
                    return self.tell(libc::POLLERR);
                }
            };
            while woken.recv(&mut [0; 8]).is_ok() {}
            if found != 0 {
                self.tell(found);
            }
        }
    }

    /// Kicks the queues whose event was found; all when the tap is gone.
    fn tell(&self, found: i16) {
        let mut state = self.state();
        let gone = found & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
        state.gone |= gone;
        let told = if gone { state.events } else { state.events & found };
        state.events &= !told;
        let transport = state.transport.clone();
        drop(state);
        let Some(transport) = transport else { return };
        for until in [Until::Readable, Until::Writable] {
            if told & until.event() != 0 {
                transport.kick(until.queue());
            }
        }
    }
}
