//! Getting transparent huge pages back: pages of a postcopy arrive one by one, and the kernel keeps them
//! as small ones. Once all are here a thread of low priority has the kernel join them, 2 MiB at a time
//! (`MADV_COLLAPSE`), and rests as long as that took: a guest's access to the place waits meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use umem_memory::{GuestRam, MemoryKind, PageIndex, PageRange, PageSize};

/// Shortest rest between two places.
const REST: Duration = Duration::from_micros(200);
/// Raised for this thread: nobody waits for it.
const NICE: i32 = 10;

#[derive(Debug, Default)]
struct Work {
    ended: AtomicBool,
    joined: AtomicU64,
    places: AtomicU64,
}

/// The joining that was begun last.
#[derive(Debug, Default)]
pub(crate) struct Collapse(Mutex<Option<Arc<Work>>>);

impl Collapse {
    fn replace(&self, work: Option<Arc<Work>>) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *current, work) {
            before.ended.store(true, Ordering::Release);
        }
    }

    /// Begins, in a thread of its own. Does nothing for memory that cannot be of such pages.
    pub(crate) fn begin(&self, ram: &GuestRam) {
        if ram.kind() != MemoryKind::Anonymous {
            return;
        }
        let work = Arc::new(Work::default());
        self.replace(Some(work.clone()));
        let ram = ram.clone();
        let body = move || {
            // Without it only others wait a little longer.
            let _ = rustix::process::setpriority_process(None, NICE);
            work.run(&ram);
        };
        if let Err(error) = std::thread::Builder::new().name("collapse".to_owned()).spawn(body) {
            log::warn!("small pages stay small: {error}");
        }
    }

    /// Ends it at the place where it is: memory is to be emptied, or the guest is to go.
    pub(crate) fn end(&self) {
        self.replace(None);
    }

    /// Huge pages that were made, and places looked at; `None` when it was not begun.
    #[must_use]
    pub(crate) fn counts(&self) -> Option<(u64, u64)> {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some((work.joined.load(Ordering::Relaxed), work.places.load(Ordering::Relaxed)))
    }
}

impl Work {
    fn run(&self, ram: &GuestRam) {
        let pages = PageSize::HUGE_2M.bytes() >> ram.layout().page_size().shift();
        for block in ram.layout().blocks() {
            let first = block.first_page.0;
            for start in (first..first + block.pages).step_by(pages as usize) {
                if self.ended.load(Ordering::Acquire) {
                    return;
                }
                let count = pages.min(first + block.pages - start);
                let began = Instant::now();
                self.join(ram, PageRange::new(PageIndex(start), count));
                std::thread::sleep(began.elapsed().max(REST));
            }
        }
    }

    /// Joins a place of which most is used: a huge page where hardly anything is would cost memory.
    fn join(&self, ram: &GuestRam, place: PageRange) {
        let used = ram.populated(place).unwrap_or_default();
        let used: u64 = used.iter().map(|run| run.count).sum();
        if used * 2 < place.count {
            return;
        }
        self.places.fetch_add(1, Ordering::Relaxed);
        if ram.collapse(place).unwrap_or(false) {
            self.joined.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_memory::{Backend, GuestAddress, RamBlockSpec, RamLayout};

    #[test]
    fn what_is_used_is_joined_and_stays_as_it_is() {
        let spec =
            RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0), bytes: 32 << 20 };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
        for page in (0..12 << 8).chain([8000]) {
            let bytes = (page as u64 + 1).to_le_bytes().repeat(512);
            ram.write_pages(PageRange::one(PageIndex(page as u64)), &bytes).unwrap();
        }
        let before = ram.populated(PageRange::new(PageIndex(0), 8192)).unwrap();
        let collapse = Collapse::default();
        assert_eq!(collapse.counts(), None);
        collapse.begin(&ram);
        let until = Instant::now() + Duration::from_secs(30);
        // 6 places are full; the one with a single page is left alone.
        while collapse.counts().is_none_or(|(_, places)| places < 6) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        collapse.end();
        assert_eq!(ram.populated(PageRange::new(PageIndex(0), 8192)).unwrap(), before);
        for page in [0, 511, 512, 3071, 8000u64] {
            let mut word = [0; 8];
            ram.read_at(GuestAddress(page * 4096 + 8), &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), page + 1);
        }
    }
}
