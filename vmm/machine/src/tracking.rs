//! Dirty tracking of the guest's RAM, for one migration at a time.
//!
//! There is one log a VM. A migration that has failed may still be winding down when the next begins:
//! it must not switch off what the next has switched on, or writes would be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use umem_memory::{DirtyError, DirtyLog, DirtySource, PageBitmap};

/// Longest wait for the migration before to switch it off.
const TURN_BOUND: Duration = Duration::from_secs(2);

const NAME: &str = "of the guest's RAM";

/// The log as one migration has it: it is switched off only by who switched it on.
pub(crate) struct Turn {
    log: Arc<DirtyLog>,
    on: AtomicBool,
}

impl Turn {
    /// One that is not switched on.
    #[must_use]
    pub(crate) fn new(log: Arc<DirtyLog>) -> Self {
        Self { log, on: AtomicBool::new(false) }
    }
}

impl DirtySource for Turn {
    /// Waits for the migration before, in bounded time.
    fn start(&self) -> Result<(), DirtyError> {
        if self.on.load(Ordering::Acquire) {
            return Err(DirtyError::On(NAME));
        }
        let deadline = Instant::now() + TURN_BOUND;
        loop {
            match self.log.start() {
                Err(DirtyError::On(_)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => {
                    self.on.store(result.is_ok(), Ordering::Release);
                    return result;
                }
            }
        }
    }

    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        if !self.on.load(Ordering::Acquire) {
            return Err(DirtyError::Off(NAME));
        }
        self.log.collect(into)
    }

    fn stop(&self) {
        if self.on.swap(false, Ordering::AcqRel) {
            self.log.stop();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_memory::{
        Backend, GuestAddress, GuestRam, PageIndex, PageRange, PageSize, RamBlockSpec, RamLayout,
    };

    fn ram() -> GuestRam {
        let spec =
            RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0), bytes: 1 << 16 };
        GuestRam::new(RamLayout::new(PageSize::SMALL, vec![spec]).unwrap(), &Backend::Anonymous)
            .unwrap()
    }

    fn written(turn: &Turn) -> Vec<PageRange> {
        let into = PageBitmap::new(16);
        turn.collect(&into).unwrap();
        into.runs().collect()
    }

    #[test]
    fn who_comes_next_waits_and_is_not_switched_off_by_who_was_before() {
        let ram = ram();
        let log = Arc::new(DirtyLog::new(16, vec![Arc::new(ram.host_writes())]));
        let (first, second) = (Turn::new(log.clone()), Turn::new(log.clone()));
        first.start().unwrap();
        assert!(matches!(first.start(), Err(DirtyError::On(_))));
        assert!(matches!(second.collect(&PageBitmap::new(16)), Err(DirtyError::Off(_))));
        second.stop();
        let page = |number| PageRange::one(PageIndex(number));
        ram.fill_pages(page(3), 1).unwrap();
        assert_eq!(written(&first), [page(3)], "one that was not on switches nothing off");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| second.start());
            first.stop();
            waits.join().unwrap().unwrap();
        });
        ram.fill_pages(page(5), 1).unwrap();
        first.stop();
        drop(first);
        ram.fill_pages(page(6), 1).unwrap();
        assert_eq!(written(&second), [PageRange::new(PageIndex(5), 2)]);
        drop(second);
        assert!(matches!(log.collect(&PageBitmap::new(16)), Err(DirtyError::Off(_))));
    }

    #[test]
    fn a_turn_that_never_comes_is_refused_and_harms_nobody() {
        let ram = ram();
        let log = Arc::new(DirtyLog::new(16, vec![Arc::new(ram.host_writes())]));
        let first = Turn::new(log.clone());
        first.start().unwrap();
        let second = Turn::new(log);
        assert!(matches!(second.start(), Err(DirtyError::On(_))));
        drop(second);
        ram.fill_pages(PageRange::one(PageIndex(1)), 1).unwrap();
        assert_eq!(written(&first), [PageRange::one(PageIndex(1))]);
    }
}
