//! Reset and power-off. What the guest's memory held matters no more then, so that pages which have not
//! arrived are given up.

use crate::control::{ControlError, RunState, VmEvent};
use crate::exit::ExitReason;
use crate::requests::ResetRequest;
use crate::vm::{OUTPUT_BOUND, QUIESCE_BOUND, STOP_BOUND, Vm, VmError, chain};
use std::time::{Duration, Instant};

impl Vm {
    /// Makes the machine new and boots it again.
    ///
    /// # Errors
    /// When this process may not run the guest, or it has no kernel to boot.
    pub(crate) fn reset(&mut self) -> Result<(), ControlError> {
        self.reset_for(false)
    }

    /// As [`Self::reset`]; `guest`: it asked for it.
    fn reset_for(&mut self, guest: bool) -> Result<(), ControlError> {
        self.life.require_owner()?;
        // Memory is emptied only when there is something to boot.
        self.require_kernel().map_err(|error| ControlError(chain(&error)))?;
        // One that was saved to a file stays stopped, and its disks may be another's.
        let rests = [RunState::Paused, RunState::Prelaunch, RunState::Postmigrate];
        let ran = !rests.contains(&self.life.state());
        let halting = Instant::now();
        if let Err(error) = self.halt_for_good("reset") {
            if self.life.state() == RunState::Running {
                self.start_guest(halting.elapsed());
            }
            return Err(error);
        }
        self.asked.done();
        self.shared.collapse.end();
        self.hardware.finish_output(Instant::now() + OUTPUT_BOUND);
        self.life.reset();
        let booted = self
            .load_pristine()
            .map_err(VmError::from)
            .and_then(|()| self.hardware.renew_ram())
            .and_then(|()| self.boot());
        if let Err(error) = booted {
            self.trouble = Some(format!("reset failed: {}", chain(&error)));
            self.life.halt(RunState::InternalError);
            self.publish();
            return Err(ControlError::new(chain(&error)));
        }
        // What was said of the guest before is not true of this one.
        self.trouble = None;
        self.publish();
        self.shared.events.tell(&VmEvent::Reset { guest });
        if ran { self.life.run().map(|()| self.start_guest(Duration::ZERO)) } else { Ok(()) }
    }

    /// Switches the guest off: the board has no button that asks it.
    ///
    /// # Errors
    /// When this process may not run the guest.
    pub(crate) fn power_down(&mut self) -> Result<(), ControlError> {
        self.life.require_owner()?;
        self.switch_off(false);
        Ok(())
    }

    /// `guest`: it asked for it.
    fn switch_off(&mut self, guest: bool) {
        let _ = self.halt_for_good("switched off");
        self.hardware.finish_output(Instant::now() + OUTPUT_BOUND);
        self.life.halt(RunState::Shutdown);
        self.publish();
        self.shared.events.tell(&VmEvent::Shutdown { guest });
        self.shared.exit.set(ExitReason::GuestShutdown);
    }

    /// Does what the guest asked for, unless it is done already (a reset came in between).
    pub(crate) fn guest_asks(&mut self, request: ResetRequest) {
        if self.life.require_owner().is_err() || self.asked.get() != Some(request) {
            return;
        }
        self.asked.done();
        if request == ResetRequest::Shutdown {
            return self.switch_off(true);
        }
        if let Err(error) = self.reset_for(true) {
            log::error!("the guest asked for a reset: {error}");
            let _ = self.halt_guest(STOP_BOUND, QUIESCE_BOUND);
            self.trouble = Some(format!("the guest asked for a reset: {error}"));
            self.life.halt(RunState::InternalError);
            self.publish();
        }
    }

    fn require_kernel(&self) -> Result<(), VmError> {
        self.config.boot_files().map_err(VmError::Config)?.readable()
    }

    /// Stops the guest, which does not go on: pages that have not arrived are given up.
    ///
    /// # Errors
    /// Names what does not stand still. The guest can go on then, unless its memory was given up; it
    /// is in [`RunState::InternalError`] in that case.
    fn halt_for_good(&mut self, why: &str) -> Result<(), ControlError> {
        let halted = self.halt_guest(STOP_BOUND, QUIESCE_BOUND);
        if self.missing_pages() == 0 {
            return halted;
        }
        if halted.is_err() {
            // A vCPU that waits in the kernel for a page will go on for a moment with zeroes instead:
            // no device may hear of that.
            self.hardware.stop_clock();
            let rested = self.hardware.quiesce(Instant::now() + QUIESCE_BOUND);
            rested.map_err(|busy| ControlError::new(busy.to_string()))?;
        }
        self.give_up_memory(why);
        self.halt_guest(STOP_BOUND, QUIESCE_BOUND).inspect_err(|error| {
            self.trouble = Some(format!("its missing memory was given up ({why}), but {error}"));
            self.life.halt(RunState::InternalError);
            self.publish();
        })
    }

    /// Nobody needs the pages that are missing: tells so where they would come from, and lets go
    /// whoever waits for one.
    fn give_up_memory(&self, why: &str) {
        let Some(plane) = self.hardware.pages.plane() else { return };
        let missing = self.missing_pages();
        let migration = &self.shared.migration;
        match migration.give_up_memory(why, &|| self.missing_pages() == 0) {
            Ok(()) => log::info!("the guest is {why}: {missing} missing pages are given up"),
            Err(error) => {
                log::warn!(
                    "the guest is {why}: {missing} missing pages are given up; the source cannot be \
                     told, and keeps them until it is quit: {error}"
                );
                self.shared.events.tell(&VmEvent::Migration { phase: "completed".to_owned() });
            }
        }
        plane.close();
    }
}
