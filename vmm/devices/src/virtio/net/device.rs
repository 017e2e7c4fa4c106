//! Frames between the driver and the tap.
//!
//! A frame from the tap is read into the device's own memory, then a buffer of the driver's is made
//! present, then it is filled. So no system call has an address of guest memory, and a frame that
//! was taken while the device comes to rest moves with it.

use super::SavedVirtioNet;
use super::announce::Announcer;
use super::link::{Link, LinkState, count};
use super::poller::{Poller, Until};
use super::tap::{HEADER, MOST_FRAME, Tap};
use crate::virtio::device::{ConfigSpace, Progress, TransportHandle, VirtioDevice};
use crate::virtio::requests::{QueueError, Requests};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umem_state::{SaveRestore, StateError};

const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_STATUS: u64 = 1 << 16;
const FEATURE_CONTROL: u64 = 1 << 17;
const FEATURE_ANNOUNCE: u64 = 1 << 21;

/// Queue of buffers for frames to the guest.
pub(super) const RECEIVE: usize = 0;
/// Queue of frames from the guest.
pub(super) const TRANSMIT: usize = 1;

/// Class and command by which the driver acknowledges that it announces itself (section 5.1.6.5.4).
const ACKNOWLEDGE_ANNOUNCE: [u8; 2] = [3, 0];
const CONTROL_OK: u8 = 0;
const CONTROL_ERROR: u8 = 1;

/// Bytes of the shortest frame: two addresses and a type.
const LEAST_FRAME: usize = 14;
/// Frames in one direction before the other has its turn.
const TURN: usize = 64;

/// A network device with one pair of queues.
pub struct VirtioNet {
    tap: Arc<Tap>,
    link: Arc<Link>,
    poller: Poller,
    /// For one frame with its header.
    buffer: Box<[u8]>,
    /// A frame for which the driver had no buffer yet; empty for none.
    frame: Mutex<Vec<u8>>,
    features: u64,
    /// Whether the guest has come here, and its driver is to announce itself.
    arrived: AtomicBool,
    transport: Option<TransportHandle>,
}

impl VirtioNet {
    /// A network device on `tap` with hardware address `mac`. It waits for the tap in a thread named
    /// `NAME-poll`.
    ///
    /// # Errors
    /// When the system has no thread or no descriptors left.
    pub fn new(name: &str, tap: Tap, mac: [u8; 6]) -> io::Result<Self> {
        let tap = Arc::new(tap);
        Ok(Self {
            poller: Poller::start(&format!("{name}-poll"), tap.clone())?,
            tap,
            link: Arc::new(Link::new(mac)),
            buffer: vec![0; HEADER + MOST_FRAME + 1].into(),
            frame: Mutex::default(),
            features: 0,
            arrived: AtomicBool::new(false),
            transport: None,
        })
    }

    /// Its link, for the monitor.
    #[must_use]
    pub fn link(&self) -> Arc<Link> {
        self.link.clone()
    }

    /// What tells its network where the guest is.
    #[must_use]
    pub fn announcer(&self) -> Announcer {
        Announcer { tap: self.tap.clone(), link: self.link.clone() }
    }

    fn frame(&self) -> MutexGuard<'_, Vec<u8>> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kick(&self, queue: usize) {
        if let Some(transport) = &self.transport {
            transport.kick(queue);
        }
    }

    /// The tap is gone; the driver finds the link down.
    fn lose_tap(&self, why: &str) {
        if !self.poller.is_gone() || self.link.is_up() {
            log::warn!("network: the tap is gone ({why}); the link is down");
        }
        self.poller.set_gone();
        self.link.set_up(false);
    }

    /// Takes a frame from the tap; false when there is none. Then the queue is kicked once there is.
    fn fetch(&mut self) -> bool {
        if self.poller.is_gone() {
            self.lose_tap("its other end has closed");
            return false;
        }
        match self.tap.receive(&mut self.buffer) {
            Ok(0) => self.lose_tap("its other end has closed"),
            Ok(bytes) => {
                let frame = self.buffer.get(HEADER..bytes).unwrap_or_default();
                if self.link.is_up() && (LEAST_FRAME..=MOST_FRAME).contains(&frame.len()) {
                    *self.frame.get_mut().unwrap_or_else(PoisonError::into_inner) = frame.to_vec();
                } else {
                    count(&self.link.counters.dropped);
                }
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.poller.kick_when(Until::Readable);
            }
            Err(error) => self.lose_tap(&error.to_string()),
        }
        false
    }

    fn receive(&mut self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        for _ in 0..TURN {
            requests.check_interrupted()?;
            if self.frame().is_empty() && !self.fetch() {
                return Ok(Progress::Blocked);
            }
            if self.frame().is_empty() {
                continue;
            }
            let Some(chain) = requests.take()? else { return Ok(Progress::Drained) };
            let frame = std::mem::take(&mut *self.frame());
            // Without offloads the header has nothing but the number of buffers, which is 1.
            let mut bytes = vec![0; HEADER - 2];
            bytes.extend(1u16.to_le_bytes());
            bytes.extend(frame);
            if bytes.len() as u64 > chain.writable.bytes() {
                requests.give_back();
                count(&self.link.counters.dropped);
                continue;
            }
            let written = chain.writable.write(requests.ram(), &bytes)?;
            requests.complete(chain.head, written as u64)?;
            count(&self.link.counters.received);
        }
        self.kick(RECEIVE);
        Ok(Progress::Blocked)
    }

    fn transmit(&mut self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        for _ in 0..TURN {
            let Some(mut chain) = requests.take()? else { return Ok(Progress::Drained) };
            // What the driver says in the header is about offloads, of which there are none.
            let _ = chain.readable.take_front(HEADER as u64);
            let bytes = usize::try_from(chain.readable.bytes()).unwrap_or(usize::MAX);
            let whole = (LEAST_FRAME..=MOST_FRAME).contains(&bytes);
            let sent = if whole && self.link.is_up() {
                self.buffer.get_mut(..HEADER).unwrap_or_default().fill(0);
                let room = self.buffer.get_mut(HEADER..HEADER + bytes).unwrap_or_default();
                chain.readable.read(requests.ram(), room)?;
                self.tap.send(self.buffer.get(..HEADER + bytes).unwrap_or_default())
            } else {
                Err(io::ErrorKind::InvalidData.into())
            };
            match sent {
                Ok(()) => count(&self.link.counters.sent),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.poller.is_gone() =>
                {
                    requests.give_back();
                    self.poller.kick_when(Until::Writable);
                    return Ok(Progress::Blocked);
                }
                Err(_) => count(&self.link.counters.dropped),
            }
            requests.complete(chain.head, 0)?;
        }
        self.kick(TRANSMIT);
        Ok(Progress::Blocked)
    }

    fn control(&self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        while let Some(chain) = requests.take()? {
            let mut command = [0; 2];
            let read = chain.readable.read(requests.ram(), &mut command)?;
            let answer = if read == command.len() && command == ACKNOWLEDGE_ANNOUNCE {
                self.link.alter(|state| state.announce = false);
                CONTROL_OK
            } else {
                CONTROL_ERROR
            };
            let written = chain.writable.write(requests.ram(), &[answer])?;
            requests.complete(chain.head, written as u64)?;
        }
        Ok(Progress::Drained)
    }
}

impl VirtioDevice for VirtioNet {
    const ID: u32 = 1;

    fn features(&self) -> u64 {
        FEATURE_MAC | FEATURE_STATUS | FEATURE_CONTROL | FEATURE_ANNOUNCE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 64]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.link.clone()
    }

    fn connect(&mut self, transport: TransportHandle) {
        self.link.connect(transport.clone());
        self.poller.connect(transport.clone());
        self.transport = Some(transport);
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn process(
        &mut self,
        queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        match queue {
            RECEIVE => self.receive(requests),
            TRANSMIT => self.transmit(requests),
            _ => self.control(requests),
        }
    }

    /// A guest that has arrived is to be found here: its driver sends what switches learn from.
    fn resume(&mut self) {
        let wanted = FEATURE_STATUS | FEATURE_ANNOUNCE;
        let arrived = self.arrived.swap(false, Ordering::Relaxed);
        if arrived && self.features & wanted == wanted && self.link.is_up() {
            // Its interrupt may have been lost with the source.
            self.link.alter(|state| state.announce = false);
            self.link.change(|state| state.announce = true);
        }
    }

    fn reset(&mut self) {
        self.frame().clear();
        self.features = 0;
        self.arrived.store(false, Ordering::Relaxed);
        self.link.alter(|state| state.announce = false);
    }
}

impl SaveRestore for VirtioNet {
    type Saved = SavedVirtioNet;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedVirtioNet {
        let LinkState { mac, up, announce } = self.link.state();
        SavedVirtioNet { mac, link_up: up, announce, frame: self.frame().clone() }
    }

    fn restore(&self, saved: SavedVirtioNet) -> Result<(), StateError> {
        let bytes = saved.frame.len();
        if bytes > MOST_FRAME {
            let text = format!("a frame of {bytes} bytes, {MOST_FRAME} are possible");
            return Err(StateError::refused("virtio-net", text));
        }
        let SavedVirtioNet { mac, link_up: up, announce, frame } = saved;
        self.link.alter(|state| *state = LinkState { mac, up, announce });
        *self.frame() = frame;
        self.arrived.store(true, Ordering::Relaxed);
        Ok(())
    }
}
