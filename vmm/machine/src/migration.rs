//! The newest migration of a VM, as monitors reach it: without the driver, so that a busy or waiting
//! VM does not keep anybody from watching or ending it.

use crate::control::{ControlError, MigrationCapabilities, MigrationParameters, Owner};
use crate::sessions::{Arrival, Outgoing, STRANDED};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use umem_link::{MigrationStatus, Operator};

struct Desk {
    outgoing: Option<Arc<Outgoing>>,
    incoming: Option<Arc<Arrival>>,
    /// Why the pages that are missing of it are not needed, and the source could not be told.
    given_up: Option<String>,
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
        let (outgoing, incoming, given_up) = (None, None, None);
        let desk = Desk { outgoing, incoming, given_up, parameters, capabilities };
        Self { desk: Mutex::new(desk) }
    }
}

impl MigrationDesk {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> Option<Arc<Outgoing>> {
        self.desk().outgoing.clone()
    }

    /// Begins to watch a migration away from here.
    pub(crate) fn set_outgoing(&self, session: Outgoing) {
        self.desk().outgoing = Some(Arc::new(session));
    }

    /// Begins to watch a migration to here.
    pub(crate) fn set_incoming(&self, arrival: Arrival) {
        let mut desk = self.desk();
        desk.incoming = Some(Arc::new(arrival));
        desk.given_up = None;
    }

    /// The guest that came and left is history: another is waited for.
    pub(crate) fn begin_anew(&self) {
        let (outgoing, incoming) = {
            let mut desk = self.desk();
            desk.given_up = None;
            (desk.outgoing.take(), desk.incoming.take())
        };
        drop(outgoing);
        if let Some(arrival) = incoming {
            arrival.abandon();
        }
    }

    fn incoming(&self) -> Option<Arc<Arrival>> {
        self.desk().incoming.clone()
    }

    /// The guest was reset or switched off (`why`): nobody needs the pages that have not come.
    ///
    /// # Errors
    /// Why the source, which keeps them, cannot be told.
    pub(crate) fn give_up_memory(
        &self,
        why: &str,
        all_here: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let Some(arrival) = self.incoming() else { return Ok(()) };
        arrival.give_up_memory(why, all_here).inspect_err(|error| {
            self.desk().given_up = Some(format!(
                "the guest was {why} while pages were missing, and the source could not be told: {error}"
            ));
        })
    }

    /// What a migration to here looks like.
    fn arrival_status(&self) -> Option<MigrationStatus> {
        let (arrival, given_up) = {
            let desk = self.desk();
            (desk.incoming.clone()?, desk.given_up.clone())
        };
        let mut status = arrival.status();
        if given_up.is_some() && status.phase == STRANDED {
            // It waits for nothing.
            status.phase = "completed".to_owned();
            status.error = given_up;
        }
        Some(status)
    }

    /// Whether something listens for a guest.
    pub(crate) fn listens(&self) -> bool {
        self.incoming().is_some_and(|arrival| arrival.listens())
    }

    /// Pages that a file did not give are read again.
    pub(crate) fn retry_lost_pages(&self) {
        if let Some(arrival) = self.incoming() {
            arrival.retry();
        }
    }

    /// Whether a migration away from here is under way.
    pub(crate) fn outgoing_under_way(&self) -> bool {
        self.outgoing().is_some_and(|session| !session.ended())
    }

    /// The newest migration.
    #[must_use]
    pub(crate) fn status(&self) -> Option<MigrationStatus> {
        self.outgoing().map(|session| session.status()).or_else(|| self.arrival_status())
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
        check(&parameters)?;
        let outgoing = {
            let mut desk = self.desk();
            desk.parameters = parameters;
            desk.outgoing.clone()
        };
        if let Some(session) = outgoing {
            session.set(
                parameters.postcopy_background,
                parameters.max_postcopy_bandwidth,
                parameters.max_bandwidth,
                Duration::from_millis(parameters.downtime_limit),
            );
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

    /// Holds back a postcopy's pages.
    ///
    /// # Errors
    /// None in that phase.
    pub(crate) fn pause(&self) -> Result<(), ControlError> {
        self.under_way()?.pause().map_err(ControlError)
    }

    /// Sends a postcopy's pages again.
    ///
    /// # Errors
    /// None is paused.
    pub(crate) fn resume(&self) -> Result<(), ControlError> {
        let lost = self
            .outgoing()
            .is_some_and(|session| session.ended() && session.status().phase == STRANDED);
        if lost {
            return Err(ControlError::new(
                "the connection to the destination is lost, and cannot be made again in this version: \
                 the guest waits there for its pages (system_reset there does without them)",
            ));
        }
        self.under_way()?.resume().map_err(ControlError)
    }

    fn under_way(&self) -> Result<Arc<Outgoing>, ControlError> {
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
        if self.incoming_under_way() {
            return Err(ControlError::new(
                "a guest is coming in; capabilities can be set before and after that (info migrate)",
            ));
        }
        self.desk().capabilities = capabilities;
        Ok(())
    }

    /// Whether a guest is coming in: there is a session, and it has not ended.
    fn incoming_under_way(&self) -> bool {
        self.arrival_status()
            .is_some_and(|status| !matches!(&*status.phase, "listening" | "completed" | "failed"))
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

/// Refuses parameters that make no sense, with those that do.
fn check(parameters: &MigrationParameters) -> Result<(), ControlError> {
    let within = |name: &str, value: u64, first: u64, last: u64| {
        if (first..=last).contains(&value) {
            return Ok(());
        }
        Err(ControlError(format!("{name} must be {first} to {last}, not {value}")))
    };
    let (most, longest) =
        (MigrationParameters::MOST_CHANNELS, MigrationParameters::LONGEST_DOWNTIME);
    within("multifd-channels", parameters.multifd_channels.into(), 1, most.into())?;
    within("downtime-limit (milliseconds)", parameters.downtime_limit, 0, longest)?;
    let largest = MigrationParameters::LARGEST_CACHE;
    within("xbzrle-cache-size (bytes)", parameters.xbzrle_cache_size, 0, largest)?;
    let (initial, last) = (parameters.cpu_throttle_initial, parameters.max_cpu_throttle);
    for (name, value) in [
        ("cpu-throttle-initial", initial),
        ("cpu-throttle-increment", parameters.cpu_throttle_increment),
        ("max-cpu-throttle", last),
    ] {
        within(&format!("{name} (per cent)"), value.into(), 1, 99)?;
    }
    if initial > last {
        return Err(ControlError(format!(
            "cpu-throttle-initial of {initial} per cent is more than max-cpu-throttle of {last}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut MigrationParameters)) -> String {
        let (desk, mut parameters) = (MigrationDesk::default(), MigrationParameters::default());
        change(&mut parameters);
        let error = desk.set_parameters(parameters).unwrap_err();
        assert_eq!(desk.parameters(), MigrationParameters::default(), "nothing has changed");
        error.0
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused_with_those_that_do() {
        assert_eq!(refused(|p| p.multifd_channels = 0), "multifd-channels must be 1 to 16, not 0");
        assert_eq!(
            refused(|p| p.multifd_channels = 17),
            "multifd-channels must be 1 to 16, not 17"
        );
        assert_eq!(
            refused(|p| p.downtime_limit = 2_000_001),
            "downtime-limit (milliseconds) must be 0 to 2000000, not 2000001"
        );
        assert_eq!(
            refused(|p| p.xbzrle_cache_size = (1 << 40) + 1),
            "xbzrle-cache-size (bytes) must be 0 to 1099511627776, not 1099511627777"
        );
        for value in [0, 100] {
            let range = format!(" (per cent) must be 1 to 99, not {value}");
            assert!(refused(|p| p.cpu_throttle_initial = value).ends_with(&range));
            assert!(refused(|p| p.cpu_throttle_increment = value).ends_with(&range));
            assert!(refused(|p| p.max_cpu_throttle = value).ends_with(&range));
        }
        assert_eq!(
            refused(|p| p.max_cpu_throttle = 19),
            "cpu-throttle-initial of 20 per cent is more than max-cpu-throttle of 19"
        );
        let desk = MigrationDesk::default();
        let edge = MigrationParameters {
            downtime_limit: MigrationParameters::LONGEST_DOWNTIME,
            multifd_channels: MigrationParameters::MOST_CHANNELS,
            cpu_throttle_initial: 99,
            cpu_throttle_increment: 99,
            ..MigrationParameters::default()
        };
        desk.set_parameters(edge).unwrap();
        assert_eq!(desk.parameters(), edge);
    }

    #[test]
    fn what_needs_a_migration_says_that_there_is_none() {
        let desk = MigrationDesk::default();
        for result in [desk.start_postcopy(), desk.pause(), desk.cancel()] {
            assert_eq!(result.unwrap_err().0, "no migration is under way");
        }
        let capabilities = MigrationCapabilities { postcopy_ram: true, auto_converge: true };
        desk.set_capabilities(capabilities).unwrap();
        assert_eq!(desk.capabilities(), capabilities);
    }
}
