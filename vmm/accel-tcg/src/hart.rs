//! The run loop of a hart, and its face to the machine.

use crate::blocks::{Blocks, build_crossing};
use crate::cpu::{Cpu, DeviceLoad, Event, Halt};
use crate::csr;
use crate::decode::is_compressed;
use crate::execute::{self, Flow};
use crate::memory_access::{OFFSET_MASK, PAGE_BYTES};
use crate::mmu::{Access, FetchPage};
use crate::saved;
use accel::{Fence, GuestClock, PagePresence, RiscvVcpu, Vcpu, VcpuHandle, VmEntry, VmExit};
use std::fmt::Write as _;
use std::sync::Arc;
use umem_memory::{GuestAddress, GuestRam};
use umem_state::StateError;

/// Instructions between two looks at the clock and at what other threads want: about 10 µs.
const POLL_INTERVAL: u64 = 2048;
/// What a trap counts for in [`POLL_INTERVAL`].
const TRAP_COST: u64 = 32;

/// What a hart is made of.
pub struct HartConfig {
    /// Its number.
    pub id: u32,
    /// Through which other threads reach it.
    pub handle: VcpuHandle,
    /// The guest's clock.
    pub clock: Arc<GuestClock>,
    /// The guest's RAM.
    pub ram: GuestRam,
    /// Which pages are here; `None`: all, or the kernel finds out.
    pub presence: Option<Arc<dyn PagePresence>>,
}

/// What the last exit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    Load(DeviceLoad),
    Sbi,
}

/// A RISC-V hart in software.
pub struct Hart {
    pub(crate) cpu: Cpu,
    blocks: Blocks,
    pending: Pending,
    /// `retired` at creation or at the last restore.
    retired_before: u64,
}

impl Hart {
    /// A hart that waits for [`RiscvVcpu::boot`] or [`Vcpu::restore`].
    #[must_use]
    pub fn new(config: HartConfig) -> Self {
        let HartConfig { id, handle, clock, ram, presence } = config;
        let mut cpu = Cpu::new(id, handle, clock, ram, presence);
        cpu.reset(0, 0);
        Self { cpu, blocks: Blocks::new(), pending: Pending::Nothing, retired_before: 0 }
    }

    /// Hands over the answer to the last exit.
    fn enter(&mut self, entry: VmEntry) {
        match (std::mem::replace(&mut self.pending, Pending::Nothing), entry) {
            (Pending::Load(load), VmEntry::MmioRead(value)) => {
                execute::complete_load(&mut self.cpu, &load.op, value);
                self.cpu.pc = self.cpu.pc.wrapping_add(load.op.length.into());
                self.cpu.retired += 1;
            }
            (Pending::Sbi, VmEntry::Sbi { error, value }) => {
                self.cpu.x[10] = error as u64;
                self.cpu.x[11] = value;
            }
            // A load without an answer is executed again.
            _ => {}
        }
    }

    /// Looks at the clock and at what other threads want.
    fn poll(&mut self) -> Option<VmExit> {
        let cpu = &mut self.cpu;
        cpu.poll_at = cpu.retired + POLL_INTERVAL;
        if cpu.handle.take_attention() {
            cpu.check_asks();
            if cpu.handle.take_kick() {
                return Some(VmExit::Kicked);
            }
        }
        cpu.check_timer();
        cpu.take_interrupt();
        None
    }

    fn run_on(&mut self) -> VmExit {
        if self.cpu.handle.take_kick() {
            return VmExit::Kicked;
        }
        if let Some(exit) = self.poll() {
            return exit;
        }
        loop {
            let exit = match execute::run(&mut self.cpu, &self.blocks) {
                Flow::Next => None,
                Flow::Check => {
                    self.cpu.take_interrupt();
                    // Blocks of system instructions alone must not keep others waiting.
                    if self.cpu.retired >= self.cpu.poll_at { self.poll() } else { None }
                }
                Flow::Poll => self.poll(),
                Flow::Halted => self.halted(),
                Flow::Unknown => match self.resolve() {
                    Ok(Flow::Halted) | Err(Halt) => self.halted(),
                    Ok(_) if self.cpu.retired >= self.cpu.poll_at => self.poll(),
                    Ok(_) => None,
                },
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    fn fetch_page(&mut self, address: u64) -> Result<FetchPage, Halt> {
        match self.cpu.mmu.fetch(address) {
            Ok(page) => Ok(page),
            Err(fault) => self.cpu.fault(address, Access::Fetch, fault),
        }
    }

    /// Finds the block at the program counter, for the next round, or executes the one instruction
    /// there if it lies in two pages.
    fn resolve(&mut self) -> Result<Flow, Halt> {
        let pc = self.cpu.pc;
        let found = self.fetch_page(pc)?;
        let physical = found.physical | pc & OFFSET_MASK;
        // Before decoding: from now on stores to the page are noticed.
        self.cpu.mmu.mark_code(physical);
        let cpu = &self.cpu;
        let (stamp, epoch) = (cpu.jumps, cpu.code_epoch);
        if self.blocks.link(pc, cpu.mode, stamp, physical, found.page, epoch) {
            return Ok(Flow::Next);
        }
        let first: u16 = found.page.load(pc);
        let behind = pc.wrapping_add(2);
        debug_assert!(!is_compressed(first) && pc & OFFSET_MASK == PAGE_BYTES - 2);
        let second: u16 = self.fetch_page(behind)?.page.load(behind);
        let block = build_crossing(first, second);
        let flow = execute::run_once(&mut self.cpu, &block);
        if flow == Flow::Check {
            self.cpu.take_interrupt();
        }
        Ok(flow)
    }

    /// Deals with what stopped the last instruction; the exit, if it is the machine's to deal with.
    fn halted(&mut self) -> Option<VmExit> {
        match self.cpu.event {
            Event::Trap { cause, value } => {
                self.cpu.take_trap(cause, value);
                // A trap retires nothing: a loop of traps alone must not keep others waiting.
                self.cpu.poll_at = self.cpu.poll_at.saturating_sub(TRAP_COST);
                (self.cpu.retired >= self.cpu.poll_at).then(|| self.poll()).flatten()
            }
            Event::CodeWritten => {
                for number in std::mem::take(&mut self.cpu.written_code) {
                    self.drop_code(number);
                }
                self.cpu.forget_jumps();
                (self.cpu.retired >= self.cpu.poll_at).then(|| self.poll()).flatten()
            }
            Event::Completed(exit) => {
                if matches!(exit, VmExit::Sbi { .. }) {
                    self.pending = Pending::Sbi;
                }
                Some(exit)
            }
            Event::Exit(exit) => {
                if matches!(exit, VmExit::MmioRead { .. }) {
                    match self.current_op() {
                        Ok(op) => self.pending = Pending::Load(DeviceLoad { op }),
                        Err(Halt) => return self.halted(),
                    }
                }
                Some(exit)
            }
        }
    }

    fn drop_code(&mut self, number: usize) {
        if let Some(physical) = self.cpu.mmu.clear_code(number) {
            self.blocks.drop_page(physical);
        }
    }

    /// Decodes the instruction at the program counter by itself.
    fn current_op(&mut self) -> Result<crate::decode::Op, Halt> {
        let pc = self.cpu.pc;
        let first: u16 = self.fetch_page(pc)?.page.load(pc);
        if is_compressed(first) {
            return Ok(crate::decode::decode_compressed(first));
        }
        let behind = pc.wrapping_add(2);
        let second: u16 = self.fetch_page(behind)?.page.load(behind);
        Ok(crate::decode::decode(u32::from(first) | u32::from(second) << 16))
    }
}

impl Vcpu for Hart {
    fn run(&mut self, entry: VmEntry) -> VmExit {
        self.cpu.enter();
        self.enter(entry);
        let exit = self.run_on();
        self.cpu.leave();
        exit
    }

    fn handle(&self) -> VcpuHandle {
        self.cpu.handle.clone()
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        saved::save(&self.cpu)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        saved::restore(&mut self.cpu, bytes)?;
        // The code of another guest, or of a time long gone.
        self.blocks = Blocks::new();
        self.pending = Pending::Nothing;
        self.retired_before = self.cpu.retired;
        Ok(())
    }

    /// Where it is, its stack and its trap handler, and what its translations lead to.
    fn working_set(&self) -> Vec<GuestAddress> {
        let cpu = &self.cpu;
        let [_, _, stack, ..] = cpu.x;
        let touched = cpu.mmu.working_set(&[cpu.pc, stack, cpu.csr.stvec]);
        touched.into_iter().map(GuestAddress).collect()
    }

    fn registers(&self) -> String {
        let cpu = &self.cpu;
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "pc {:#018x}\nmode {:?}", cpu.pc, cpu.mode);
        for (index, value) in cpu.x.iter().take(32).enumerate() {
            let _ = writeln!(text, "x{index} {value:#018x}");
        }
        let csr = &cpu.csr;
        for (name, value) in [
            ("sstatus", csr.status),
            ("sie", csr.sie),
            ("sip", cpu.pending()),
            ("stvec", csr.stvec),
            ("sscratch", csr.sscratch),
            ("sepc", csr.sepc),
            ("scause", csr.scause),
            ("stval", csr.stval),
            ("satp", csr.satp),
            ("timer", cpu.timer),
            ("instret", cpu.retired),
        ] {
            let _ = writeln!(text, "{name} {value:#018x}");
        }
        for (index, value) in cpu.f.iter().enumerate() {
            let _ = writeln!(text, "f{index} {value:#018x}");
        }
        text
    }

    fn instructions(&self) -> u64 {
        self.cpu.retired - self.retired_before
    }
}

impl RiscvVcpu for Hart {
    fn set_timer(&mut self, ticks: u64) {
        self.cpu.timer = ticks;
        self.cpu.check_timer();
    }

    fn boot(&mut self, pc: u64, device_tree: u64) {
        self.cpu.reset(pc, device_tree);
        // Linux reads `time` in user mode and relies on the firmware below it having allowed that.
        self.cpu.csr.scounteren = csr::COUNTERS;
        self.pending = Pending::Nothing;
    }

    fn fence(&mut self, fence: Fence) {
        self.cpu.fence(fence);
    }
}
