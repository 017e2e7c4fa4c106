//! The newest migration of a VM, as monitors reach it: without the driver, so that a busy or waiting
//! VM does not keep anybody from watching or ending it.

use crate::control::{ControlError, MigrationParameters, Owner};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umem_link::{DestinationListener, MigrationStatus, Operator, SourceSession};

struct Desk {
    outgoing: Option<Arc<SourceSession>>,
    incoming: Option<Arc<DestinationListener>>,
    parameters: MigrationParameters,
}

/// Holds the sessions.
pub(crate) struct MigrationDesk {
    desk: Mutex<Desk>,
}

impl Default for MigrationDesk {
    fn default() -> Self {
        let parameters = MigrationParameters::default();
        Self { desk: Mutex::new(Desk { outgoing: None, incoming: None, parameters }) }
    }
}

impl MigrationDesk {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> Option<Arc<SourceSession>> {
        self.desk().outgoing.clone()
    }

    /// Begins to watch a migration away from here.
    pub(crate) fn set_outgoing(&self, session: SourceSession) {
        self.desk().outgoing = Some(Arc::new(session));
    }

    /// Begins to watch a migration to here.
    pub(crate) fn set_incoming(&self, listener: DestinationListener) {
        self.desk().incoming = Some(Arc::new(listener));
    }

    /// Whether something listens for a guest.
    pub(crate) fn listens(&self) -> bool {
        self.desk().incoming.is_some()
    }

    /// Whether a migration away from here is under way.
    pub(crate) fn outgoing_under_way(&self) -> bool {
        self.outgoing().is_some_and(|session| !session.ended())
    }

    /// The newest migration.
    #[must_use]
    pub(crate) fn status(&self) -> Option<MigrationStatus> {
        let (outgoing, incoming) = {
            let desk = self.desk();
            (desk.outgoing.clone(), desk.incoming.clone())
        };
        outgoing.map(|session| session.status()).or_else(|| incoming.map(|end| end.status()))
    }

    /// Gives an outgoing migration up.
    ///
    /// # Errors
    /// None under way, or it has gone too far.
    pub(crate) fn cancel(&self) -> Result<(), ControlError> {
        let session = self.outgoing().filter(|session| !session.ended());
        let session = session.ok_or_else(|| ControlError::new("no migration is under way"))?;
        session.cancel().map_err(ControlError)
    }

    /// The operator decides who owns the guest.
    ///
    /// # Errors
    /// When that is not in doubt.
    pub(crate) fn resolve(&self, owner: Owner) -> Result<(), ControlError> {
        let session =
            self.outgoing().ok_or_else(|| ControlError::new("no migration is under way"))?;
        let operator = match owner {
            Owner::Source => Operator::TakeBack,
            Owner::Destination => Operator::GiveUp,
        };
        session.resolve(operator).map_err(ControlError)
    }

    /// Changes the parameters, of this migration where they can change and of the next.
    ///
    /// # Errors
    /// Values that make no sense, with those that do.
    pub(crate) fn set_parameters(
        &self,
        parameters: MigrationParameters,
    ) -> Result<(), ControlError> {
        let most = MigrationParameters::MOST_CHANNELS;
        if !(1..=most).contains(&parameters.multifd_channels) {
            return Err(ControlError::new(format!(
                "multifd-channels must be 1 to {most}, not {}",
                parameters.multifd_channels
            )));
        }
        let outgoing = {
            let mut desk = self.desk();
            desk.parameters = parameters;
            desk.outgoing.clone()
        };
        if let Some(session) = outgoing {
            session.set_background(parameters.postcopy_background);
            session.set_bandwidth(parameters.max_postcopy_bandwidth);
        }
        Ok(())
    }

    /// The parameters.
    #[must_use]
    pub(crate) fn parameters(&self) -> MigrationParameters {
        self.desk().parameters
    }

    /// Ends all connections at once: the VM ends.
    pub(crate) fn abandon(&self) {
        let (outgoing, incoming) = {
            let desk = self.desk();
            (desk.outgoing.clone(), desk.incoming.clone())
        };
        if let Some(session) = outgoing {
            session.abandon();
        }
        if let Some(listener) = incoming {
            listener.abandon();
        }
    }
}
