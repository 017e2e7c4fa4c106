//! The destination's end of the demand lane: requests go out and answers come in by the thread that needs
//! the page.
//!
//! To wake a thread costs more than to send a page, so as few as can be are woken for one. A thread that
//! waits for a page in this process ([`PageRequester::attend`]) reads the connection itself. The lane's own
//! thread reads for everybody else: those that wait in the kernel, and those that find another thread
//! reading. It *watches* (sleeps in `poll`) or, while others read and nobody needs it, *rests*:
//!
//! | state | what happens | next |
//! |---|---|---|
//! | watches | bytes come, nobody has attended since it looked last | reads all that is here; watches |
//! | watches | bytes come, somebody has attended, an alarm is not long ago | waits for its turn, reads; watches |
//! | watches | bytes come, somebody has attended, no alarm for [`CALM`] | rests |
//! | rests | an alarm | watches |
//! | rests | [`REST`] is over, nobody has attended in it | watches |
//! | rests | [`REST`] is over, somebody has attended | rests |
//!
//! An alarm says that somebody waits who does not read: a request by the fault reader, a thread that
//! finds another reading, one that has read in vain for [`PATIENCE`]. It is given after the request is
//! on its way, and the lane's thread looks at it after it has said that it rests, so none is slept through;
//! were one lost all the same, the rest is short. Whoever reads leaves no whole frame behind in the buffer,
//! where `poll` would not see it.

use super::spin::Spin;
use super::{FrameReader, LaneError, LaneState, PageReceiver, RequestLane};
use crate::channel::ChannelControl;
use crate::wake::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};
use umem_fault::PageRequester;
use umem_memory::{PageIndex, PageRange};

/// How long the lane's thread does not look while others read.
const REST: Duration = Duration::from_millis(2);
/// How long after an alarm the lane's thread does not rest.
const CALM: Duration = Duration::from_millis(20);
/// How long a thread that waits sleeps at most before it looks whether it is to stop.
const SLICE: Duration = Duration::from_millis(1);
/// How long a thread reads in vain before it leaves that to the lane's thread.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a thread waits for another to have read what is here.
const TURN: Duration = Duration::from_micros(20);

/// What is done when the lane ends.
type Ended = Box<dyn Fn(&LaneError) + Send + Sync>;

/// The reading half; whoever holds it reads.
struct Reading {
    frames: FrameReader,
    state: LaneState,
    /// The lane has ended.
    over: bool,
}

/// Both halves of the lane.
pub(crate) struct DemandLane {
    requests: RequestLane,
    receiver: PageReceiver,
    reading: Mutex<Reading>,
    control: Arc<dyn ChannelControl>,
    ended: Ended,
    /// Times that a thread has begun to read for itself.
    attended: AtomicU64,
    /// Alarms so far.
    alarms: AtomicU64,
    resting: AtomicBool,
    own_thread: OnceLock<Thread>,
    /// Of threads that read for themselves.
    spin: Spin,
}

impl DemandLane {
    /// A lane that tells of its end by `ended`, perhaps more than once.
    pub(crate) fn new(
        requests: RequestLane,
        reader: Box<dyn Read + Send>,
        control: Arc<dyn ChannelControl>,
        receiver: PageReceiver,
        ended: impl Fn(&LaneError) + Send + Sync + 'static,
    ) -> Self {
        let frames = receiver.frames(reader);
        Self {
            requests,
            receiver,
            reading: Mutex::new(Reading { frames, state: LaneState::default(), over: false }),
            control,
            ended: Box::new(ended),
            attended: AtomicU64::new(0),
            alarms: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            own_thread: OnceLock::new(),
            spin: Spin::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane's own thread: reads for those who do not, until the lane ends.
    pub(crate) fn serve(&self) {
        let _ = self.own_thread.set(std::thread::current());
        let Some(socket) = self.control.readable() else {
            return self.read_alone();
        };
        let mut attended = self.attended.load(Ordering::SeqCst);
        let mut alarm = (self.alarms.load(Ordering::SeqCst), Instant::now());
        loop {
            if let Err(error) = wait_readable(socket, None) {
                return (self.ended)(&error.into());
            }
            let alarms = self.alarms.load(Ordering::SeqCst);
            if alarms != alarm.0 {
                alarm = (alarms, Instant::now());
            }
            let before = std::mem::replace(&mut attended, self.attended.load(Ordering::SeqCst));
            if attended != before && alarm.1.elapsed() > CALM {
                attended = self.rest(attended, alarms);
                continue;
            }
            let mut reading = self.lock();
            if reading.over || self.read_here(&mut reading, socket).is_err() {
                return;
            }
        }
    }

    /// Where nothing tells whether there is something to read: nobody else does.
    fn read_alone(&self) {
        let mut reading = self.lock();
        while !reading.over {
            let read = reading.frames.read_on();
            let _ = self.dealt_with(&mut reading, read);
        }
    }

    /// Sleeps while others read for themselves, who had `attended` so many times, and there have been no
    /// more than so many alarms; how many times they have.
    fn rest(&self, mut attended: u64, alarms: u64) -> u64 {
        loop {
            self.resting.store(true, Ordering::SeqCst);
            if self.alarms.load(Ordering::SeqCst) == alarms {
                std::thread::park_timeout(REST);
            }
            self.resting.store(false, Ordering::SeqCst);
            let before = std::mem::replace(&mut attended, self.attended.load(Ordering::SeqCst));
            if self.alarms.load(Ordering::SeqCst) != alarms || attended == before {
                return attended;
            }
        }
    }

    /// Somebody waits for what is to come and does not read.
    fn alarm(&self) {
        self.alarms.fetch_add(1, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst)
            && let Some(thread) = self.own_thread.get()
        {
            thread.unpark();
        }
    }

    /// Reads until nothing is here.
    fn read_here(&self, reading: &mut Reading, socket: BorrowedFd<'_>) -> Result<(), Over> {
        loop {
            self.take_whole(reading)?;
            match wait_readable(socket, Some(Duration::ZERO)) {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    let read = reading.frames.read_on();
                    self.dealt_with(reading, read)?;
                }
                Err(error) => self.dealt_with(reading, Err(error.into()))?,
            }
        }
    }

    /// Takes in what is whole in the buffer.
    fn take_whole(&self, reading: &mut Reading) -> Result<(), Over> {
        let Reading { frames, state, .. } = reading;
        let taken = (|| {
            while frames.has_whole()? {
                self.receiver.receive(&frames.next()?, state)?;
                self.requests.answered();
            }
            Ok(())
        })();
        self.checked(reading, taken)
    }

    fn dealt_with(&self, reading: &mut Reading, read: Result<(), LaneError>) -> Result<(), Over> {
        self.checked(reading, read)?;
        self.take_whole(reading)
    }

    /// Ends the lane with an error.
    fn checked(&self, reading: &mut Reading, done: Result<(), LaneError>) -> Result<(), Over> {
        done.map_err(|error| {
            reading.over = true;
            (self.ended)(&error);
            Over
        })
    }

    /// The right to read, if no other thread keeps it.
    fn turn(&self) -> Option<MutexGuard<'_, Reading>> {
        let started = Instant::now();
        loop {
            match self.reading.try_lock() {
                Ok(reading) => return Some(reading),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if started.elapsed() > TURN => return None,
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
    }

    /// Reads for the calling thread until there is enough; whether others need not be told to.
    fn read_until(&self, socket: BorrowedFd<'_>, enough: &dyn Fn() -> bool) -> bool {
        let Some(mut reading) = self.turn() else { return enough() };
        let started = Instant::now();
        loop {
            if reading.over || self.take_whole(&mut reading).is_err() || enough() {
                return true;
            }
            if started.elapsed() > PATIENCE {
                return false;
            }
            let background = self.receiver.arrivals.background.load(Ordering::Relaxed);
            let looked = self.spin.look(socket, background);
            let read = match looked.and_then(|()| wait_readable(socket, Some(SLICE))) {
                Ok(false) => continue,
                Ok(true) => reading.frames.read_on(),
                Err(error) => Err(error.into()),
            };
            if self.dealt_with(&mut reading, read).is_err() {
                return true;
            }
        }
    }
}

/// The lane has ended, and who needs to know does.
struct Over;

impl PageRequester for DemandLane {
    fn request(&self, pages: &[PageIndex]) {
        self.requests.request(pages);
        self.alarm();
    }

    /// Neighbours that came with an answer are left unread by a thread that had what it waited for.
    fn look(&self) {
        let Some(socket) = self.control.readable() else { return };
        let mut reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread reads it all.
            Err(TryLockError::WouldBlock) => return,
        };
        if !reading.over {
            // An end is told by then.
            let _ = self.read_here(&mut reading, socket);
        }
    }

    fn request_attended(&self, pages: &[PageIndex]) {
        self.requests.request(pages);
    }

    fn attend(&self, enough: &dyn Fn() -> bool) {
        let Some(socket) = self.control.readable() else { return };
        self.attended.fetch_add(1, Ordering::SeqCst);
        if !self.read_until(socket, enough) {
            self.alarm();
        }
    }

    fn remove(&self, runs: &[PageRange]) {
        self.requests.remove(runs);
    }
}

/// Waits, at most so long, until a socket has something to read or has ended; whether it has.
pub(super) fn wait_readable(socket: BorrowedFd<'_>, within: Option<Duration>) -> io::Result<bool> {
    let within = within.map(timespec);
    loop {
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        match poll(&mut fds, within.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
