//! The destination's end, as the data plane sees this machine.

use crate::admission;
use crate::board::FaultNotice;
use crate::control::{ControlError, VmEvent};
use crate::driver::Driver;
use crate::lifecycle::Ownership;
use crate::outgoing::low_latency;
use crate::sessions::Arrival;
use crate::shared::Shared;
use crate::vm::{Vm, chain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_fault::FaultPlane;
use umem_fault::uffd::Userfaultfd;
use umem_link::{
    DestinationListener, DestinationOptions, DestinationVm, Endpoint, MachineDescription, Mode,
    snapshot_path,
};
use umem_memory::{GuestRam, MemoryKind, PageBitmap};

/// Longest wait for the driver while a guest comes in.
const DRIVER_BOUND: Duration = Duration::from_secs(20);

pub(crate) struct Arriving {
    driver: Driver<Vm>,
    shared: Arc<Shared>,
}

impl Arriving {
    fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vm) -> Result<R, String> + Send + 'static,
    ) -> Result<R, String> {
        self.driver.call_once_begun(DRIVER_BOUND, job).map_err(|error| error.to_string())?
    }

    pub(crate) fn tell(&self, what: &str, job: impl FnOnce(&mut Vm) + Send + 'static) {
        if let Err(error) = self.driver.must_within(DRIVER_BOUND, job) {
            log::error!("{what}: {error}");
        }
    }
}

impl DestinationVm for Arriving {
    fn admit(&self, machine: &MachineDescription, mode: Mode) -> Result<GuestRam, String> {
        let machine = machine.clone();
        self.ask(move |vm| vm.admit_arrival(&machine, mode))
    }

    fn begin_page_service(&self, placed: &PageBitmap) -> Result<Arc<FaultPlane>, String> {
        let placed = placed.clone();
        self.ask(move |vm| vm.begin_page_service(&placed))
    }

    fn load(&self, package: &[u8]) -> Result<(), String> {
        let package = package.to_owned();
        self.ask(move |vm| {
            vm.require_incoming()?;
            vm.arriving_runs = vm.load(&package).map_err(|error| chain(&error))?;
            Ok(())
        })
    }

    fn run(&self, pause: Duration) -> Result<(), String> {
        let asked = Instant::now();
        self.ask(move |vm| vm.arrive(pause, asked))
    }

    fn complete(&self) {
        self.tell("all pages are here", Vm::arrival_complete);
    }

    fn abandon(&self) {
        self.tell("an incoming guest did not come", Vm::abandon_arrival);
    }

    fn phase_changed(&self, phase: &str) {
        self.shared.events.tell(&VmEvent::Migration { phase: phase.to_owned() });
    }
}

impl Vm {
    /// Begins to listen for a guest.
    ///
    /// # Errors
    /// When this VM has a guest, listens already, or the address cannot be had.
    pub(crate) fn listen(&mut self, uri: &str) -> Result<(), ControlError> {
        self.require_room()?;
        if self.shared.migration.listens() {
            return Err(ControlError::new("this VM listens already (info migrate)"));
        }
        let arriving = Arriving { driver: self.driver.clone(), shared: self.shared.clone() };
        if let Some(path) = snapshot_path(uri) {
            return self.load_from_file(&path, arriving);
        }
        let endpoint: Endpoint = uri.parse().map_err(|error| ControlError(format!("{error}")))?;
        let layout = self.hardware.pages.ram().layout().clone();
        let low_latency = low_latency(&self.shared.migration.parameters());
        let options = DestinationOptions { low_latency, ..DestinationOptions::default() };
        let listener = DestinationListener::start(&endpoint, Arc::new(arriving), layout, options)
            .map_err(|error| ControlError(chain(&error)))?;
        self.shared.migration.set_incoming(Arrival::Link(listener));
        Ok(())
    }

    /// Whether a guest can come in. The one that was here may have left for good: then the machine is made
    /// new, which may have failed when that guest left.
    fn require_room(&mut self) -> Result<(), ControlError> {
        match self.life.ownership() {
            Ownership::Incoming => Ok(()),
            Ownership::Released => {
                self.make_new().map_err(|error| {
                    ControlError(format!(
                        "the guest that has left cannot be cleared away: {}",
                        chain(&error)
                    ))
                })?;
                if !self.life.await_another() {
                    return Err(ControlError::new("the guest that was here has not left"));
                }
                self.shared.migration.begin_anew();
                (self.trouble, self.stopped_at) = (None, None);
                self.asked.done();
                self.publish();
                Ok(())
            }
            Ownership::HandedOver | Ownership::HandoverUnknown => Err(ControlError::new(
                "the guest that moves from here still needs this process (info migrate); another can come \
                 in when that move is complete",
            )),
            Ownership::Owner | Ownership::Migrating => Err(ControlError::new(
                "this VM does not wait for a guest, it has one; start another with -incoming defer",
            )),
        }
    }

    /// Memory of a guest that runs here must not be emptied for another.
    fn require_incoming(&self) -> Result<(), String> {
        match self.life.ownership() {
            Ownership::Incoming => Ok(()),
            _ => Err("this VM has a guest already; start another with -incoming".to_owned()),
        }
    }

    pub(crate) fn admit_arrival(
        &mut self,
        machine: &MachineDescription,
        mode: Mode,
    ) -> Result<GuestRam, String> {
        self.require_incoming()?;
        self.require_mode(mode)?;
        if let Some(difference) = self.description().difference(machine) {
            return Err(difference);
        }
        self.admits_processor(&machine.processor)?;
        let ram = self.hardware.pages.ram();
        // Huge pages were set aside when RAM was made.
        if ram.kind() != MemoryKind::Huge
            && let Err(short) = admission::admit(ram.layout().total_bytes())
        {
            if !self.config.overcommit {
                return Err(short.to_string());
            }
            log::warn!("taken all the same (reserve=off): {short}");
        }
        Ok(ram.clone())
    }

    /// Whether guests are taken in that move in this way. One started with `-postcopy` takes no other;
    /// one that a monitor has allowed it takes both.
    fn require_mode(&self, mode: Mode) -> Result<(), String> {
        if !mode.postcopy {
            return if self.config.postcopy {
                Err("this VM takes guests by postcopy only (-postcopy): use migrate -p".to_owned())
            } else {
                Ok(())
            };
        }
        if !self.config.postcopy && !self.shared.migration.capabilities().postcopy_ram {
            return Err(
                "this VM takes no guests by postcopy; start it with -postcopy, or set the \
                        capability postcopy-ram"
                    .to_owned(),
            );
        }
        // Before rounds that may take hours.
        self.userfaultfd().map(drop)
    }

    /// One that tells of missing pages as the board's vCPUs need it.
    fn userfaultfd(&self) -> Result<Userfaultfd, String> {
        let opened = match self.fault_notice() {
            FaultNotice::Reader => Userfaultfd::open(),
            FaultNotice::KernelReader => Userfaultfd::open_for_kernel(),
            FaultNotice::Thread => Userfaultfd::open_signalling(),
        };
        opened.map_err(|error| chain(&error))
    }

    pub(crate) fn begin_page_service(
        &mut self,
        placed: &PageBitmap,
    ) -> Result<Arc<FaultPlane>, String> {
        self.require_incoming()?;
        let (ram, placement) = (self.hardware.pages.ram(), self.config.placement());
        let plane = FaultPlane::for_ram_keeping_with(ram, self.userfaultfd()?, placed, placement)
            .map_err(|error| chain(&error))?;
        self.hardware.pages.arm(plane.clone());
        Ok(plane)
    }

    /// The guest is ours and goes on, if it ran. On an error the source goes on with it, so nothing of
    /// it may have begun to run here.
    pub(crate) fn arrive(&mut self, pause: Duration, asked: Instant) -> Result<(), String> {
        self.require_incoming()?;
        self.hardware.lock_disks().map_err(|error| chain(&error))?;
        if self.arriving_runs
            && let Err(error) = self.start_hardware(pause + asked.elapsed())
        {
            // Nothing was written.
            let _ = self.hardware.unlock_disks();
            return Err(chain(&error));
        }
        self.life.arrived(self.arriving_runs);
        if self.arriving_runs {
            self.enter_guest();
        } else {
            self.publish();
        }
        // The guest has come whatever becomes of this.
        if let Err(error) = self.announce() {
            log::warn!("{error}");
        }
        Ok(())
    }

    /// All pages are here.
    pub(crate) fn arrival_complete(&mut self) {
        if let Some(plane) = self.hardware.pages.plane() {
            // On this thread: a reset empties the memory, and must not find it watched still.
            if let Err(error) = plane.release() {
                log::warn!("all pages are here, but page service stays: {}", chain(&error));
            }
            match plane.table().counts().poisoned {
                0 => {
                    self.hardware.pages.disarm();
                    if self.shared.migration.parameters().postcopy_collapse {
                        self.shared.collapse.begin(self.hardware.pages.ram());
                    }
                }
                // The plane keeps them from being touched, which would end this process.
                lost => log::warn!("{lost} pages could not be read at the source and are lost"),
            }
        }
    }

    /// The guest stays at the source: this VM can take another, and needs no memory until then.
    pub(crate) fn abandon_arrival(&mut self) {
        if self.require_incoming().is_err() {
            return;
        }
        if let Err(error) = self.hardware.renew_ram() {
            log::warn!("memory of a guest that did not come stays in use: {}", chain(&error));
        }
    }
}
