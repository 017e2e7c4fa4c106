//! Requests for pages: from whoever needs them, onto the demand lane.

use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use umem_memory::{PageIndex, PageRange};
use umem_wire::{MAX_REMOVE_RUNS, MAX_REQUEST_PAGES, encode_remove, encode_request};

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    pub(crate) frames: AtomicU64,
    pub(crate) pages: AtomicU64,
}

/// Bytes of removals that may be under way: a source that reads none, as its pages are held back, must not
/// keep the writer, and requests behind it, waiting.
const MOST_REMOVALS: usize = 64 << 10;

/// What waits to be written.
#[derive(Default)]
struct Queue {
    wanted: Vec<u64>,
    /// Runs that are not wanted any more, a frame each.
    removed: Vec<Vec<(u64, u64)>>,
}

/// Writes requests by the thread that needs the page, with no thread between.
///
/// While one thread writes, the pages that others ask for queue up, and go out together in its next
/// frame: faults that wait at the same time cost one request.
pub(crate) struct RequestLane {
    queue: Mutex<Queue>,
    writer: Mutex<Box<dyn Write + Send>>,
    failed: Box<dyn Fn(std::io::Error) + Send + Sync>,
    counts: Arc<RequestCounts>,
    /// Bytes of removals since the source has sent anything.
    unanswered: AtomicUsize,
}

impl RequestLane {
    /// A lane that tells of its end by `failed`, perhaps more than once.
    pub(crate) fn new(
        writer: Box<dyn Write + Send>,
        counts: Arc<RequestCounts>,
        failed: impl Fn(std::io::Error) + Send + Sync + 'static,
    ) -> Self {
        Self {
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            failed: Box::new(failed),
            counts,
            unanswered: AtomicUsize::new(0),
        }
    }

    /// The source has sent something: it reads.
    pub(crate) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frames. What is wanted goes first; who gives pages back waits for nothing.
    fn take_frames(&self) -> Vec<Vec<u8>> {
        let Queue { wanted, removed } = std::mem::take(&mut *self.queue());
        let requests = wanted.chunks(MAX_REQUEST_PAGES).map(|pages| {
            self.counts.frames.fetch_add(1, Ordering::Relaxed);
            self.counts.pages.fetch_add(pages.len() as u64, Ordering::Relaxed);
            encode_request(pages)
        });
        requests.chain(removed.iter().map(|runs| encode_remove(runs))).collect()
    }

    /// Writes what is queued, unless another thread is at it, which then does.
    fn flush(&self) {
        loop {
            let mut writer = match self.writer.try_lock() {
                Ok(writer) => writer,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            loop {
                let frames = self.take_frames();
                if frames.is_empty() {
                    break;
                }
                for frame in frames {
                    if let Err(error) = writer.write_all(&frame) {
                        (self.failed)(error);
                        return;
                    }
                }
            }
            drop(writer);
            // Somebody may have queued a page and left it to us just before the lock was given back.
            let queue = self.queue();
            if queue.wanted.is_empty() && queue.removed.is_empty() {
                return;
            }
        }
    }
}

impl RequestLane {
    /// Asks for pages; does not wait for them.
    pub(super) fn request(&self, pages: &[PageIndex]) {
        self.queue().wanted.extend(pages.iter().map(|page| page.0));
        self.flush();
    }

    /// Says that these are not wanted any more, as far as the source reads.
    pub(super) fn remove(&self, runs: &[PageRange]) {
        let runs: Vec<_> = runs.iter().map(|run| (run.start.0, run.count)).collect();
        // Those left out come as they are: nothing is wrong, and a guest that gives back faster than the
        // source reads costs neither memory here nor anybody's time.
        for runs in runs.chunks(MAX_REMOVE_RUNS) {
            let bytes = encode_remove(runs).len();
            if self.unanswered.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_REMOVALS {
                self.queue().removed.push(runs.to_vec());
            }
        }
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Faults, pair};
    use crate::lane::FrameReader;
    use std::sync::Barrier;
    use umem_wire::{DemandFrame, MAX_CONTROL_BODY};

    /// A writer that waits, in its first call, until it is let go.
    struct Slow<W>(W, Option<Arc<Barrier>>);

    impl<W: Write> Write for Slow<W> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if let Some(gate) = self.1.take() {
                gate.wait();
                gate.wait();
            }
            self.0.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn faults_that_wait_together_go_out_in_one_request() {
        let (a, b) = pair(Faults::default(), Faults::default());
        let gate = Arc::new(Barrier::new(2));
        let writer = Slow(a.writer, Some(gate.clone()));
        let counts = Arc::<RequestCounts>::default();
        let lane = Arc::new(RequestLane::new(Box::new(writer), counts.clone(), |error| {
            panic!("{error}");
        }));
        let first = lane.clone();
        let first = std::thread::spawn(move || first.request(&[PageIndex(0)]));
        gate.wait();
        for page in 1..=15 {
            lane.request(&[PageIndex(page)]);
        }
        gate.wait();
        first.join().unwrap();
        assert_eq!(counts.frames.load(Ordering::Relaxed), 2);
        assert_eq!(counts.pages.load(Ordering::Relaxed), 16);
        let mut frames = FrameReader::new(b.reader, MAX_CONTROL_BODY);
        let mut next = || {
            let frame = frames.next().unwrap();
            DemandFrame::decode(frame.kind, frame.body).unwrap()
        };
        assert_eq!(next(), DemandFrame::Request(vec![0]));
        assert_eq!(next(), DemandFrame::Request((1..=15).collect()));
        lane.remove(&[PageRange::new(PageIndex(7), 2), PageRange::one(PageIndex(20))]);
        assert_eq!(next(), DemandFrame::Remove(vec![(7, 2), (20, 1)]));
        // A source that is silent is told only so much; requests go by all that.
        for page in 0..4000 {
            lane.remove(&[PageRange::one(PageIndex(page))]);
        }
        lane.request(&[PageIndex(500)]);
        let told = std::iter::from_fn(|| match next() {
            DemandFrame::Remove(runs) => Some(runs),
            DemandFrame::Request(pages) => {
                assert_eq!(pages, [500]);
                None
            }
        });
        let one = encode_remove(&[(0, 1)]).len();
        assert_eq!(told.count(), (MOST_REMOVALS - one - 16) / one);
        lane.answered();
        lane.remove(&[PageRange::one(PageIndex(9))]);
        assert_eq!(next(), DemandFrame::Remove(vec![(9, 1)]));
    }
}
