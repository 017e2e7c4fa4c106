//! The thread that reads faults from the kernel.

use crate::plane::FaultPlane;
use crate::promptly::run_promptly;
use crate::state::{Arrival, Claim};
use crate::uffd::{FaultEvent, Features, Userfaultfd};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;
use umem_memory::PageIndex;

/// Faults that go out in one request at most.
const BATCH: usize = 1024;

/// The thread and the way to end it.
pub(crate) struct Reader {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn start(plane: &Arc<FaultPlane>) -> io::Result<Self> {
        let uffd = plane.uffd().map_err(io::Error::other)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let stop = Arc::new(rustix::event::eventfd(0, flags)?);
        let end = stop.clone();
        let plane = Arc::downgrade(plane);
        let thread = std::thread::Builder::new().name("fault-reader".into()).spawn(move || {
            run_promptly();
            if let Err(error) = read_faults(&plane, &uffd, &end) {
                log::error!("faults can no longer be read from the kernel: {error}");
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread as soon as it is back from what it does; does not wait for that.
    pub(crate) fn stop(self) {
        if let Err(error) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            log::error!("cannot stop {:?}: {error}", self.thread.thread().name());
        }
    }
}

fn read_faults(plane: &Weak<FaultPlane>, uffd: &Userfaultfd, stop: &OwnedFd) -> io::Result<()> {
    let mut events = Vec::with_capacity(BATCH);
    loop {
        let mut watched = [PollFd::new(uffd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [faults, end] = watched.map(|fd| fd.revents());
        if !end.is_empty() {
            return Ok(());
        }
        if faults.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return Err(io::Error::other("the userfaultfd is of no more use"));
        }
        if faults.is_empty() {
            continue;
        }
        events.clear();
        uffd.read_events(&mut events, BATCH)?;
        let Some(plane) = plane.upgrade() else { return Ok(()) };
        take_faults(&plane, uffd, &events);
    }
}

/// Claims what is needed and asks for all of it at once.
fn take_faults(plane: &FaultPlane, uffd: &Userfaultfd, events: &[FaultEvent]) {
    let now = Instant::now();
    let page_of = |event: &FaultEvent| {
        let page = plane.regions.page_at(event.address);
        if page.is_none() {
            log::error!("a fault at {:#x}, where no guest memory is", event.address);
        }
        page
    };
    let pages: Vec<_> = events.iter().filter_map(page_of).collect();
    plane.outstanding.note(&pages, now);
    // Whether it must be asked for; nothing of one that will not come or is there.
    let needed = |page: PageIndex| match plane.claim(page) {
        Claim::Fetch => Some(true),
        Claim::Wait | Claim::Zero => Some(false),
        Claim::Present => {
            // It came between the touch and now: the install may have woken too early.
            if plane.place.in_cache() {
                plane.map_present(page);
            } else {
                wake(plane, uffd, page);
            }
            plane.note_arrival(page, Arrival::Present);
            None
        }
        Claim::Poisoned => {
            // Where the page was made to fail, looking again ends in the error.
            if uffd.features().contains(Features::POISON) {
                wake(plane, uffd, page);
            }
            plane.note_arrival(page, Arrival::Poisoned);
            None
        }
    };
    let mut wanted = Vec::new();
    for page in pages {
        if let Some(fetch) = needed(page) {
            wanted.extend(fetch.then_some(page));
            plane.claim_rest(page, &mut wanted);
        }
    }
    plane.request(&wanted);
}

fn wake(plane: &FaultPlane, uffd: &Userfaultfd, page: PageIndex) {
    let Some(address) = plane.regions.address(umem_memory::PageRange::one(page)) else { return };
    if let Err(error) = uffd.wake(address, plane.regions.page_size().bytes()) {
        log::error!("cannot wake who waits for {page}: {error}");
    }
}
