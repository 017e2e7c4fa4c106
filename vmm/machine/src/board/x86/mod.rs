//! The x86-64 board: KVM's processors, interrupt controllers and timers, a serial port, ACPI's way to switch
//! off, and virtio-mmio devices as on the RISC-V board.

mod chips;
mod processor;

use super::{Board, BootFiles, FaultNotice, Limits, Window};
use crate::config::{FaultPath, VmConfig};
use crate::core::SharedCore;
use crate::hardware::{Builder, Hardware};
use crate::memory::GuestPages;
use crate::requests::{Requests, ResetRequest};
use crate::vm::VmError;
use accel::{MachineClock, VcpuHandle};
use accel_kvm::{CpuOptions, Host, KvmError, KvmOptions, KvmVm};
use chips::Chips;
use devices::{AcpiPower, AcpiPowerConfig, InterruptLine, KeyboardReset, PowerRequest, Uart};
use processor::Processor;
use std::sync::{Arc, Mutex, PoisonError};
use umem_memory::{DirtySource, GuestRam, RamBlockSpec};
use x86_boot::{VirtioSlot, map};

/// Name of the board, as both ends of a migration compare it.
const NAME: &str = "virt x86_64";

const NO_VCPU_FAULTS: &str = "-postcopy-fault vcpu: KVM of this kernel does not tell a vCPU which page it misses \
                              (KVM_EXIT_MEMORY_FAULT with an address); use -postcopy-fault uffd";

pub(super) const LIMITS: Limits = Limits {
    most_ram: 256 << 30,
    most_vcpus: 64,
    fault_path: FaultPath::Uffd,
    has_cpu_options: true,
};

/// Below and above the hole under 4 GiB.
pub(super) fn ram_blocks(bytes: u64) -> Vec<RamBlockSpec> {
    map::ram_blocks(bytes)
}

/// Whether this host has KVM.
pub(super) fn works() -> Result<(), String> {
    Host::open().map(drop).map_err(|error| error.to_string())
}

/// Makes the board.
pub(super) fn create(config: &VmConfig, pages: &GuestPages) -> Result<Box<dyn Board>, VmError> {
    Ok(Box::new(Pc::new(config, pages)?))
}

fn refused(error: KvmError) -> VmError {
    VmError::Accelerator(Box::new(error))
}

/// The board.
struct Pc {
    vm: KvmVm,
    vcpus: u32,
    /// Slots of virtio transports that have a device.
    virtio: u32,
    fault_notice: FaultNotice,
    /// The vCPU that boots, once there are vCPUs.
    first: Option<Arc<Mutex<Processor>>>,
}

impl Pc {
    fn new(config: &VmConfig, pages: &GuestPages) -> Result<Self, VmError> {
        let cpu = config.cpu.clone().unwrap_or_default();
        let cpu = CpuOptions { async_page_faults: cpu.async_page_faults, disabled: cpu.without };
        let options = KvmOptions { cpu, ..KvmOptions::default() };
        let host = Host::open().map_err(refused)?;
        let fault_notice = match config.fault_path() {
            FaultPath::Uffd => FaultNotice::KernelReader,
            FaultPath::Vcpu if host.capabilities().missing_page_exits => FaultNotice::Thread,
            FaultPath::Vcpu => return Err(VmError::Config(NO_VCPU_FAULTS.to_owned())),
        };
        let vm = KvmVm::new(&host, pages.ram().clone(), config.vcpus, &options).map_err(refused)?;
        let virtio = u32::try_from(config.virtio_devices()).unwrap_or(u32::MAX);
        Ok(Self { vm, vcpus: config.vcpus, virtio, fault_notice, first: None })
    }

    fn line(&self, number: u32) -> Arc<dyn InterruptLine> {
        let vm = self.vm.clone();
        Arc::new(move |high| vm.set_line(number, high))
    }
}

impl Board for Pc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn clock(&self) -> Arc<dyn MachineClock> {
        self.vm.clock()
    }

    fn build(
        &self,
        builder: &mut Builder,
        output: Box<dyn std::io::Write + Send>,
        requests: Requests,
    ) -> Result<Arc<Uart>, VmError> {
        // Before any device, whose restored lines may drive them.
        builder.state("chips", Arc::new(Chips(self.vm.chips())));
        let ports = |base: u16, bytes| Window { base: base.into(), bytes };
        let serial =
            Uart::new("uart", self.line(map::COM1_GSI), output).map_err(VmError::Thread)?;
        builder.map_ports("uart", ports(map::COM1, map::COM1_PORTS), serial.clone())?;
        builder.state("uart", serial.clone());
        let config =
            AcpiPowerConfig { off_type: map::SLEEP_TYPE_OFF, reset_value: map::RESET_VALUE };
        let asked = requests.clone();
        let power = AcpiPower::new(
            config,
            Box::new(move |request| {
                asked(match request {
                    PowerRequest::PowerOff => ResetRequest::Shutdown,
                    PowerRequest::Reset => ResetRequest::Reboot,
                });
            }),
        );
        let window = ports(map::SLEEP_CONTROL, AcpiPower::BYTES);
        builder.map_ports("acpi-power", window, Arc::new(power))?;
        let keyboard = KeyboardReset::new(Box::new(move || requests(ResetRequest::Reboot)));
        let window = ports(map::KEYBOARD_COMMAND, KeyboardReset::BYTES);
        builder.map_ports("keyboard-reset", window, Arc::new(keyboard))?;
        Ok(serial)
    }

    fn virtio(&self, number: u32) -> Option<(Window, Arc<dyn InterruptLine>)> {
        let slot = VirtioSlot::new(number)?;
        let window = Window { base: slot.base().0, bytes: map::VIRTIO_MMIO_BYTES };
        Some((window, self.line(slot.gsi())))
    }

    fn cores(&mut self, _: &Hardware) -> Result<Vec<SharedCore>, VmError> {
        let make = |number| {
            let vcpu = self.vm.vcpu(number, VcpuHandle::new()).map_err(refused)?;
            Ok(Arc::new(Mutex::new(Processor(vcpu))))
        };
        let processors = (0..self.vcpus).map(make).collect::<Result<Vec<_>, VmError>>()?;
        self.first = processors.first().cloned();
        Ok(processors.into_iter().map(|processor| processor as SharedCore).collect())
    }

    fn writes(&self) -> Arc<dyn DirtySource> {
        self.vm.writes()
    }

    fn boot(&mut self, ram: &GuestRam, files: &BootFiles<'_>) -> Result<(), VmError> {
        let BootFiles { kernel, initrd, command_line } = *files;
        let files = x86_boot::BootFiles { kernel, initrd, command_line };
        let board = x86_boot::Board {
            processors: u8::try_from(self.vcpus).unwrap_or(u8::MAX),
            virtio: (0..self.virtio).map_while(VirtioSlot::new).collect(),
        };
        let start =
            x86_boot::load(ram, &files, &board).map_err(|error| VmError::Load(error.into()))?;
        if let Some(first) = &self.first {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            let registers = x86_boot::registers(&start);
            first.0.start(&registers, |reset| x86_boot::special_registers(&start, reset))?;
        }
        Ok(())
    }

    fn fault_notice(&self) -> FaultNotice {
        self.fault_notice
    }

    fn processor(&self) -> Vec<String> {
        self.vm.processor()
    }

    fn admits(&self, needed: &[String]) -> Result<(), String> {
        self.vm.admits(needed)
    }
}
