//! The one place that makes a VM out of its configuration.

use crate::console::SerialStreams;
use anyhow::Context as _;
use machine::{ConsoleBackend, ExitReason, VmConfig, VmControl, VmHandle};
use std::sync::Arc;

/// A running VM.
pub(crate) struct Running {
    handle: VmHandle,
    /// What its monitors hold.
    pub(crate) control: Arc<dyn VmControl>,
}

impl Running {
    /// Waits for its end.
    pub(crate) fn wait(&self) -> ExitReason {
        self.handle.wait()
    }
}

/// Starts the VM.
pub(crate) fn launch(config: VmConfig, serial: SerialStreams) -> anyhow::Result<Running> {
    let console = ConsoleBackend { output: serial.output, input: serial.input };
    let handle = VmHandle::launch(config, console).context("cannot start the VM")?;
    Ok(Running { control: Arc::new(handle.clone()), handle })
}
