//! Who may run the guest, and what it does: the one place that decides.
//!
//! | ownership | may run | how it is left |
//! |---|---|---|
//! | `Owner` | yes | `Migrating` when an outgoing migration stops the guest |
//! | `Migrating` | no | `Owner` (failed before the handover, or saved to a file) or `HandoverUnknown` |
//! | `HandoverUnknown` | no | `Owner` or `HandedOver`, by the destination's answer or the operator |
//! | `HandedOver` | never again | `Released` when all pages arrived and both ends agree |
//! | `Released` | not the guest that left | `Incoming` when another is waited for (`migrate_incoming`) |
//! | `Incoming` | no | `Owner` at the handover |

use crate::control::{ControlError, RunState};

/// Who may run the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// This process.
    Owner,
    /// This process still, but an outgoing migration has stopped it.
    Migrating,
    /// Not known until the destination or the operator says.
    HandoverUnknown,
    /// The destination; pages may still be here.
    HandedOver,
    /// The destination, which needs nothing from here any more.
    Released,
    /// Another process, until it hands over.
    Incoming,
}

/// Ownership and run state together, with the transitions between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    ownership: Ownership,
    state: RunState,
    /// Whether the guest ran when the outgoing migration stopped it.
    ran_before_migration: bool,
}

impl Lifecycle {
    /// A guest that boots here.
    #[must_use]
    pub(crate) const fn booting() -> Self {
        Self {
            ownership: Ownership::Owner,
            state: RunState::Prelaunch,
            ran_before_migration: false,
        }
    }

    /// A guest that comes from elsewhere.
    #[must_use]
    pub(crate) const fn incoming() -> Self {
        Self {
            ownership: Ownership::Incoming,
            state: RunState::Inmigrate,
            ran_before_migration: false,
        }
    }

    /// Who may run the guest.
    #[must_use]
    pub(crate) const fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// What it does.
    #[must_use]
    pub(crate) const fn state(&self) -> RunState {
        self.state
    }

    /// Whether the guest ran when the outgoing migration stopped it; this moves with it.
    #[must_use]
    pub(crate) const fn ran_before_migration(&self) -> bool {
        self.ran_before_migration
    }

    /// Fails unless this process may run the guest, and says why not.
    ///
    /// # Errors
    /// The reason, for the one who typed the command.
    pub(crate) fn require_owner(&self) -> Result<(), ControlError> {
        let why = match self.ownership {
            Ownership::Owner => return Ok(()),
            Ownership::Migrating => {
                "a migration has stopped the guest; it goes on at one end by itself"
            }
            Ownership::HandoverUnknown => {
                "the handover's outcome is not known yet; ending in two running guests must not happen \
                 (info migrate shows more, migrate_resolve decides by hand)"
            }
            Ownership::HandedOver | Ownership::Released => {
                "the guest was handed over to the migration's destination and must never run here again"
            }
            Ownership::Incoming => "the guest has not arrived yet",
        };
        Err(ControlError::new(why))
    }

    /// The vCPUs run now.
    ///
    /// # Errors
    /// When this process may not run the guest, or it cannot run any more.
    pub(crate) fn run(&mut self) -> Result<(), ControlError> {
        self.require_owner()?;
        match self.state {
            RunState::Shutdown => {
                Err(ControlError::new("the guest is powered off; system_reset starts it"))
            }
            RunState::InternalError => {
                Err(ControlError::new("the guest was stopped by an error; system_reset starts it"))
            }
            _ => {
                self.state = RunState::Running;
                Ok(())
            }
        }
    }

    /// The vCPUs were stopped on request.
    pub(crate) fn pause(&mut self) {
        if matches!(self.state, RunState::Running | RunState::Prelaunch) {
            self.state = RunState::Paused;
        }
    }

    /// The guest stopped by itself or by an error.
    pub(crate) fn halt(&mut self, state: RunState) {
        if self.ownership == Ownership::Owner {
            self.state = state;
        }
    }

    /// After a reset the guest is as new; it runs if it ran or had ended.
    pub(crate) fn reset(&mut self) {
        if matches!(self.state, RunState::Shutdown | RunState::InternalError) {
            self.state = RunState::Paused;
        }
    }

    /// Fails unless there is a guest here that can go on elsewhere.
    ///
    /// # Errors
    /// The reason, for the one who typed the command.
    pub(crate) fn require_movable(&self) -> Result<(), ControlError> {
        self.require_owner()?;
        match self.state {
            RunState::InternalError => Err(ControlError::new(
                "the guest was stopped by an error and would not go on elsewhere (info status); \
                 system_reset starts it anew",
            )),
            RunState::Shutdown => Err(ControlError::new("the guest is powered off")),
            _ => Ok(()),
        }
    }

    /// An outgoing migration has stopped the guest.
    ///
    /// # Errors
    /// When the guest is not here to be moved.
    pub(crate) fn stop_for_migration(&mut self) -> Result<(), ControlError> {
        self.require_movable()?;
        self.ran_before_migration = self.state == RunState::Running;
        self.ownership = Ownership::Migrating;
        self.state = RunState::FinishMigrate;
        Ok(())
    }

    /// The outgoing migration ended before the handover, or the destination is known not to run:
    /// the guest is ours again. Returns whether it is to run.
    ///
    /// # Panics
    /// When the guest was handed over: two would run.
    pub(crate) fn take_back(&mut self) -> bool {
        assert!(
            !matches!(self.ownership, Ownership::HandedOver | Ownership::Released),
            "taking back a guest that was handed over ({:?})",
            self.ownership
        );
        if !matches!(self.ownership, Ownership::Migrating | Ownership::HandoverUnknown) {
            return false;
        }
        self.ownership = Ownership::Owner;
        self.state = if self.ran_before_migration { RunState::Running } else { RunState::Paused };
        self.ran_before_migration
    }

    /// The guest was saved to a file. It is still ours, and goes on when it is told to.
    pub(crate) fn saved(&mut self) {
        if self.ownership == Ownership::Migrating {
            self.ownership = Ownership::Owner;
            self.state = RunState::Postmigrate;
        }
    }

    /// The handover's first byte goes to the kernel.
    pub(crate) fn handover_begun(&mut self) {
        if self.ownership == Ownership::Migrating {
            self.ownership = Ownership::HandoverUnknown;
        }
    }

    /// The destination runs the guest.
    pub(crate) fn handed_over(&mut self) {
        if matches!(self.ownership, Ownership::Migrating | Ownership::HandoverUnknown) {
            self.ownership = Ownership::HandedOver;
            self.state = RunState::Postmigrate;
        }
    }

    /// The destination needs nothing from here any more.
    pub(crate) fn released(&mut self) {
        if self.ownership == Ownership::HandedOver {
            self.ownership = Ownership::Released;
        }
    }

    /// Another guest is waited for, in the place of the one that has left for good. Whether it can be.
    #[must_use]
    pub(crate) fn await_another(&mut self) -> bool {
        let free = self.ownership == Ownership::Released;
        if free {
            *self = Self::incoming();
        }
        free
    }

    /// The guest has arrived and is ours. Returns nothing: whether it runs moved with it.
    pub(crate) fn arrived(&mut self, runs: bool) {
        if self.ownership == Ownership::Incoming {
            self.ownership = Ownership::Owner;
            self.state = if runs { RunState::Running } else { RunState::Paused };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Lifecycle {
        let mut life = Lifecycle::booting();
        life.run().unwrap();
        life
    }

    fn handed_over() -> Lifecycle {
        let mut life = running();
        life.stop_for_migration().unwrap();
        life.handover_begun();
        life.handed_over();
        life
    }

    #[test]
    fn a_guest_handed_over_never_runs_again() {
        let mut life = handed_over();
        assert_eq!(life.state(), RunState::Postmigrate);
        assert!(life.run().is_err());
        life.released();
        assert!(life.run().is_err());
        assert!(life.stop_for_migration().is_err());
    }

    #[test]
    #[should_panic(expected = "handed over")]
    fn a_guest_handed_over_is_not_taken_back() {
        handed_over().take_back();
    }

    #[test]
    fn nobody_runs_while_the_handover_is_unknown() {
        let mut life = running();
        life.stop_for_migration().unwrap();
        life.handover_begun();
        assert!(life.run().is_err());
        assert!(life.take_back());
        assert_eq!(life.state(), RunState::Running);
    }

    #[test]
    fn a_paused_guest_stays_paused_after_a_failed_migration() {
        let mut life = running();
        life.pause();
        life.stop_for_migration().unwrap();
        assert!(!life.take_back());
        assert_eq!(life.state(), RunState::Paused);
    }

    #[test]
    fn a_saved_guest_stays_stopped_until_it_is_told_to_go_on() {
        let mut life = running();
        life.saved();
        assert_eq!(life.state(), RunState::Running, "only a migration's end saves it");
        life.stop_for_migration().unwrap();
        life.saved();
        assert_eq!((life.ownership(), life.state()), (Ownership::Owner, RunState::Postmigrate));
        assert!(!life.take_back());
        life.run().unwrap();
        assert_eq!(life.state(), RunState::Running);
    }

    #[test]
    fn another_guest_is_waited_for_only_when_the_one_before_needs_nothing() {
        let mut life = running();
        assert!(!life.await_another());
        life.stop_for_migration().unwrap();
        assert!(!life.await_another());
        life.handover_begun();
        assert!(!life.await_another());
        life.handed_over();
        assert!(!life.await_another(), "its pages are here");
        life.released();
        assert!(life.await_another());
        assert_eq!((life.ownership(), life.state()), (Ownership::Incoming, RunState::Inmigrate));
        assert!(life.run().is_err() && !life.await_another());
        life.arrived(true);
        assert!(life.stop_for_migration().is_ok());
    }

    #[test]
    fn an_incoming_guest_runs_only_after_the_handover() {
        let mut life = Lifecycle::incoming();
        assert!(life.run().is_err());
        assert!(life.stop_for_migration().is_err());
        life.arrived(true);
        assert_eq!((life.ownership(), life.state()), (Ownership::Owner, RunState::Running));
        assert!(life.stop_for_migration().is_ok());
    }

    #[test]
    fn a_guest_that_ended_runs_only_after_a_reset() {
        let mut life = running();
        life.halt(RunState::Shutdown);
        assert!(life.run().is_err());
        assert!(life.stop_for_migration().is_err(), "it must not come back as merely paused");
        life.reset();
        assert!(life.run().is_ok());
    }
}
