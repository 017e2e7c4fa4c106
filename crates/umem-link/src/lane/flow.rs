//! What a bulk connection may have under way: as much as the receiver gives credit for, and no more than the
//! network holds without a queue in which a demanded page would have to wait.

use super::{CreditWindow, LaneError};
use crate::channel::ChannelControl;
use std::sync::Arc;
use std::time::Instant;
use umem_migrate::{Budget, Queueing};

/// Bytes that may lie in the receiver's buffers beside what is on the way.
const AT_THE_RECEIVER: u64 = 4 << 20;

/// One connection's.
pub(crate) struct BulkFlow {
    credit: CreditWindow,
    control: Arc<dyn ChannelControl>,
    queueing: Queueing,
    started: Instant,
    /// How many connections share the path.
    lanes: u64,
    /// The one that stays when the path is full.
    first: bool,
    /// Whether it was.
    full: bool,
    /// Bytes under way that the connection was last told.
    told: u64,
}

impl BulkFlow {
    /// For one of so many connections; `first` for one of them.
    pub(crate) fn new(
        credit: CreditWindow,
        control: Arc<dyn ChannelControl>,
        lanes: usize,
        first: bool,
    ) -> Self {
        let (queueing, started, lanes) =
            (Queueing::default(), Instant::now(), (lanes as u64).max(1));
        Self { credit, control, queueing, started, lanes, first, full: false, told: 0 }
    }

    /// Whether this connection is one too many: there was a queue on the path, so the first fills it alone, and
    /// the frames of another would only lie between a demanded page and its turn.
    pub(crate) fn is_too_many(&self) -> bool {
        self.full && !self.first
    }

    /// Waits until `bytes` more may be sent.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), LaneError> {
        self.credit.take(bytes)
    }

    /// Looks at the path; bytes that the next frame may have, if the path tells. `waited_for`: somebody may
    /// wait for other pages that come the same way.
    pub(crate) fn look(&mut self, waited_for: bool) -> Option<u64> {
        let facts = self.control.path()?;
        let budget = self.queueing.look(self.started.elapsed(), facts, waited_for);
        let Budget { bytes, frame, queued } = budget;
        self.full = queued;
        // Where there was a queue the others have left.
        let share = if queued { bytes } else { bytes / self.lanes };
        // Each call is a system call, and a send buffer that changes a little changes nothing.
        if share.abs_diff(self.told) > self.told / 4 {
            log::debug!("{}: {budget:?}, by {facts:?}", self.control.peer());
            self.control.limit_under_way(share);
            self.credit.limit(share.saturating_add(AT_THE_RECEIVER));
            self.told = share;
        }
        queued.then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ByteCounts;
    use std::sync::Mutex;
    use std::time::Duration;
    use umem_migrate::PathFacts;

    /// A path that is as it is said to be; what its connection was told.
    struct Path {
        round_trip: Mutex<Duration>,
        under_way: Mutex<u64>,
    }

    impl ChannelControl for Path {
        fn shutdown(&self) {}

        fn counts(&self) -> ByteCounts {
            ByteCounts::default()
        }

        fn peer(&self) -> String {
            "a path".into()
        }

        fn path(&self) -> Option<PathFacts> {
            let (round_trip, shortest) =
                (*self.round_trip.lock().unwrap(), Duration::from_micros(100));
            Some(PathFacts { round_trip, shortest, acknowledged: 0 })
        }

        fn limit_under_way(&self, bytes: u64) {
            *self.under_way.lock().unwrap() = bytes;
        }
    }

    #[test]
    fn of_several_connections_the_first_stays_alone_on_a_full_path() {
        for first in [true, false] {
            let round_trip = Mutex::new(Duration::from_micros(120));
            let path = Arc::new(Path { round_trip, under_way: Mutex::new(0) });
            let credit = CreditWindow::new(Box::new(std::io::empty()), 1 << 20);
            let mut flow = BulkFlow::new(credit, path.clone(), 2, first);
            assert_eq!(flow.look(true), None, "there is no queue");
            assert!(!flow.is_too_many());
            let shared = *path.under_way.lock().unwrap();
            *path.round_trip.lock().unwrap() = Duration::from_millis(5);
            assert_eq!(flow.look(false), None, "nobody waits in a round of precopy");
            assert!(!flow.is_too_many());
            let frame = flow.look(true).unwrap();
            assert_eq!(flow.is_too_many(), !first);
            // All of what the path may hold, of which frames are halves, and not a share of it.
            let alone = *path.under_way.lock().unwrap();
            assert_eq!(alone, 2 * frame);
            assert!(alone < shared);
            // It is not forgotten when the queue has gone.
            *path.round_trip.lock().unwrap() = Duration::from_micros(120);
            flow.look(true);
            assert_eq!(flow.is_too_many(), !first);
        }
    }
}
