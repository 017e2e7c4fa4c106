//! A short look for what is about to come, before the thread sleeps.
//!
//! To wake a thread on an idle core costs 30 to 50 µs on a virtual machine, ten times what a page takes. A thread
//! that looks for that long instead needs no waking; but it keeps its core, and where the background runs there
//! are more threads than cores. So it looks only while the background rests, never for longer than [`SPIN`],
//! and hardly ever where that was in vain the last times: the peer is further away, or asks seldom.

use super::demand::wait_readable;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest look.
const SPIN: Duration = Duration::from_micros(50);
/// Without a page of the background for so long, it rests.
const REST: Duration = Duration::from_millis(20);
/// After so many looks in vain, one after the other, a thread looks only each [`SELDOM`]th time.
const IN_VAIN: u32 = 4;
const SELDOM: u32 = 64;

/// Whether looking pays, by what came of it. Several threads may use one.
#[derive(Debug)]
pub(crate) struct Spin {
    started: Instant,
    /// Pages of the background, as counted when somebody looked last.
    background: AtomicU64,
    /// When that count was another, in microseconds.
    moved: AtomicU64,
    /// Looks in vain, or left out, since one that was not.
    in_vain: AtomicU32,
    several_cores: bool,
}

impl Spin {
    /// As if the background went on until now.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            started: Instant::now(),
            background: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            in_vain: AtomicU32::new(0),
            several_cores: cores > 1,
        }
    }

    /// Whether to look, `background` pages having come, at a time since the start.
    fn pays(&self, background: u64, now: Duration) -> bool {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        if self.background.swap(background, Ordering::Relaxed) != background {
            self.moved.store(now, Ordering::Relaxed);
        }
        let rest = now.saturating_sub(self.moved.load(Ordering::Relaxed));
        if !self.several_cores || u128::from(rest) < REST.as_micros() {
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
    fn it_looks_only_while_the_background_rests() {
        let spin = spin();
        for (background, at, pays) in [
            (0, 0, false),
            (0, 19, false),
            (0, 20, true),
            (64, 21, false),
            (64, 40, false),
            (64, 41, true),
            (64, 500, true),
            (65, 501, false),
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
        std::thread::sleep(REST);
        spin.look(a.as_fd(), 0).unwrap();
        assert_eq!(spin.in_vain.load(Ordering::Relaxed), 1);
        b.write_all(b"x").unwrap();
        spin.look(a.as_fd(), 0).unwrap();
        assert_eq!(spin.in_vain.load(Ordering::Relaxed), 0);
    }
}
