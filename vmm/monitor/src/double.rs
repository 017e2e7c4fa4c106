//! A VM that only writes down what it is asked to do.

use crossbeam_channel::{Receiver, Sender, unbounded};
use machine::{
    BalloonStatus, BlockStatus, ControlError, CpuStatus, MemoryStatus, MigrateRequest,
    MigrationCapabilities, MigrationParameters, NetworkStatus, Owner, RunState, VmControl, VmEvent,
    VmStatus,
};
use std::sync::Mutex;
use umem_link::MigrationStatus;

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) listeners: Mutex<Vec<Sender<VmEvent>>>,
    pub(crate) migration: Mutex<Option<MigrationStatus>>,
    pub(crate) parameters: Mutex<MigrationParameters>,
    pub(crate) capabilities: Mutex<MigrationCapabilities>,
    pub(crate) refuse: Option<&'static str>,
}

impl Recorder {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn tell(&self, event: &VmEvent) {
        self.listeners.lock().unwrap().retain(|listener| listener.send(event.clone()).is_ok());
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.lock().unwrap().len()
    }

    fn note(&self, call: impl Into<String>) -> Result<(), ControlError> {
        self.calls.lock().unwrap().push(call.into());
        self.refuse.map_or(Ok(()), |why| Err(ControlError::new(why)))
    }
}

impl VmControl for Recorder {
    fn status(&self) -> VmStatus {
        VmStatus { status: RunState::Inmigrate, running: false, notes: vec!["no owner yet".into()] }
    }

    fn cpus(&self) -> Vec<CpuStatus> {
        vec![CpuStatus {
            index: 0,
            target: "riscv64",
            state: "waiting for page 7".into(),
            thread_id: Some(42),
        }]
    }

    fn registers(&self, number: u32) -> Result<String, ControlError> {
        self.note(format!("registers {number}")).map(|()| "pc 80000000".to_owned())
    }

    fn block(&self) -> Vec<BlockStatus> {
        vec![BlockStatus {
            device: "virtio0".into(),
            file: "/disk.raw".into(),
            size: 4096,
            read_only: true,
            locked: false,
        }]
    }

    fn memory(&self) -> MemoryStatus {
        MemoryStatus {
            blocks: vec![("ram".into(), 0x8000_0000, 1 << 30)],
            page_bytes: 4096,
            kind: "anonymous".into(),
            host_page_bytes: 4096,
            collapsed: Some((3, 4)),
            pages_present: 5,
            pages_total: 262_144,
        }
    }

    fn networks(&self) -> Vec<NetworkStatus> {
        vec![NetworkStatus {
            id: "n".into(),
            tap: "tap0".into(),
            mac: "52:54:00:12:34:56".into(),
            up: true,
            received: 1,
            sent: 2,
            dropped: 3,
        }]
    }

    fn balloon(&self) -> Option<BalloonStatus> {
        Some(BalloonStatus { actual: 512 << 20, target: 256 << 20, given_back: 8 << 20 })
    }

    fn set_balloon(&self, bytes: u64) -> Result<(), ControlError> {
        self.note(format!("balloon {bytes}"))
    }

    fn announce_self(&self) -> Result<(), ControlError> {
        self.note("announce_self")
    }

    fn migration(&self) -> Option<MigrationStatus> {
        self.migration.lock().unwrap().clone()
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.note("stop")
    }

    fn cont(&self) -> Result<(), ControlError> {
        self.note("cont")
    }

    fn system_reset(&self) -> Result<(), ControlError> {
        self.note("system_reset")
    }

    fn system_powerdown(&self) -> Result<(), ControlError> {
        self.note("system_powerdown")
    }

    fn quit(&self) {
        let _ = self.note("quit");
    }

    fn migrate(&self, request: MigrateRequest) -> Result<(), ControlError> {
        let MigrateRequest { uri, mode, background, move_background, .. } = &request;
        let (forward, backward) = (request.prefault_forward, request.prefault_backward);
        let prefault = match request.prefault_adaptive {
            true => "adaptive".to_owned(),
            false => format!("{forward} {backward}"),
        };
        self.note(format!("migrate {uri} {mode:?} b={background} m={move_background} {prefault}"))
    }

    fn migrate_incoming(&self, uri: &str) -> Result<(), ControlError> {
        self.note(format!("incoming {uri}"))
    }

    fn migrate_cancel(&self) -> Result<(), ControlError> {
        self.note("cancel")
    }

    fn migrate_resolve(&self, owner: Owner) -> Result<(), ControlError> {
        self.note(format!("resolve {owner:?}"))
    }

    fn migrate_start_postcopy(&self) -> Result<(), ControlError> {
        self.note("start postcopy")
    }

    fn migrate_pause(&self) -> Result<(), ControlError> {
        self.note("pause")
    }

    fn migrate_resume(&self) -> Result<(), ControlError> {
        self.note("resume")
    }

    fn parameters(&self) -> MigrationParameters {
        *self.parameters.lock().unwrap()
    }

    fn set_parameters(&self, parameters: MigrationParameters) -> Result<(), ControlError> {
        self.note("parameters")?;
        *self.parameters.lock().unwrap() = parameters;
        Ok(())
    }

    fn capabilities(&self) -> MigrationCapabilities {
        *self.capabilities.lock().unwrap()
    }

    fn set_capabilities(&self, capabilities: MigrationCapabilities) -> Result<(), ControlError> {
        self.note("capabilities")?;
        *self.capabilities.lock().unwrap() = capabilities;
        Ok(())
    }

    fn events(&self) -> Receiver<VmEvent> {
        let (sender, receiver) = unbounded();
        self.listeners.lock().unwrap().push(sender);
        receiver
    }
}
