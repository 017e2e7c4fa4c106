//! A descriptor that gets a thread out of `poll`.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Set once, stays set: whoever polls it is woken, now and later. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wake {
    fd: Arc<OwnedFd>,
}

impl Wake {
    /// A new one, not set.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Sets it.
    pub fn set(&self) {
        // The only failure of a valid eventfd is a full counter, which is set as well.
        let _ = rustix::io::write(&*self.fd, &1u64.to_ne_bytes());
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    /// Clears it, for one that is used again and again.
    pub fn clear(&self) {
        let mut counter = [0u8; 8];
        // Not set: EAGAIN, which is what was asked for.
        let _ = rustix::io::read(&*self.fd, &mut counter);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until a descriptor is ready for what is asked, the time is over (`false`), or `wake` is set
/// (an error of kind `Interrupted`).
///
/// # Errors
/// `poll`'s own, and `Interrupted`.
pub(crate) fn wait_ready(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    wake: &Wake,
    within: Duration,
) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(fd, flags), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) if !fds[1].revents().is_empty() => return Err(io::ErrorKind::Interrupted.into()),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A duration as `poll` takes it; more than it can say is a day.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: 86_400, tv_nsec: 0 })
}
