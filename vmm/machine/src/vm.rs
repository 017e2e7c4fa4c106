//! The VM, as its driver holds it: starts, stops, resets, saves and loads it.

use crate::board::{self, Board, FaultNotice};
use crate::config::{Incoming, VmConfig};
use crate::console::ConsoleBackend;
use crate::control::{ControlError, RunState, VmEvent};
use crate::driver::Driver;
use crate::exit::ExitReason;
use crate::gate::Activity;
use crate::hardware::{BalloonView, Hardware, ram};
use crate::lifecycle::{Lifecycle, Ownership};
use crate::memory::GuestPages;
use crate::requests::{Asked, Requests};
use crate::shared::Shared;
use crate::throttle::Throttle;
use crate::vcpu::{JOIN_BOUND, Surroundings, VcpuEvent, VcpuThread};
use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use umem_link::{Block, MachineDescription};
use umem_memory::{DirtyLog, FrozenRam, PageIndex};
use umem_state::{Package, PackageBuilder, StateError};

/// Longest wait for vCPUs to stand still, on behalf of a monitor.
pub(crate) const STOP_BOUND: Duration = Duration::from_secs(1);
/// Longest wait for submitted I/O to complete before a move is given up.
pub(crate) const QUIESCE_BOUND: Duration = Duration::from_secs(5);

/// Longest wait for the host's terminal to take what the guest has printed.
pub(crate) const OUTPUT_BOUND: Duration = Duration::from_millis(500);

/// Why a VM cannot be made or started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The configuration asks for what this version does not have.
    #[error("{0}")]
    Config(String),
    /// The guest cannot be booted.
    #[error(transparent)]
    Load(Box<dyn std::error::Error + Send + Sync>),
    /// The accelerator refuses something.
    #[error(transparent)]
    Accelerator(Box<dyn std::error::Error + Send + Sync>),
    /// Guest RAM cannot be had.
    #[error("cannot have {bytes} bytes of guest RAM")]
    Memory {
        /// How much.
        bytes: u64,
        /// Why.
        #[source]
        source: umem_memory::RamError,
    },
    /// A disk cannot be used.
    #[error("cannot use disk {path}")]
    Disk {
        /// Its image.
        path: String,
        /// Why.
        #[source]
        source: devices::DiskError,
    },
    /// A device does not come to rest.
    #[error(transparent)]
    Busy(#[from] devices::Busy),
    /// A device's saved state or the like.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system refuses a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The guest's clock does not go on.
    #[error(transparent)]
    Clock(#[from] accel::ClockError),
    /// The monitor's answer to a command that the VM gave itself at the start.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A VM in the hands of its driver.
pub(crate) struct Vm {
    pub(crate) config: VmConfig,
    pub(crate) life: Lifecycle,
    pub(crate) hardware: Hardware,
    board: Box<dyn Board>,
    vcpus: Vec<VcpuThread>,
    /// All that writes RAM: vCPUs by the accelerator's log, and this process (devices, loaders,
    /// resets) by that of RAM.
    pub(crate) writes: Arc<DirtyLog>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) driver: Driver<Vm>,
    /// Device and vCPU state at power-on, for resets.
    pub(crate) pristine: Vec<u8>,
    /// What the guest asked for and the driver has not done yet.
    pub(crate) asked: Asked,
    /// Why the guest stands still, where an error stopped it.
    pub(crate) trouble: Option<String>,
    /// When an outgoing migration stopped the guest.
    pub(crate) stopped_at: Option<Instant>,
    /// RAM of a guest that an outgoing migration has stopped.
    pub(crate) frozen: Option<FrozenRam>,
    /// Takes write access from it, once it was handed over.
    pub(crate) protecting: Option<JoinHandle<()>>,
    /// Whether the guest that is arriving is to run.
    pub(crate) arriving_runs: bool,
}

/// How far a page lies at most from one that a vCPU names, to be likely as well, pages.
const MOST_BESIDE: u64 = 16;

impl Vm {
    /// Builds the machine; nothing runs yet.
    ///
    /// # Errors
    /// What is wrong with the configuration or this host.
    pub(crate) fn new(
        config: VmConfig,
        console: ConsoleBackend,
        driver: Driver<Self>,
    ) -> Result<Self, VmError> {
        config.check().map_err(VmError::Config)?;
        let asked = Asked::default();
        let (board_requests, board_asked) = (driver.clone(), asked.clone());
        let requests: Requests = Arc::new(move |request| {
            if board_asked.ask(request) {
                board_requests.post(move |vm| vm.guest_asks(request));
            }
        });
        let pages = GuestPages::new(ram(board::ram_blocks(&config), &config.backend())?);
        let mut board = board::create(&config, &pages)?;
        let hardware = Hardware::build(&config, console, &*board, pages, requests)?;
        let ram = hardware.pages.ram();
        let total = ram.layout().total_pages();
        let writes = vec![board.writes(), Arc::new(ram.host_writes())];
        let (events, vcpu_asked) = (driver.clone(), asked.clone());
        let report = Arc::new(move |number, event| {
            if let VcpuEvent::Reset(request) = event
                && !vcpu_asked.ask(request)
            {
                return;
            }
            events.post(move |vm: &mut Self| vm.vcpu_reports(number, event));
        });
        let surroundings = Surroundings {
            bus: hardware.bus.clone(),
            ports: hardware.ports.clone(),
            pages: hardware.pages.clone(),
            report,
        };
        let mut vcpus = Vec::new();
        for (number, core) in (0..).zip(board.cores(&hardware)?) {
            let thread = VcpuThread::start(number, core, surroundings.clone());
            vcpus.push(thread.map_err(VmError::Thread)?);
        }
        let life = match config.incoming {
            Incoming::No => Lifecycle::booting(),
            Incoming::Defer | Incoming::Uri(_) => Lifecycle::incoming(),
        };
        let views = vcpus.iter().map(|vcpu| vcpu.view().clone()).collect();
        let throttle = Throttle::new(vcpus.iter().map(VcpuThread::reach).collect());
        let pages = hardware.pages.clone();
        let shared = Arc::new(Shared::new(
            life,
            config.accelerator.target(),
            pages,
            views,
            throttle,
            &hardware,
        ));
        if let Some(BalloonView { balloon, .. }) = &shared.balloon {
            let told = Arc::downgrade(&shared);
            balloon.on_change(move |pages| {
                let Some(shared) = told.upgrade() else { return };
                let actual = shared.ram_without(pages);
                shared.events.tell(&VmEvent::BalloonChange { actual });
            });
        }
        let pristine = Vec::new();
        let mut vm = Self {
            config,
            life,
            hardware,
            board,
            vcpus,
            writes: Arc::new(DirtyLog::new(total, writes)),
            shared,
            driver,
            pristine,
            asked,
            trouble: None,
            stopped_at: None,
            frozen: None,
            protecting: None,
            arriving_runs: false,
        };
        vm.stop_clock()?;
        vm.hardware.quiesce(Instant::now() + QUIESCE_BOUND)?;
        vm.pristine = vm.save()?;
        Ok(vm)
    }

    /// The part that any thread may read.
    #[must_use]
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Whether the VM has ended.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.exit.is_set()
    }

    /// Boots, or begins to listen, as configured.
    ///
    /// # Errors
    /// What is wrong with the kernel, or with the address to listen on.
    pub(crate) fn begin(&mut self) -> Result<(), VmError> {
        match self.config.incoming.clone() {
            Incoming::Defer => {}
            Incoming::Uri(uri) => self.listen(&uri)?,
            Incoming::No => {
                self.hardware.lock_disks()?;
                self.boot()?;
                if !self.config.start_paused {
                    self.cont()?;
                }
            }
        }
        Ok(())
    }

    /// Loads the kernel into fresh RAM and points the first vCPU at it.
    pub(crate) fn boot(&mut self) -> Result<(), VmError> {
        if self.config.prealloc {
            let (ram, bytes) = (self.hardware.pages.ram(), self.config.memory_bytes);
            ram.populate().map_err(|source| VmError::Memory { bytes, source })?;
        }
        if self.vcpus.iter().any(|vcpu| vcpu.core().is_none()) {
            return Err(ControlError::new("a vCPU that is to boot does not stand still").into());
        }
        let files = self.config.boot_files().map_err(VmError::Config)?;
        self.board.boot(self.hardware.pages.ram(), &files)
    }

    /// Tells its networks where the guest is.
    ///
    /// # Errors
    /// When it is not this process's.
    pub(crate) fn announce(&self) -> Result<(), ControlError> {
        self.life.require_owner()?;
        let shared = Arc::downgrade(&self.shared);
        let ours = move || shared.upgrade().is_some_and(|shared| shared.owns());
        let parameters = self.shared.migration.parameters();
        crate::announce::begin(self.hardware.announcers.clone(), &parameters, Arc::new(ours));
        Ok(())
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// When this process may not run it.
    pub(crate) fn cont(&mut self) -> Result<(), ControlError> {
        if self.life.state() == RunState::Running {
            return Ok(());
        }
        self.life.require_owner()?;
        // They are not ours after a move that failed while another had them.
        self.hardware.lock_disks().map_err(|error| ControlError(chain(&error)))?;
        self.life.run()?;
        self.start_guest(Duration::ZERO);
        self.shared.migration.retry_lost_pages();
        Ok(())
    }

    /// The guest goes on; its clock goes on by `pause`.
    pub(crate) fn start_guest(&mut self, pause: Duration) {
        if let Err(error) = self.start_hardware(pause) {
            self.trouble = Some(chain(&error));
            self.life.halt(RunState::InternalError);
            return self.publish();
        }
        self.enter_guest();
    }

    /// Clock and devices go on; the clock first goes on by `pause`.
    ///
    /// # Errors
    /// When the clock cannot: nothing goes on then.
    pub(crate) fn start_hardware(&mut self, pause: Duration) -> Result<(), VmError> {
        if self.hardware.start_clock(pause)? {
            self.vcpus.iter().try_for_each(|vcpu| vcpu.start_clock(pause))?;
        }
        self.hardware.resume();
        Ok(())
    }

    /// The guest's clock stops, at vCPUs that stand still as well.
    ///
    /// # Errors
    /// When the accelerator cannot read the vCPUs' part.
    fn stop_clock(&mut self) -> Result<(), StateError> {
        if self.hardware.stop_clock() {
            self.vcpus.iter().try_for_each(VcpuThread::stop_clock)?;
        }
        Ok(())
    }

    /// vCPUs go on. The hardware does already.
    pub(crate) fn enter_guest(&mut self) {
        self.trouble = None;
        self.vcpus.iter().for_each(VcpuThread::resume);
        self.publish();
    }

    /// Stops the guest.
    ///
    /// # Errors
    /// Names what does not stand still within a second; it stops when it can.
    pub(crate) fn stop(&mut self) -> Result<(), ControlError> {
        // A guest that is paused may not have stood still in time when it was.
        if !matches!(self.life.state(), RunState::Running | RunState::Paused) {
            return Ok(());
        }
        self.life.pause();
        let stopped = self.halt_guest(STOP_BOUND, STOP_BOUND);
        self.publish();
        stopped
    }

    /// Stops vCPUs, then devices, each within its bound.
    pub(crate) fn halt_guest(
        &mut self,
        vcpus: Duration,
        devices: Duration,
    ) -> Result<(), ControlError> {
        self.vcpus.iter().for_each(VcpuThread::request_stop);
        let deadline = Instant::now() + vcpus;
        for vcpu in &self.vcpus {
            let bound = deadline.saturating_duration_since(Instant::now());
            let activity = vcpu.await_stopped(bound);
            if !matches!(activity, Activity::Stopped | Activity::Ended) {
                return Err(self.does_not_stop(vcpu.view().number()));
            }
        }
        self.stop_clock().map_err(|error| ControlError(chain(&error)))?;
        self.hardware
            .quiesce(Instant::now() + devices)
            .map_err(|busy| ControlError::new(busy.to_string()))
    }

    fn does_not_stop(&self, number: u32) -> ControlError {
        let waiting = self.hardware.pages.plane().map(|plane| plane.waiting()).unwrap_or_default();
        let why = match waiting.first() {
            Some(page) => format!("waits for {page}, which has not arrived"),
            None => "is still in the middle of an instruction".to_owned(),
        };
        ControlError::new(format!("vCPU {number} {why}; it stops as soon as it can"))
    }

    /// All state but RAM. The guest stands still.
    pub(crate) fn save(&self) -> Result<Vec<u8>, StateError> {
        let mut package = PackageBuilder::new();
        self.hardware.save(&mut package, self.life.ran_before_migration())?;
        for vcpu in &self.vcpus {
            vcpu.save(&mut package)?;
        }
        Ok(package.build())
    }

    /// Pages that the guest is likely to touch first, at most so many and each once: those that the vCPUs
    /// name, by turns, then what lies beside these, one page away, two, and so on. It stands still.
    pub(crate) fn working_set(&self, most: usize) -> Vec<PageIndex> {
        let layout = self.hardware.pages.ram().layout();
        let sets: Vec<_> = self.vcpus.iter().map(VcpuThread::working_set).collect();
        let longest = sets.iter().map(Vec::len).max().unwrap_or(0);
        let by_turns = (0..longest).flat_map(|at| sets.iter().filter_map(move |set| set.get(at)));
        let mut known = HashSet::new();
        let named = by_turns.filter_map(|address| layout.page_of(*address));
        let mut pages: Vec<_> = named.filter(|page| known.insert(*page)).take(most).collect();
        let named = pages.clone();
        let beside = (1..=MOST_BESIDE).flat_map(|distance| {
            named.iter().flat_map(move |page| {
                let beside = [page.0.checked_add(distance), page.0.checked_sub(distance)];
                beside.into_iter().flatten().map(|beside| (*page, PageIndex(beside)))
            })
        });
        let same_block = |page, beside| layout.index_of(page) == layout.index_of(beside);
        let beside = beside.filter(|(page, beside)| same_block(*page, *beside));
        let beside = beside.map(|(_, beside)| beside).filter(|page| known.insert(*page));
        pages.extend(beside.take(most.saturating_sub(named.len())));
        pages
    }

    /// Takes over all state but RAM; whether the guest runs.
    pub(crate) fn load(&mut self, package: &[u8]) -> Result<bool, StateError> {
        let mut package = Package::decode(package)?;
        let runs = self.hardware.load(&mut package)?;
        for vcpu in &self.vcpus {
            vcpu.load(&mut package)?;
        }
        package.finish()?;
        Ok(runs)
    }

    /// Devices and vCPUs are as at power-on. The guest stands still.
    pub(crate) fn load_pristine(&mut self) -> Result<(), StateError> {
        let mut package = Package::decode(&self.pristine)?;
        self.hardware.load(&mut package)?;
        for vcpu in &self.vcpus {
            vcpu.reset(&mut package)?;
        }
        package.finish()
    }

    /// The machine is as before its first guest: its memory is the host's, and writable.
    ///
    /// # Errors
    /// When the host does not do it, or a page is still being put in place; may be tried again.
    pub(crate) fn make_new(&mut self) -> Result<(), VmError> {
        if let Some(ram) = &self.frozen {
            let bytes = self.config.memory_bytes;
            ram.unprotect().map_err(|source| VmError::Memory { bytes, source })?;
            self.frozen = None;
        }
        self.hardware.renew_ram()?;
        self.load_pristine()?;
        Ok(())
    }

    /// Ends the VM, whatever it waits for.
    pub(crate) fn quit(&mut self) {
        self.vcpus.iter().for_each(VcpuThread::request_end);
        self.shared.migration.abandon();
        self.shared.collapse.end();
        for vcpu in &mut self.vcpus {
            vcpu.join_within(JOIN_BOUND);
        }
        let deadline = Instant::now() + OUTPUT_BOUND;
        let _ = self.hardware.quiesce(deadline);
        // What the guest has printed is not lost, and not printed at two places.
        if self.life.ownership() == Ownership::Owner && self.life.state() != RunState::Postmigrate {
            self.hardware.finish_output(deadline);
        }
        self.shared.events.tell(&VmEvent::Shutdown { guest: false });
        self.shared.exit.set(ExitReason::Quit);
    }

    /// Registers of a vCPU, as text.
    ///
    /// # Errors
    /// No such vCPU, or it cannot be stopped to be looked at.
    pub(crate) fn registers(&mut self, number: u32) -> Result<String, ControlError> {
        let running = self.life.state() == RunState::Running;
        let vcpu = self.vcpus.iter().find(|vcpu| vcpu.view().number() == number);
        let vcpu = vcpu.ok_or_else(|| {
            ControlError::new(format!("no vCPU {number}; there are {}", self.vcpus.len()))
        })?;
        if running {
            vcpu.request_stop();
            let _ = vcpu.await_stopped(STOP_BOUND);
        }
        let text = vcpu.core().map(|core| core.vcpu().registers());
        if running {
            vcpu.resume();
        }
        text.ok_or_else(|| self.does_not_stop(number))
    }

    /// The machine, as both ends of a migration compare it.
    pub(crate) fn description(&self) -> MachineDescription {
        let layout = self.hardware.pages.ram().layout();
        let blocks = layout.blocks().iter().map(|block| Block {
            name: block.name.clone(),
            address: block.guest_address.0,
            bytes: block.bytes(),
        });
        MachineDescription {
            board: self.board.name().to_owned(),
            vcpus: self.config.vcpus,
            // A page is far smaller than 4 GiB.
            page_bytes: layout.page_size().bytes() as u32,
            blocks: blocks.collect(),
            devices: self.hardware.device_names(),
            processor: self.board.processor(),
            program: concat!("umem ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Pages of an earlier move that have not arrived.
    pub(crate) fn missing_pages(&self) -> u64 {
        self.hardware.pages.plane().map_or(0, |plane| plane.table().counts().missing())
    }

    /// Fails while pages of an earlier move are missing.
    pub(crate) fn require_all_pages(&self, command: &str) -> Result<(), ControlError> {
        match self.missing_pages() {
            0 => Ok(()),
            missing => Err(ControlError::new(format!(
                "{command} must wait until the guest's memory is here: {missing} of {} pages are missing",
                self.hardware.pages.ram().layout().total_pages()
            ))),
        }
    }

    /// Fails when pages of the guest were lost in an earlier move.
    pub(crate) fn require_no_lost_pages(&self) -> Result<(), ControlError> {
        let Some(plane) = self.hardware.pages.plane() else { return Ok(()) };
        match plane.table().counts().poisoned {
            0 => Ok(()),
            lost => Err(ControlError::new(format!(
                "{lost} pages of the guest could not be read at its last source and are lost; a guest \
                 with lost pages does not move, system_reset gives it whole memory"
            ))),
        }
    }

    /// Who is to be told of missing pages that the kernel finds.
    pub(crate) fn fault_notice(&self) -> FaultNotice {
        self.board.fault_notice()
    }

    /// Whether this host has what a guest needs of its processor.
    ///
    /// # Errors
    /// One line that names what it lacks.
    pub(crate) fn admits_processor(&self, needed: &[String]) -> Result<(), String> {
        self.board.admits(needed)
    }

    fn vcpu_reports(&mut self, number: u32, event: VcpuEvent) {
        match event {
            VcpuEvent::Reset(request) => self.guest_asks(request),
            VcpuEvent::Failed(reason) => {
                log::error!("vCPU {number}: {reason}");
                let _ = self.halt_guest(STOP_BOUND, STOP_BOUND);
                self.trouble = Some(format!("vCPU {number}: {reason}"));
                self.life.halt(RunState::InternalError);
                self.publish();
            }
        }
    }

    pub(crate) fn publish(&self) {
        self.shared.publish(self.life, self.trouble.iter().cloned().collect());
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
