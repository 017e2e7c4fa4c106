//! The newest migration of a VM, as monitors reach it: without the driver, so that a busy or waiting
//! VM does not keep anybody from watching or ending it.

use crate::control::{ControlError, MigrationCapabilities, MigrationParameters, Owner};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use umem_link::{DestinationListener, MigrationStatus, Operator, SourceSession};

struct Desk {
    outgoing: Option<Arc<SourceSession>>,
    incoming: Option<Arc<DestinationListener>>,
    parameters: MigrationParameters,
    capabilities: MigrationCapabilities,
}

/// Holds the sessions.
pub(crate) struct MigrationDesk {
    desk: Mutex<Desk>,
}

impl Default for MigrationDesk {
    fn default() -> Self {
        let parameters = MigrationParameters::default();
        let capabilities = MigrationCapabilities::default();
        Self { desk: Mutex::new(Desk { outgoing: None, incoming: None, parameters, capabilities }) }
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
        self.under_way()?.cancel().map_err(ControlError)
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
            session.set_rounds_bandwidth(parameters.max_bandwidth);
            session.set_downtime_limit(Duration::from_millis(parameters.downtime_limit));
        }
        Ok(())
    }

    /// The parameters.
    #[must_use]
    pub(crate) fn parameters(&self) -> MigrationParameters {
        self.desk().parameters
    }

    /// Ends the rounds of a migration; postcopy begins.
    ///
    /// # Errors
    /// None under way, or one without postcopy.
    pub(crate) fn start_postcopy(&self) -> Result<(), ControlError> {
        self.under_way()?.start_postcopy().map_err(ControlError)
    }

    /// Ends the connections of a postcopy.
    ///
    /// # Errors
    /// None in that phase.
    pub(crate) fn pause(&self) -> Result<(), ControlError> {
        self.under_way()?.pause().map_err(ControlError)
    }

    fn under_way(&self) -> Result<Arc<SourceSession>, ControlError> {
        let session = self.outgoing().filter(|session| !session.ended());
        session.ok_or_else(|| ControlError::new("no migration is under way"))
    }

    /// What migrations may do.
    #[must_use]
    pub(crate) fn capabilities(&self) -> MigrationCapabilities {
        self.desk().capabilities
    }

    /// Changes that.
    ///
    /// # Errors
    /// While one is under way.
    pub(crate) fn set_capabilities(
        &self,
        capabilities: MigrationCapabilities,
    ) -> Result<(), ControlError> {
        if self.outgoing_under_way() {
            return Err(ControlError::new(
                "a migration is under way; capabilities are for the next (migrate_cancel ends it)",
            ));
        }
        self.desk().capabilities = capabilities;
        Ok(())
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
