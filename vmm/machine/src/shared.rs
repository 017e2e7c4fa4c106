//! What may be read of a VM without asking its driver.

use crate::collapse::Collapse;
use crate::control::{
    BalloonStatus, BlockStatus, ControlError, CpuStatus, MemoryStatus, RunState, VmEvent, VmStatus,
};
use crate::events::EventHub;
use crate::exit::ExitLatch;
use crate::gate::Activity;
use crate::hardware::{BalloonView, DiskView, Hardware, NetworkView};
use crate::lifecycle::{Lifecycle, Ownership};
use crate::memory::GuestPages;
use crate::migration::MigrationDesk;
use crate::throttle::Throttle;
use crate::vcpu::VcpuView;
use std::sync::{Mutex, PoisonError};

/// Bytes of a page as balloons count.
const BALLOON_PAGE: u64 = 4096;

/// The part of a VM that any thread may read at any time.
pub(crate) struct Shared {
    /// How the VM ends.
    pub exit: ExitLatch,
    /// Who listens.
    pub events: EventHub,
    /// The newest migration and what may be done to it.
    pub migration: MigrationDesk,
    /// The joining of small pages after a postcopy.
    pub(crate) collapse: Collapse,
    /// Time that an outgoing migration takes from the vCPUs.
    pub(crate) throttle: Throttle,
    pub(crate) pages: GuestPages,
    /// The guest's architecture.
    target: &'static str,
    pub(crate) vcpus: Vec<VcpuView>,
    pub(crate) disks: Vec<DiskView>,
    pub(crate) networks: Vec<NetworkView>,
    pub(crate) balloon: Option<BalloonView>,
    life: Mutex<Snapshot>,
}

#[derive(Clone)]
struct Snapshot {
    life: Lifecycle,
    /// Why the guest was stopped by an error, and other things worth knowing.
    notes: Vec<String>,
}

impl Shared {
    /// A VM that nobody knows yet.
    pub(crate) fn new(
        life: Lifecycle,
        target: &'static str,
        pages: GuestPages,
        vcpus: Vec<VcpuView>,
        throttle: Throttle,
        hardware: &Hardware,
    ) -> Self {
        Self {
            exit: ExitLatch::default(),
            events: EventHub::default(),
            migration: MigrationDesk::default(),
            collapse: Collapse::default(),
            throttle,
            target,
            pages,
            vcpus,
            disks: hardware.disk_views(),
            networks: hardware.networks.clone(),
            balloon: hardware.balloon.clone(),
            life: Mutex::new(Snapshot { life, notes: Vec::new() }),
        }
    }

    /// The driver's side: what the VM is now. Listeners hear of stops and resumes.
    pub(crate) fn publish(&self, life: Lifecycle, notes: Vec<String>) {
        let before = {
            let mut slot = self.life.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, Snapshot { life, notes })
        };
        let (was, is) =
            (before.life.state() == RunState::Running, life.state() == RunState::Running);
        match (was, is) {
            (true, false) => self.events.tell(&VmEvent::Stop),
            (false, true) => self.events.tell(&VmEvent::Resume),
            _ => {}
        }
    }

    /// Whether the guest is this process's, and nobody else's.
    pub(crate) fn owns(&self) -> bool {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.life.ownership() == Ownership::Owner
    }

    /// For `info status`.
    pub(crate) fn status(&self) -> VmStatus {
        let Snapshot { life, mut notes } =
            self.life.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match life.ownership() {
            Ownership::HandoverUnknown => notes.push(
                "handed over, but not yet known whether the destination runs the guest; asking"
                    .into(),
            ),
            Ownership::HandedOver => notes.push(
                "the guest runs at the destination; pages are kept here until all have arrived"
                    .into(),
            ),
            Ownership::Released => {
                notes.push("the guest runs at the destination and needs nothing from here".into());
            }
            Ownership::Owner if life.state() == RunState::Postmigrate => {
                notes.push("the guest was saved to a file; cont lets it go on here".into());
            }
            Ownership::Owner | Ownership::Migrating | Ownership::Incoming => {}
        }
        let waiting = self.pages.plane().map(|plane| plane.waiting()).unwrap_or_default();
        if let Some(first) = waiting.first() {
            let others = match waiting.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            notes.push(format!("{first}{others} waited for (info migrate)"));
        }
        let status = life.state();
        VmStatus { status, running: status == RunState::Running, notes }
    }

    /// For `info cpus`.
    pub(crate) fn cpus(&self) -> Vec<CpuStatus> {
        let describe = |vcpu: &VcpuView| CpuStatus {
            index: vcpu.number(),
            target: self.target,
            state: match vcpu.activity() {
                Activity::Stopped => "stopped".into(),
                Activity::Running => "running".into(),
                Activity::Halted => "halted".into(),
                Activity::WaitsFor(page) => format!("waiting for {page}"),
                Activity::Ended => "ended".into(),
            },
            thread_id: vcpu.thread_id(),
        };
        self.vcpus.iter().map(describe).collect()
    }

    /// For `info block`.
    pub(crate) fn block(&self) -> Vec<BlockStatus> {
        self.disks.iter().map(|disk| disk()).collect()
    }

    /// For `info balloon`.
    pub(crate) fn balloon(&self) -> Option<BalloonStatus> {
        let BalloonView { balloon, returned } = self.balloon.as_ref()?;
        let bytes = |pages: u32| self.ram_without(pages);
        Some(BalloonStatus {
            actual: bytes(balloon.actual()),
            target: bytes(balloon.target()),
            given_back: returned.bytes(),
        })
    }

    /// Bytes of RAM but for so many pages of the balloon's.
    pub(crate) fn ram_without(&self, pages: u32) -> u64 {
        let total = self.pages.ram().layout().total_bytes();
        total.saturating_sub(u64::from(pages) * BALLOON_PAGE)
    }

    /// Asks the guest to keep so many bytes.
    pub(crate) fn set_balloon(&self, bytes: u64) -> Result<(), ControlError> {
        let none = "the guest has no balloon; start the VM with -device virtio-balloon-device";
        let BalloonView { balloon, .. } =
            self.balloon.as_ref().ok_or_else(|| ControlError::new(none))?;
        if bytes == 0 {
            return Err(ControlError::new("a guest cannot keep 0 bytes; ask for more"));
        }
        let total = self.pages.ram().layout().total_bytes();
        let pages = total.saturating_sub(bytes) / BALLOON_PAGE;
        balloon.set_target(u32::try_from(pages).unwrap_or(u32::MAX));
        Ok(())
    }

    /// For `info memory`.
    pub(crate) fn memory(&self) -> MemoryStatus {
        let layout = self.pages.ram().layout();
        let total = layout.total_pages();
        let present = self.pages.plane().map_or(total, |plane| plane.table().counts().present);
        let blocks = layout.blocks().iter();
        MemoryStatus {
            blocks: blocks
                .map(|block| (block.name.clone(), block.guest_address.0, block.bytes()))
                .collect(),
            page_bytes: layout.page_size().bytes(),
            kind: self.pages.ram().kind().to_string(),
            host_page_bytes: self.pages.ram().host_page().bytes(),
            collapsed: self.collapse.counts(),
            pages_present: present,
            pages_total: total,
        }
    }
}
