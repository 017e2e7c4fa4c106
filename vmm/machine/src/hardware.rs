//! Everything of the machine that is not a vCPU: RAM, clock, bus and devices, built from the board's
//! table, saved and loaded as one package.

use crate::board::{self, Slot};
use crate::config::VmConfig;
use crate::console::ConsoleBackend;
use crate::disk::Disk;
use crate::memory::GuestPages;
use crate::sbi::ResetRequest;
use crate::vm::VmError;
use accel::{GuestClock, InterruptKind, SavedClock, VcpuHandle};
use devices::{
    Bus, GoldfishRtc, InterruptLine, Lifecycle, MmioDevice, Plic, PlicConfig, SifiveTest,
    TestRequest, Uart, VirtioBlk, VirtioConsole, VirtioMmio, VirtioRng,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};
use umem_state::{Package, PackageBuilder, SaveRestore, StateError};

/// A device and the name of its section in the package.
struct Part {
    name: String,
    device: Arc<dyn Component>,
}

/// What the machine asks of every device, whatever its saved form.
trait Component: Lifecycle {
    fn add(&self, name: &str, package: &mut PackageBuilder) -> Result<(), StateError>;
    fn take(&self, name: &str, package: &mut Package) -> Result<(), StateError>;
}

impl<D: Lifecycle + SaveRestore> Component for D {
    fn add(&self, name: &str, package: &mut PackageBuilder) -> Result<(), StateError> {
        package.add(name, self)
    }

    fn take(&self, name: &str, package: &mut Package) -> Result<(), StateError> {
        package.take(name, self)
    }
}
