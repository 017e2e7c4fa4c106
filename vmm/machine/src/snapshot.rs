//! Guests saved to a file and loaded from one.

use crate::control::{ControlError, MigrateMode, MigrateRequest};
use crate::incoming::Arriving;
use crate::outgoing::Outgoing;
use crate::sessions;
use crate::vm::Vm;
use accel::PagePresence;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use umem_link::{
    LoadOptions, Prefault, SaveOptions, SnapshotDestination, SnapshotLoad, SnapshotSave,
    SnapshotSource,
};
use umem_memory::PageIndex;

impl SnapshotSource for Outgoing {
    fn saved(&self) {
        self.must("saved", Vm::saved);
    }
}

impl SnapshotDestination for Arriving {
    fn page_lost(&self, page: PageIndex, why: &str) {
        let why = why.to_owned();
        self.tell("a page is lost", move |vm| vm.page_lost(page, &why));
    }
}

impl Vm {
    /// Starts to save the guest.
    ///
    /// # Errors
    /// What is wrong with the request or the moment.
    pub(crate) fn save_to_file(
        &mut self,
        path: &Path,
        request: &MigrateRequest,
    ) -> Result<(), ControlError> {
        if request.mode != MigrateMode::Precopy {
            return Err(ControlError::new(
                "a file takes a guest whole, there is no postcopy to it: use migrate file:PATH",
            ));
        }
        let outgoing = self.outgoing(request)?;
        let downtime_limit = self.shared.migration.parameters().downtime_limit;
        let options = SaveOptions {
            downtime_limit: Duration::from_millis(downtime_limit),
            ..SaveOptions::default()
        };
        let layout = self.hardware.pages.ram().layout().clone();
        let save = SnapshotSave::start(path, Arc::new(outgoing), layout, options)
            .map_err(|error| ControlError(format!("cannot start to save: {error}")))?;
        self.shared.migration.set_outgoing(sessions::Outgoing::File(save));
        Ok(())
    }

    /// Starts to load a guest.
    ///
    /// # Errors
    /// When the system has no thread left; all else shows in the migration's status.
    pub(crate) fn load_from_file(
        &mut self,
        path: &Path,
        arriving: Arriving,
    ) -> Result<(), ControlError> {
        let options = LoadOptions {
            postcopy: self.config.postcopy,
            prefault: Prefault::default(),
            background: self.shared.migration.parameters().postcopy_background,
        };
        let layout = self.hardware.pages.ram().layout().clone();
        let load = SnapshotLoad::start(path, Arc::new(arriving), layout, options)
            .map_err(|error| ControlError(format!("cannot start to load: {error}")))?;
        self.shared.migration.set_incoming(sessions::Arrival::File(load));
        Ok(())
    }

    /// The guest's snapshot is whole. It stays stopped; its disks are anybody's until it goes on.
    pub(crate) fn saved(&mut self) {
        self.frozen = None;
        self.stopped_at = None;
        self.life.saved();
        self.publish();
    }

    /// A page of the guest cannot be had from its file.
    pub(crate) fn page_lost(&mut self, page: PageIndex, why: &str) {
        // Reset meanwhile, or found by another thread.
        if self.hardware.pages.is_present(page) {
            return;
        }
        self.trouble = Some(format!(
            "the guest was paused, {page} of its memory cannot be had: {why}; cont reads it again and \
             goes on"
        ));
        if let Err(error) = self.stop() {
            log::warn!("{error}");
        }
        self.publish();
    }
}
