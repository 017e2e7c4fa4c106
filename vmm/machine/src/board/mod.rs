//! The boards: what a machine has beside the devices that all have, one for each accelerator.
//!
//! ```text
//!  mod.rs     the table of boards, and what each gives the machine
//!  riscv/     accel=tcg: QEMU's `virt`, with the SBI as its firmware
//!  x86/       accel=kvm: a PC without legacy, with KVM's interrupt controllers and timers
//! ```

mod riscv;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
pub(crate) use riscv::RAM_BASE as RISCV_RAM_BASE;

use crate::config::{AcceleratorKind, FaultPath, VmConfig};
use crate::core::SharedCore;
use crate::hardware::{Builder, Hardware};
use crate::memory::GuestPages;
use crate::requests::Requests;
use crate::vm::VmError;
use accel::MachineClock;
use devices::{InterruptLine, Uart};
use std::path::Path;
use std::sync::Arc;
use umem_memory::{DirtySource, GuestRam, RamBlockSpec};

/// Smallest RAM that a board can have, bytes.
pub(crate) const MIN_RAM: u64 = 4 << 20;

/// A window of guest physical addresses, or of I/O ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a board can be made of.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Largest RAM, bytes.
    pub most_ram: u64,
    /// Largest number of vCPUs.
    pub most_vcpus: u32,
    /// How it finds missing pages where nothing else is said.
    pub fault_path: FaultPath,
    /// Whether it has a processor whose features can be chosen (`-cpu`).
    pub has_cpu_options: bool,
}

/// Who is told of a missing page that the kernel finds while a guest comes in by postcopy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultNotice {
    /// A reader thread, of those in user mode at least: all that a vCPU in software runs into.
    Reader,
    /// A reader thread, of all: a vCPU runs into them in the kernel.
    KernelReader,
    /// The thread that runs into it, by an error.
    Thread,
}

/// What to boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootFiles<'a> {
    /// Kernel.
    pub kernel: &'a Path,
    /// Initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Kernel command line.
    pub command_line: &'a str,
}

impl BootFiles<'_> {
    /// Whether the files can be read.
    ///
    /// # Errors
    /// Names the one that cannot.
    pub(crate) fn readable(&self) -> Result<(), VmError> {
        let initrd = self.initrd.map(|path| ("initial RAM disk", path));
        for (what, path) in [("kernel", self.kernel)].into_iter().chain(initrd) {
            std::fs::File::open(path).map_err(|error| {
                VmError::Config(format!("cannot read {what} {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// What a board adds to the devices that all have, and who runs its guest's instructions.
pub(crate) trait Board: Send {
    /// Name and architecture, as both ends of a migration compare them.
    fn name(&self) -> &'static str;

    /// The guest's clock.
    fn clock(&self) -> Arc<dyn MachineClock>;

    /// Puts the devices that only this board has into the machine; its serial port, which prints to
    /// `output`.
    ///
    /// # Errors
    /// When the system has no thread left.
    fn build(
        &self,
        builder: &mut Builder,
        output: Box<dyn std::io::Write + Send>,
        requests: Requests,
    ) -> Result<Arc<Uart>, VmError>;

    /// Where a virtio-mmio device of this number lies, and its interrupt line.
    fn virtio(&self, number: u32) -> Option<(Window, Arc<dyn InterruptLine>)>;

    /// The vCPUs, in their reset state. Called once.
    ///
    /// # Errors
    /// When the accelerator refuses one.
    fn cores(&mut self, hardware: &Hardware) -> Result<Vec<SharedCore>, VmError>;

    /// What the vCPUs write.
    fn writes(&self) -> Arc<dyn DirtySource>;

    /// Loads the kernel into RAM that is all zero and has the first vCPU begin there. vCPUs stand still.
    ///
    /// # Errors
    /// What is wrong with the files.
    fn boot(&mut self, ram: &GuestRam, files: &BootFiles<'_>) -> Result<(), VmError>;

    /// Who is to be told of missing pages that the kernel finds.
    fn fault_notice(&self) -> FaultNotice {
        FaultNotice::Reader
    }

    /// What the guest needs of its processor that not every host has, by name.
    fn processor(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether this host has what a guest needs of its processor.
    ///
    /// # Errors
    /// One line that names all that it lacks.
    fn admits(&self, needed: &[String]) -> Result<(), String> {
        let _ = needed;
        Ok(())
    }
}

/// What a board of this accelerator can be made of.
pub(crate) const fn limits(accelerator: AcceleratorKind) -> &'static Limits {
    match accelerator {
        AcceleratorKind::Tcg => &riscv::LIMITS,
        #[cfg(target_arch = "x86_64")]
        AcceleratorKind::Kvm => &x86::LIMITS,
        #[cfg(not(target_arch = "x86_64"))]
        AcceleratorKind::Kvm => &riscv::LIMITS,
    }
}

/// Whether this host has the accelerator.
///
/// # Errors
/// One line that says why not, and what to do.
pub(crate) fn works(accelerator: AcceleratorKind) -> Result<(), String> {
    match accelerator {
        AcceleratorKind::Tcg => Ok(()),
        #[cfg(target_arch = "x86_64")]
        AcceleratorKind::Kvm => x86::works(),
        #[cfg(not(target_arch = "x86_64"))]
        AcceleratorKind::Kvm => Err(NO_KVM.to_owned()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
const NO_KVM: &str = "accel=kvm needs an x86-64 host in this version; use accel=tcg";

/// RAM as the board has it, in the order of its addresses.
pub(crate) fn ram_blocks(config: &VmConfig) -> Vec<RamBlockSpec> {
    match config.accelerator {
        AcceleratorKind::Tcg => riscv::ram_blocks(config.memory_bytes),
        #[cfg(target_arch = "x86_64")]
        AcceleratorKind::Kvm => x86::ram_blocks(config.memory_bytes),
        #[cfg(not(target_arch = "x86_64"))]
        AcceleratorKind::Kvm => Vec::new(),
    }
}

/// Makes the board that the configuration names.
///
/// # Errors
/// When this host does not have the accelerator, or it refuses.
pub(crate) fn create(config: &VmConfig, pages: &GuestPages) -> Result<Box<dyn Board>, VmError> {
    match config.accelerator {
        AcceleratorKind::Tcg => Ok(Box::new(riscv::Virt::new(config, pages))),
        #[cfg(target_arch = "x86_64")]
        AcceleratorKind::Kvm => x86::create(config, pages),
        #[cfg(not(target_arch = "x86_64"))]
        AcceleratorKind::Kvm => Err(VmError::Config(NO_KVM.to_owned())),
    }
}
