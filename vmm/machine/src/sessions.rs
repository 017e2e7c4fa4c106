//! The two kinds of migration at each end, as monitors reach them: over a connection, or with a file.

use std::time::{Duration, Instant};
use umem_link::{
    DestinationListener, MigrationStatus, Operator, SnapshotLoad, SnapshotSave, SourceSession,
};

/// Longest wait for a source to hear that it need keep no pages, and how often that is looked at.
const TELL_WITHIN: Duration = Duration::from_secs(2);
const TELL_STEP: Duration = Duration::from_millis(50);
/// The phase of an ended migration whose pages can come no more.
pub(crate) const STRANDED: &str = "postcopy-paused";

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

    /// The guest was reset or switched off: nobody needs the pages that have not come. `all_here` says
    /// whether the last came meanwhile.
    ///
    /// # Errors
    /// Why the source, which keeps them, cannot be told.
    pub(crate) fn give_up_memory(
        &self,
        why: &str,
        all_here: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let listener = match self {
            Self::Link(listener) => listener,
            Self::File(load) => {
                load.give_up_memory();
                return Ok(());
            }
        };
        if listener.status().phase == STRANDED {
            return Err("the connection to it is lost".to_owned());
        }
        let until = Instant::now() + TELL_WITHIN;
        while Instant::now() < until {
            // The session's thread may be waiting for the driver to hear of the last page.
            if listener.give_up_memory(why, TELL_STEP) || all_here() {
                return Ok(());
            }
        }
        Err(format!("it has not answered within {} s", TELL_WITHIN.as_secs()))
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
