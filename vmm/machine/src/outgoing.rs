//! The source's end, as the data plane sees this machine.

use crate::control::{
    ControlError, MigrateMode, MigrateRequest, MigrationCapabilities, MigrationParameters,
    OnOffAuto, PageCompression, PostcopySwitch, VmEvent,
};
use crate::driver::Driver;
use crate::frozen::{StandsStill, freeze};
use crate::lifecycle::Ownership;
use crate::sessions;
use crate::shared::Shared;
use crate::tracking::Turn;
use crate::vm::{QUIESCE_BOUND, STOP_BOUND, Vm, chain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_link::{
    AutoConverge, Codec, Compression, Differences, Endpoint, LiveRam, LowLatency,
    MachineDescription, Prefault, Rounds, SourceOptions, SourceSession, SourceVm, StoppedGuest,
    Strategy, Switch, snapshot_path,
};

/// Longest wait for the driver while a guest moves; its own waits are bounded below this.
const DRIVER_BOUND: Duration = Duration::from_secs(20);

/// Most pages that go out with the state, before anybody asks for them: half a megabyte.
const MOST_SENT_AHEAD: usize = 128;

pub(crate) struct Outgoing {
    driver: Driver<Vm>,
    shared: Arc<Shared>,
    machine: MachineDescription,
}

impl Outgoing {
    /// Has the driver do something that must not be left undone: it is done even when it is late.
    pub(crate) fn must(&self, what: &str, job: impl FnOnce(&mut Vm) + Send + 'static) {
        if let Err(error) = self.driver.must_within(DRIVER_BOUND, job) {
            log::error!("{what}: {error}");
        }
    }
}

impl SourceVm for Outgoing {
    fn describe(&self) -> MachineDescription {
        self.machine.clone()
    }

    fn live_ram(&self) -> Result<LiveRam, String> {
        self.driver.call(Vm::live_ram).map_err(|error| error.to_string())
    }

    fn round_begun(&self, round: u32) {
        self.shared.events.tell(&VmEvent::MigrationPass { pass: round });
    }

    fn throttle(&self, percent: u8) {
        self.shared.throttle.set(percent);
    }

    fn stop(&self) -> Result<StoppedGuest, String> {
        let stopped = self.driver.call_once_begun(DRIVER_BOUND, Vm::stop_for_migration);
        stopped.and_then(|stopped| stopped).map_err(|error| error.to_string())
    }

    fn handover_begun(&self) {
        self.must("handover", |vm| {
            vm.change_ownership(crate::lifecycle::Lifecycle::handover_begun);
        });
    }

    fn take_back(&self) {
        self.must("taking the guest back", Vm::take_back);
    }

    fn handed_over(&self) {
        self.must("handed over", Vm::handed_over);
    }

    fn released(&self) {
        self.must("released", Vm::released);
    }

    fn phase_changed(&self, phase: &str) {
        self.shared.events.tell(&VmEvent::Migration { phase: phase.to_owned() });
    }
}

/// What was asked for, as the data plane has it.
pub(crate) fn low_latency(parameters: &MigrationParameters) -> LowLatency {
    match parameters.low_cpu_latency {
        OnOffAuto::Auto => LowLatency::Auto,
        OnOffAuto::On => LowLatency::On,
        OnOffAuto::Off => LowLatency::Off,
    }
}

/// What was asked for, as the engine's policy.
fn strategy(
    mode: MigrateMode,
    parameters: &MigrationParameters,
    capabilities: MigrationCapabilities,
) -> Strategy {
    let by_itself = match parameters.postcopy_switch {
        PostcopySwitch::Auto => Switch::ByItself,
        PostcopySwitch::Manual => Switch::WhenTold,
    };
    let (most, switch, finish) = match mode {
        MigrateMode::Postcopy => return Strategy::POSTCOPY,
        MigrateMode::Hybrid { rounds } => (Some(rounds), Switch::ByItself, false),
        MigrateMode::Precopy if capabilities.postcopy_ram => (None, by_itself, true),
        MigrateMode::Precopy => (None, Switch::Never, true),
    };
    let throttle = capabilities.auto_converge.then_some(AutoConverge {
        initial: parameters.cpu_throttle_initial,
        increment: parameters.cpu_throttle_increment,
        most: parameters.max_cpu_throttle,
    });
    let downtime_limit = Duration::from_millis(parameters.downtime_limit);
    Strategy { rounds: Some(Rounds { most, downtime_limit, switch, finish, throttle }) }
}

impl Vm {
    /// Starts to move the guest away.
    ///
    /// # Errors
    /// What is wrong with the request or the moment.
    pub(crate) fn migrate(&mut self, request: &MigrateRequest) -> Result<(), ControlError> {
        if let Some(path) = snapshot_path(&request.uri) {
            return self.save_to_file(&path, request);
        }
        let peer: Endpoint =
            request.uri.parse().map_err(|error| ControlError(format!("{error}")))?;
        let outgoing = self.outgoing(request)?;
        let parameters = self.shared.migration.parameters();
        let capabilities = self.shared.migration.capabilities();
        let options = SourceOptions {
            prefault: Prefault {
                adaptive: request.prefault_adaptive,
                forward: request.prefault_forward,
                backward: request.prefault_backward,
                move_background: request.move_background,
            },
            background: request.background && parameters.postcopy_background,
            bulk_lanes: parameters.multifd_channels,
            bandwidth: parameters.max_postcopy_bandwidth,
            rounds_bandwidth: parameters.max_bandwidth,
            compression: match parameters.multifd_compression {
                PageCompression::None => Compression::Off,
                PageCompression::Lz4 => Compression::Always(Codec::Lz4),
                PageCompression::Zstd => Compression::Always(Codec::Zstd),
                PageCompression::Auto => Compression::Auto,
            },
            differences: match parameters.xor_delta {
                OnOffAuto::Auto => Differences::Auto,
                OnOffAuto::On => Differences::On,
                OnOffAuto::Off => Differences::Off,
            },
            copies_bytes: parameters.xbzrle_cache_size,
            low_latency: low_latency(&parameters),
            strategy: strategy(request.mode, &parameters, capabilities),
        };
        let layout = self.hardware.pages.ram().layout().clone();
        let session = SourceSession::start(peer, Arc::new(outgoing), layout, options)
            .map_err(|error| ControlError(format!("cannot start the migration: {error}")))?;
        self.shared.migration.set_outgoing(sessions::Outgoing::Link(session));
        Ok(())
    }

    /// This machine for a migration away from here.
    ///
    /// # Errors
    /// What is wrong with the request or the moment.
    pub(crate) fn outgoing(&self, request: &MigrateRequest) -> Result<Outgoing, ControlError> {
        self.check_request(request)?;
        if self.shared.migration.outgoing_under_way() {
            return Err(ControlError::new("a migration is under way already (info migrate)"));
        }
        self.life.require_movable()?;
        self.require_all_pages("a migration away from here")?;
        self.require_no_lost_pages()?;
        Ok(Outgoing {
            driver: self.driver.clone(),
            shared: self.shared.clone(),
            machine: self.description(),
        })
    }

    /// Refuses what makes no sense for the way in which the guest is to move.
    pub(crate) fn check_request(&self, request: &MigrateRequest) -> Result<(), ControlError> {
        if request.mode == (MigrateMode::Hybrid { rounds: 0 }) {
            return Err(ControlError(format!(
                "--precopy takes 1 to {} rounds, not 0; leave it out for none",
                u32::MAX
            )));
        }
        let (forward, backward) = (request.prefault_forward, request.prefault_backward);
        let postcopy = request.mode != MigrateMode::Precopy
            || self.shared.migration.capabilities().postcopy_ram;
        let of_postcopy =
            !request.background || request.move_background || forward > 0 || backward > 0;
        if of_postcopy && !postcopy {
            return Err(ControlError::new(
                "-n, -m and prefault counts are of postcopy, and this is precopy alone; \
                 use migrate -p, or set the capability postcopy-ram",
            ));
        }
        let layout = self.hardware.pages.ram().layout();
        let largest = layout.blocks().iter().map(|block| block.pages).max().unwrap_or(0);
        match forward.max(backward) {
            count if count > largest => Err(ControlError(format!(
                "{count} pages beside each demanded one are more than the largest RAM block has \
                 ({largest} pages)"
            ))),
            _ => Ok(()),
        }
    }

    /// RAM of the guest as it runs, and its log for one migration.
    pub(crate) fn live_ram(&mut self) -> LiveRam {
        let ram = self.hardware.pages.ram().clone();
        LiveRam { ram, dirty: Arc::new(Turn::new(self.writes.clone())) }
    }

    pub(crate) fn stop_for_migration(&mut self) -> Result<StoppedGuest, ControlError> {
        let stopped_at = Instant::now();
        self.life.stop_for_migration()?;
        self.publish();
        let result = self.halt_and_save(stopped_at);
        if result.is_err() {
            self.take_back();
        }
        result
    }

    fn halt_and_save(&mut self, stopped_at: Instant) -> Result<StoppedGuest, ControlError> {
        // Before the stop: a device that keeps it from ending delays the guest's clock too.
        self.stopped_at = Some(stopped_at);
        self.halt_guest(STOP_BOUND, QUIESCE_BOUND)?;
        // The request is in the driver's queue behind this, and does not move with the guest.
        if let Some(request) = self.asked.get() {
            return Err(ControlError(format!(
                "the guest asks to be {request} at this moment; migrate again after that"
            )));
        }
        let halted = Instant::now();
        let package = self.save().map_err(|error| ControlError(error.to_string()))?;
        // What is left to write is written; the destination may take the disks.
        self.hardware.unlock_disks().map_err(|error| ControlError(chain(&error)))?;
        let ram = freeze(&self.hardware, &StandsStill::after_halt());
        self.frozen = Some(ram.clone());
        let working_set = self.working_set(MOST_SENT_AHEAD);
        let saved = Instant::now();
        let parts = vec![("stop", halted - stopped_at), ("save", saved - halted)];
        Ok(StoppedGuest { package, ram, working_set, stopped_at, parts })
    }

    /// The guest is ours again after a migration that came to nothing.
    pub(crate) fn take_back(&mut self) {
        self.frozen = None;
        self.shared.throttle.set(0);
        let pause = self.stopped_at.take().map_or(Duration::ZERO, |at| at.elapsed());
        let runs = self.life.take_back();
        if let Err(error) = self.hardware.lock_disks() {
            self.trouble = Some(format!("the guest stays stopped until cont: {}", chain(&error)));
            self.life.pause();
            return self.publish();
        }
        if runs {
            self.start_guest(pause);
        } else {
            self.publish();
        }
    }

    fn handed_over(&mut self) {
        self.life.handed_over();
        self.shared.throttle.set(0);
        if self.life.ownership() == Ownership::HandedOver
            && let Some(ram) = self.frozen.clone()
        {
            // Beside page service, which must not wait for it.
            let protect = move || {
                if let Err(error) = ram.protect() {
                    log::warn!("RAM of the guest that was handed over stays writable: {error}");
                }
            };
            match std::thread::Builder::new().name("protect-ram".into()).spawn(protect) {
                Ok(thread) => self.protecting = Some(thread),
                Err(error) => {
                    log::warn!("RAM of the guest that was handed over stays writable: {error}");
                }
            }
        }
        self.publish();
    }

    /// The guest has left for good: its memory is given back to the host. The session has ended and joined all
    /// threads that read it.
    fn released(&mut self) {
        self.life.released();
        if self.life.ownership() != Ownership::Released {
            // Never the memory of a guest that is not known to live elsewhere.
            log::warn!(
                "memory is kept: the guest was not handed over ({:?})",
                self.life.ownership()
            );
            return;
        }
        if let Some(thread) = self.protecting.take() {
            let _ = thread.join();
        }
        self.shared.collapse.end();
        if let Err(error) = self.make_new() {
            log::warn!(
                "memory of the guest that has left stays in use (migrate_incoming tries again): {}",
                chain(&error)
            );
        }
        crate::heap::trim();
        self.publish();
    }

    fn change_ownership(&mut self, change: impl FnOnce(&mut crate::lifecycle::Lifecycle)) {
        change(&mut self.life);
        self.publish();
    }
}
