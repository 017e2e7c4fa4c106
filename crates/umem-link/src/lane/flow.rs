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
    /// Bytes under way that the connection was last told.
    told: u64,
}

impl BulkFlow {
    /// For one of so many connections.
    pub(crate) fn new(
        credit: CreditWindow,
        control: Arc<dyn ChannelControl>,
        lanes: usize,
    ) -> Self {
        let (queueing, started) = (Queueing::default(), Instant::now());
        Self { credit, control, queueing, started, lanes: (lanes as u64).max(1), told: 0 }
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
        let share = budget.bytes / self.lanes;
        // Each call is a system call, and a send buffer that changes a little changes nothing.
        if share.abs_diff(self.told) > self.told / 4 {
            log::debug!("{}: {budget:?}, by {facts:?}", self.control.peer());
            self.control.limit_under_way(share);
            self.credit.limit(share.saturating_add(AT_THE_RECEIVER));
            self.told = share;
        }
        let Budget { frame, queued, .. } = budget;
        queued.then_some(frame / self.lanes)
    }
}
