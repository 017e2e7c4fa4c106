//! The two kinds of migration at each end, as monitors reach them: over a connection, or with a file.

use std::time::Duration;
use umem_link::{
    DestinationListener, MigrationStatus, Operator, SnapshotLoad, SnapshotSave, SourceSession,
};

/// A migration away from here.
pub(crate) enum Outgoing {
    /// To another process.
    Link(SourceSession),
    /// To a file.
    File(SnapshotSave),
}

impl Outgoing {
    /// Whether nothing more will happen.
    pub(crate) fn ended(&self) -> bool {
        match self {
            Self::Link(session) => session.ended(),
            Self::File(save) => save.ended(),
        }
    }

    pub(crate) fn status(&self) -> MigrationStatus {
        match self {
            Self::Link(session) => session.status(),
            Self::File(save) => save.status(),
        }
    }

    pub(crate) fn cancel(&self) -> Result<(), String> {
        match self {
            Self::Link(session) => session.cancel(),
            Self::File(save) => {
                save.cancel();
                Ok(())
            }
        }
    }

    fn link(&self) -> Result<&SourceSession, String> {
        match self {
            Self::Link(session) => Ok(session),
            Self::File(_) => {
                Err("the guest is being saved to a file; that can only be cancelled".to_owned())
            }
        }
    }

    pub(crate) fn resolve(&self, operator: Operator) -> Result<(), String> {
        self.link()?.resolve(operator)
    }

    pub(crate) fn start_postcopy(&self) -> Result<(), String> {
        self.link()?.start_postcopy()
    }

    pub(crate) fn pause(&self) -> Result<(), String> {
        self.link()?.pause()
    }

    pub(crate) fn resume(&self) -> Result<(), String> {
        self.link()?.go_on()
    }

    pub(crate) fn abandon(&self) {
        match self {
            Self::Link(session) => session.abandon(),
            Self::File(save) => save.abandon(),
        }
    }

    /// Whether the background sends, its limit and that of rounds in bytes a second, and the longest
    /// downtime. A save keeps what it began with.
    pub(crate) fn set(&self, background: bool, bandwidth: u64, rounds: u64, downtime: Duration) {
        if let Self::Link(session) = self {
            session.set_background(background);
            session.set_bandwidth(bandwidth);
            session.set_rounds_bandwidth(rounds);
            session.set_downtime_limit(downtime);
        }
    }
}

/// A guest that comes in.
pub(crate) enum Arrival {
    /// From another process.
    Link(DestinationListener),
    /// From a file.
    File(SnapshotLoad),
}

impl Arrival {
    pub(crate) fn status(&self) -> MigrationStatus {
        match self {
            Self::Link(listener) => listener.status(),
            Self::File(load) => load.status(),
        }
    }

    /// Whether another cannot be begun beside it.
    pub(crate) fn listens(&self) -> bool {
        match self {
            Self::Link(_) => true,
            Self::File(load) => !load.ended() || load.status().phase != "failed",
        }
    }

    /// Reads lost pages again.
    pub(crate) fn retry(&self) {
        if let Self::File(load) = self {
            load.retry();
        }
    }

    pub(crate) fn abandon(&self) {
        match self {
            Self::Link(listener) => listener.abandon(),
            Self::File(load) => load.abandon(),
        }
    }
}
