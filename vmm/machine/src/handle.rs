//! The VM as everybody else holds it: hands work to the driver, reads what can be read without it.

use crate::config::VmConfig;
use crate::console::ConsoleBackend;
use crate::control::{
    BalloonStatus, BlockStatus, ControlError, CpuStatus, MemoryStatus, MigrateRequest,
    MigrationCapabilities, MigrationParameters, NetworkStatus, Owner, VmControl, VmEvent, VmStatus,
};
use crate::driver::{self, Driver};
use crate::exit::{ExitLatch, ExitReason};
use crate::shared::Shared;
use crate::vm::{Vm, VmError};
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::time::Duration;
use umem_link::MigrationStatus;

/// Longest wait for an orderly end.
const QUIT_BOUND: Duration = Duration::from_secs(3);

/// A running VM. Cheap to clone; the VM ends by [`VmControl::quit`] or when the guest powers off.
#[derive(Clone)]
pub struct VmHandle {
    driver: Driver<Vm>,
    shared: Arc<Shared>,
}

impl VmHandle {
    /// Builds the VM, loads its kernel or begins to listen, and starts it unless told otherwise.
    ///
    /// # Errors
    /// What is wrong with the configuration or this host.
    pub fn launch(config: VmConfig, console: ConsoleBackend) -> Result<Self, VmError> {
        let (driver, inbox) = driver::channel();
        let mut vm = Vm::new(config, console, driver.clone())?;
        let shared = vm.shared();
        vm.begin()?;
        let exit = shared.exit.clone();
        std::thread::Builder::new()
            .name("driver".to_owned())
            .spawn(move || {
                // A driver that panics must not leave a VM that nobody can end.
                let _end = EndOnDrop(exit);
                inbox.serve(&mut vm, Vm::has_ended);
            })
            .map_err(VmError::Thread)?;
        Ok(Self { driver, shared })
    }

    /// Waits until the VM has ended; why.
    #[must_use]
    pub fn wait(&self) -> ExitReason {
        self.shared.exit.wait()
    }
}

struct EndOnDrop(ExitLatch);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set(ExitReason::Failed("the VM's driver ended unexpectedly".to_owned()));
    }
}

impl VmControl for VmHandle {
    fn status(&self) -> VmStatus {
        self.shared.status()
    }

    fn cpus(&self) -> Vec<CpuStatus> {
        self.shared.cpus()
    }

    fn registers(&self, number: u32) -> Result<String, ControlError> {
        self.driver.call(move |vm| vm.registers(number))?
    }

    fn block(&self) -> Vec<BlockStatus> {
        self.shared.block()
    }

    fn memory(&self) -> MemoryStatus {
        self.shared.memory()
    }

    fn networks(&self) -> Vec<NetworkStatus> {
        self.shared.networks.iter().map(|network| network()).collect()
    }

    fn balloon(&self) -> Option<BalloonStatus> {
        self.shared.balloon()
    }

    fn set_balloon(&self, bytes: u64) -> Result<(), ControlError> {
        self.shared.set_balloon(bytes)
    }

    fn announce_self(&self) -> Result<(), ControlError> {
        self.driver.call(|vm| vm.announce())?
    }

    fn migration(&self) -> Option<MigrationStatus> {
        self.shared.migration.status()
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.driver.call(Vm::stop)?
    }

    fn cont(&self) -> Result<(), ControlError> {
        self.driver.call(Vm::cont)?
    }

    fn system_reset(&self) -> Result<(), ControlError> {
        self.driver.call(Vm::reset)?
    }

    fn system_powerdown(&self) -> Result<(), ControlError> {
        self.driver.call(Vm::power_down)?
    }

    fn quit(&self) {
        // Whatever the driver is at, the VM ends.
        let _ = self.driver.must_within(QUIT_BOUND, Vm::quit);
        self.shared.exit.set(ExitReason::Quit);
    }

    fn migrate(&self, request: MigrateRequest) -> Result<(), ControlError> {
        self.driver.call(move |vm| vm.migrate(&request))?
    }

    fn migrate_incoming(&self, uri: &str) -> Result<(), ControlError> {
        let uri = uri.to_owned();
        self.driver.call(move |vm| vm.listen(&uri))?
    }

    fn migrate_cancel(&self) -> Result<(), ControlError> {
        self.shared.migration.cancel()
    }

    fn migrate_start_postcopy(&self) -> Result<(), ControlError> {
        self.shared.migration.start_postcopy()
    }

    fn migrate_pause(&self) -> Result<(), ControlError> {
        self.shared.migration.pause()
    }

    fn migrate_resume(&self) -> Result<(), ControlError> {
        self.shared.migration.resume()
    }

    fn migrate_resolve(&self, owner: Owner) -> Result<(), ControlError> {
        self.shared.migration.resolve(owner)
    }

    fn parameters(&self) -> MigrationParameters {
        self.shared.migration.parameters()
    }

    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError> {
        self.shared.migration.set_parameters(parameters)
    }

    fn capabilities(&self) -> MigrationCapabilities {
        self.shared.migration.capabilities()
    }

    fn set_capabilities(&self, capabilities: MigrationCapabilities) -> Result<(), ControlError> {
        self.shared.migration.set_capabilities(capabilities)
    }

    fn events(&self) -> Receiver<VmEvent> {
        self.shared.events.listen()
    }
}
