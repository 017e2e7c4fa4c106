//! The RISC-V board, `virt`: software harts, PLIC, real-time clock, and the SBI as its firmware.

mod fdt;
mod hart;
mod layout;
mod loader;
mod power;
mod sbi;

use super::{Board, BootFiles, Limits, Window};
use crate::config::{FaultPath, VmConfig};
use crate::core::SharedCore;
use crate::hardware::{Builder, Hardware};
use crate::memory::GuestPages;
use crate::requests::{Requests, ResetRequest};
use crate::vm::VmError;
use accel::{GuestClock, InterruptKind, MachineClock, PagePresence, RiscvVcpu as _, VcpuHandle};
use accel_tcg::{HartConfig, HartWrites};
use devices::{GoldfishRtc, InterruptLine, Plic, PlicConfig, SifiveTest, TestRequest, Uart};
use fdt::TreeConfig;
use hart::Hart;
use power::PowerSwitch;
use sbi::{HartLink, Sbi};
use std::sync::{Arc, Mutex, PoisonError};
use umem_memory::{DirtySource, GuestAddress, GuestRam, RamBlockSpec};

#[cfg(test)]
pub(crate) use layout::RAM_BASE;

pub(super) const LIMITS: Limits = Limits {
    most_ram: layout::MAX_RAM,
    most_vcpus: layout::MAX_HARTS,
    fault_path: FaultPath::Vcpu,
    has_cpu_options: false,
};

/// One block.
pub(super) fn ram_blocks(bytes: u64) -> Vec<RamBlockSpec> {
    let (name, guest_address) = (layout::RAM_NAME.to_owned(), GuestAddress(layout::RAM_BASE));
    vec![RamBlockSpec { name, guest_address, bytes }]
}

/// The board.
pub(super) struct Virt {
    memory_bytes: u64,
    pages: GuestPages,
    /// Whether the harts find missing pages by themselves.
    finds_pages: bool,
    clock: Arc<GuestClock>,
    plic: Arc<Plic>,
    links: Arc<[HartLink]>,
    /// The hart that boots, once there are harts.
    first: Option<Arc<Mutex<Hart>>>,
}

impl Virt {
    pub(super) fn new(config: &VmConfig, pages: &GuestPages) -> Self {
        let link = |hart| {
            let power = PowerSwitch::new(layout::power_on(hart));
            HartLink { handle: VcpuHandle::new(), power }
        };
        let links: Arc<[HartLink]> = (0..config.vcpus).map(link).collect();
        let plic = Plic::new(PlicConfig::supervisors(links.iter().map(|link| {
            let hart = link.handle.clone();
            let line = move |high| hart.set_line(InterruptKind::External, high);
            Arc::new(line) as Arc<dyn InterruptLine>
        })));
        Self {
            memory_bytes: config.memory_bytes,
            pages: pages.clone(),
            finds_pages: config.fault_path() == FaultPath::Vcpu,
            clock: Arc::new(GuestClock::new()),
            plic,
            links,
            first: None,
        }
    }

    fn line(&self, interrupt: u32) -> Arc<dyn InterruptLine> {
        self.plic.line(interrupt)
    }
}

impl Board for Virt {
    fn name(&self) -> &'static str {
        layout::NAME
    }

    fn clock(&self) -> Arc<dyn MachineClock> {
        self.clock.clone()
    }

    fn build(
        &self,
        builder: &mut Builder,
        output: Box<dyn std::io::Write + Send>,
        requests: Requests,
    ) -> Result<Arc<Uart>, VmError> {
        builder.part("plic", layout::PLIC, self.plic.clone())?;
        let line = self.line(layout::UART.interrupt);
        let serial = Uart::new("uart", line, output).map_err(VmError::Thread)?;
        builder.part("uart", layout::UART.window, serial.clone())?;
        let rtc = GoldfishRtc::new(self.line(layout::RTC.interrupt)).map_err(VmError::Thread)?;
        builder.part("rtc", layout::RTC.window, Arc::new(rtc))?;
        let test = SifiveTest::new(Box::new(move |request| {
            requests(match request {
                TestRequest::Reset => ResetRequest::Reboot,
                TestRequest::PowerOff => ResetRequest::Shutdown,
                TestRequest::Fail { code } => {
                    log::warn!("the guest powers off with failure {code}");
                    ResetRequest::Shutdown
                }
            });
        }));
        builder.map("test", layout::TEST, Arc::new(test))?;
        Ok(serial)
    }

    fn virtio(&self, number: u32) -> Option<(Window, Arc<dyn InterruptLine>)> {
        let slot = (number < layout::VIRTIO_SLOTS).then(|| layout::virtio(number))?;
        Some((slot.window, self.line(slot.interrupt)))
    }

    fn cores(&mut self, hardware: &Hardware) -> Result<Vec<SharedCore>, VmError> {
        let sbi = Sbi::new(self.links.clone());
        let presence = || Arc::new(self.pages.clone()) as Arc<dyn PagePresence>;
        let make = |(id, link): (u32, &HartLink)| {
            let vcpu = accel_tcg::Hart::new(HartConfig {
                id,
                handle: link.handle.clone(),
                clock: self.clock.clone(),
                ram: self.pages.ram().clone(),
                presence: self.finds_pages.then(presence),
            });
            let (clock, serial) = (self.clock.clone(), hardware.serial.clone());
            let power = link.power.clone();
            Arc::new(Mutex::new(Hart::new(id as usize, vcpu, power, sbi.clone(), clock, serial)))
        };
        let harts: Vec<_> = (0..).zip(self.links.iter()).map(make).collect();
        self.first = harts.first().cloned();
        Ok(harts.into_iter().map(|hart| hart as SharedCore).collect())
    }

    fn writes(&self) -> Arc<dyn DirtySource> {
        let harts = (0..).zip(self.links.iter().map(|link| link.handle.clone())).collect();
        Arc::new(HartWrites::new(self.pages.ram().layout().total_pages(), harts))
    }

    fn boot(&mut self, ram: &GuestRam, files: &BootFiles<'_>) -> Result<(), VmError> {
        let tree = TreeConfig {
            memory_bytes: self.memory_bytes,
            harts: u32::try_from(self.links.len()).unwrap_or(u32::MAX),
            isa: accel_tcg::ISA,
            isa_extensions: accel_tcg::ISA_EXTENSIONS,
            mmu_type: accel_tcg::MMU_TYPE,
            command_line: files.command_line,
            initrd: None,
        };
        let entry = loader::load(ram, files, tree).map_err(|error| VmError::Load(error.into()))?;
        if let Some(hart) = &self.first {
            let mut hart = hart.lock().unwrap_or_else(PoisonError::into_inner);
            hart.vcpu.boot(entry.pc, entry.device_tree);
        }
        Ok(())
    }
}
