//! A short look for what is about to come, before the thread sleeps.
//!
//! To wake a thread on an idle core costs 30 to 50 µs on a virtual machine, ten times what a page takes. A thread
//! that looks for that long instead needs no waking; but it keeps its core, and beside a background that runs as fast
//! as it can there are more threads than cores. So it looks only while the background leaves cores idle, never for
//! longer than [`SPIN`], and hardly ever where that was in vain the last times: the peer is further away, or
//! asks seldom.

use super::demand::wait_readable;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest look.
const SPIN: Duration = Duration::from_micros(50);
/// Time over which the background's rate is measured, at least.
const RATE_OVER: Duration = Duration::from_millis(20);
/// Pages a millisecond at which the background leaves cores idle: 200 MiB/s, a fifth of what a core can do.
const CALM: u64 = 51;
/// After so many looks in vain, one after the other, a thread looks only each [`SELDOM`]th time.
const IN_VAIN: u32 = 4;
const SELDOM: u32 = 64;

/// The background's rate, as far as somebody looked.
#[derive(Debug)]
struct Rate {
    /// Pages, and the time since the start, when it was measured last.
    measured: (u64, Duration),
    calm: bool,
}

impl Rate {
    fn is_calm(&mut self, pages: u64, now: Duration) -> bool {
        let (before, at) = self.measured;
        let passed = now.saturating_sub(at);
        if passed >= RATE_OVER {
            let most = u128::from(CALM) * passed.as_millis();
            self.calm = u128::from(pages.saturating_sub(before)) <= most;
            self.measured = (pages, now);
        }
        self.calm
    }
}

/// Whether looking pays, by what came of it. Several threads may use one.
#[derive(Debug)]
pub(crate) struct Spin {
    started: Instant,
    rate: Mutex<Rate>,
    /// Looks in vain, or left out, since one that was not.
    in_vain: AtomicU32,
    several_cores: bool,
}

impl Spin {
    /// As if there were no background yet.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            started: Instant::now(),
            rate: Mutex::new(Rate { measured: (0, Duration::ZERO), calm: true }),
            in_vain: AtomicU32::new(0),
            several_cores: cores > 1,
        }
    }

    /// Whether to look, so many pages of the background having come, at a time since the start.
    fn pays(&self, background: u64, now: Duration) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if !rate.is_calm(background, now) || !self.several_cores {
            return false;
        }
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let pays = in_vain < IN_VAIN || in_vain.is_multiple_of(SELDOM);
        if !pays {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
        pays
    }

    fn came(&self, something: bool) {
        if something {
            self.in_vain.store(0, Ordering::Relaxed);
        } else {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks whether there is something to read, if that pays, until there is or the time is over. Who reads may
    /// have to sleep all the same.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn look(&self, socket: BorrowedFd<'_>, background: u64) -> io::Result<()> {
        if !self.pays(background, self.started.elapsed()) {
            return Ok(());
        }
        let started = Instant::now();
        while !wait_readable(socket, Some(Duration::ZERO))? {
            if started.elapsed() > SPIN {
                self.came(false);
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.came(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn spin() -> Spin {
        Spin { several_cores: true, ..Spin::new() }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_looks_only_while_the_background_leaves_cores_idle() {
        let spin = spin();
        for (background, at, pays) in [
            // Nothing came yet; what has just begun is not known.
            (0, 0, true),
            (2000, 19, true),
            (2000, 20, false),
            (2000, 39, false),
            (2064, 40, true),
            // 50 MiB/s: a chunk each 5 ms.
            (2320, 60, true),
            // As fast as it can.
            (8000, 80, false),
            (14_000, 99, false),
            (14_000, 100, false),
            // Over.
            (14_000, 120, true),
        ] {
            assert_eq!(spin.pays(background, MS * at), pays, "{background} pages, {at} ms");
        }
        let alone = Spin { several_cores: false, ..Spin::new() };
        assert!(!alone.pays(0, MS * 100), "nobody else can run meanwhile");
    }

    #[test]
    fn what_was_in_vain_is_tried_seldom_until_it_is_not() {
        let spin = spin();
        let looks = |times: u32, something| {
            (0..times)
                .filter(|_| {
                    let pays = spin.pays(0, MS * 100);
                    if pays {
                        spin.came(something);
                    }
                    pays
                })
                .count()
        };
        assert_eq!(looks(10, true), 10);
        assert_eq!(looks(4, false), 4);
        assert_eq!(looks(60, false), 0);
        assert_eq!(looks(1, false), 1);
        assert_eq!(looks(63, false), 0);
        assert_eq!(looks(1, true), 1, "something came");
        assert_eq!(looks(10, true), 10);
    }

    #[test]
    fn a_look_ends_when_something_is_here_or_the_time_is_over() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let spin = spin();
        spin.look(a.as_fd(), 0).unwrap();
        assert_eq!(spin.in_vain.load(Ordering::Relaxed), 1);
        b.write_all(b"x").unwrap();
        spin.look(a.as_fd(), 0).unwrap();
        assert_eq!(spin.in_vain.load(Ordering::Relaxed), 0);
    }
}
