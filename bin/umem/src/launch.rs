//! The one place that makes a VM out of its configuration.

use crate::console::SerialStreams;
use machine::{ConsoleBackend, VmConfig, VmControl, VmHandle};
use std::sync::Arc;

pub(crate) use machine::ExitReason as Ended;

/// A running VM.
pub(crate) struct Running {
    pub(crate) control: Arc<dyn VmControl>,
    /// Waits for its end.
    pub(crate) wait: Box<dyn FnOnce() -> Ended>,
}

/// Starts the VM.
pub(crate) fn launch(config: VmConfig, serial: SerialStreams) -> anyhow::Result<Running> {
    let console = ConsoleBackend { output: serial.output, input: serial.input };
    let vm = VmHandle::launch(config, console)?;
    let control = Arc::new(vm.clone());
    Ok(Running { control, wait: Box::new(move || vm.wait()) })
}
