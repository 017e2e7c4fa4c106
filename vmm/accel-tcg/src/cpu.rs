//! The architectural state of a hart, and what stops the flow of instructions.

use crate::csr::Csrs;
use crate::fpu::Flags;
use crate::memory_access::{Ram, RamPage};
use crate::mmu::{Mmu, Rules};
use accel::{Asked, Fence, GuestClock, PagePresence, VcpuHandle, VmExit};
use std::sync::Arc;
use umem_memory::GuestRam;

/// Privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    User = 0,
    Supervisor = 1,
}

/// An instruction did not end as usual; [`Cpu::event`] tells what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Halt;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The instruction traps.
    Trap { cause: u64, value: u64 },
    /// The machine has something to do first; the instruction has had no effect.
    Exit(VmExit),
    /// The instruction is complete, and the machine has something to do.
    Completed(VmExit),
    /// The instruction is complete, and has written where code was decoded from.
    CodeWritten,
}

/// Exception codes (RISC-V privileged specification, table of `scause` values).
pub(crate) mod cause {
    pub(crate) const FETCH_ACCESS: u64 = 1;
    pub(crate) const ILLEGAL: u64 = 2;
    pub(crate) const BREAKPOINT: u64 = 3;
    pub(crate) const LOAD_MISALIGNED: u64 = 4;
    pub(crate) const LOAD_ACCESS: u64 = 5;
    pub(crate) const STORE_MISALIGNED: u64 = 6;
    pub(crate) const STORE_ACCESS: u64 = 7;
    pub(crate) const USER_CALL: u64 = 8;
    pub(crate) const FETCH_PAGE: u64 = 12;
    pub(crate) const LOAD_PAGE: u64 = 13;
    pub(crate) const STORE_PAGE: u64 = 15;
    pub(crate) const INTERRUPT: u64 = 1 << 63;
}

/// What an LR left for the next SC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) page: RamPage,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// What the LR loaded.
    pub(crate) value: u64,
}

/// A load from a device that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceLoad {
    pub(crate) op: crate::decode::Op,
}

/// State of a hart.
pub(crate) struct Cpu {
    /// Integer registers; 32 takes what is written to `x0`. As long as a register number's type
    /// reaches, so that no index needs a check.
    pub(crate) x: [u64; 256],
    /// Float registers; singles are boxed.
    pub(crate) f: [u64; 32],
    pub(crate) pc: u64,
    pub(crate) mode: Mode,
    pub(crate) rounding: u8,
    pub(crate) flags: Flags,
    pub(crate) csr: Csrs,
    pub(crate) mmu: Mmu,
    pub(crate) event: Event,
    pub(crate) reservation: Option<Reservation>,
    /// Guest time of the timer interrupt; `u64::MAX`: none.
    pub(crate) timer: u64,
    /// Whether the timer was seen to be due.
    pub(crate) timer_due: bool,
    /// Instructions retired, up to the start of the current block.
    pub(crate) retired: u64,
    /// Value of `retired` at which the run loop looks around.
    pub(crate) poll_at: u64,
    /// Virtual addresses known to lead to decoded blocks belong to this number.
    pub(crate) jumps: u64,
    /// Decoded blocks checked against memory belong to this number.
    pub(crate) code_epoch: u64,
    /// Pages whose decoded code is stale.
    pub(crate) written_code: Vec<usize>,
    pub(crate) handle: VcpuHandle,
    /// The last of what others asked that was done.
    pub(crate) acknowledged: u64,
    pub(crate) clock: Arc<GuestClock>,
    pub(crate) id: u32,
}

impl Cpu {
    pub(crate) fn new(
        id: u32,
        handle: VcpuHandle,
        clock: Arc<GuestClock>,
        ram: GuestRam,
        presence: Option<Arc<dyn PagePresence>>,
    ) -> Self {
        Self {
            x: [0; 256],
            f: [0; 32],
            pc: 0,
            mode: Mode::Supervisor,
            rounding: 0,
            flags: Flags::NONE,
            csr: Csrs::at_start(),
            mmu: Mmu::new(Ram::new(ram), presence),
            event: Event::CodeWritten,
            reservation: None,
            timer: u64::MAX,
            timer_due: false,
            retired: 0,
            poll_at: 0,
            jumps: 1,
            code_epoch: 1,
            written_code: Vec::new(),
            handle,
            acknowledged: 0,
            clock,
            id,
        }
    }

    /// Stops at this instruction with a trap.
    #[cold]
    pub(crate) fn trap<T>(&mut self, cause: u64, value: u64) -> Result<T, Halt> {
        self.event = Event::Trap { cause, value };
        Err(Halt)
    }

    /// Stops at this instruction, which is not one, or not now.
    #[cold]
    pub(crate) fn illegal<T>(&mut self) -> Result<T, Halt> {
        self.trap(cause::ILLEGAL, 0)
    }

    /// Stops before this instruction.
    #[cold]
    pub(crate) fn exit<T>(&mut self, exit: VmExit) -> Result<T, Halt> {
        self.event = Event::Exit(exit);
        Err(Halt)
    }

    /// Stops after this instruction.
    #[cold]
    pub(crate) fn completed<T>(&mut self, exit: VmExit) -> Result<T, Halt> {
        self.event = Event::Completed(exit);
        Err(Halt)
    }

    /// Puts mode and permissions in force for data, after either has changed.
    pub(crate) fn rules_changed(&mut self) {
        self.mmu.set_rules(Rules {
            user: self.mode == Mode::User,
            sum: self.csr.sum(),
            mxr: self.csr.mxr(),
        });
    }

    /// Forgets which blocks virtual addresses lead to.
    pub(crate) fn forget_jumps(&mut self) {
        self.jumps += 1;
    }

    /// Forgets all translations.
    pub(crate) fn flush_translations(&mut self) {
        self.mmu.tlb.flush();
        self.forget_jumps();
    }

    /// Begins to run, from here on with nothing cached that it was asked to drop.
    pub(crate) fn enter(&mut self) {
        if self.handle.asks().enter(self.acknowledged) {
            self.do_what_is_asked();
        }
    }

    /// Ends to run.
    pub(crate) fn leave(&self) {
        self.handle.asks().leave(self.acknowledged);
    }

    /// Looks whether others ask for something.
    pub(crate) fn check_asks(&mut self) {
        if self.handle.asks().is_asked(self.acknowledged) {
            self.do_what_is_asked();
        }
    }

    #[cold]
    fn do_what_is_asked(&mut self) {
        let Asked { number, fence, revoked } = self.handle.asks().take();
        if let Some(log) = revoked {
            self.mmu.log_writes(log);
        }
        self.fence(fence);
        self.acknowledged = number;
        self.handle.asks().acknowledge(number);
    }

    /// Forgets translations, or has decoded code compared with memory.
    pub(crate) fn fence(&mut self, fence: Fence) {
        if fence.contains(Fence::TRANSLATIONS) {
            self.flush_translations();
        }
        if fence.contains(Fence::CODE) {
            self.recheck_code();
        }
    }

    /// Decoded code must be compared with memory before it runs again.
    pub(crate) fn recheck_code(&mut self) {
        self.code_epoch += 1;
        self.forget_jumps();
    }

    /// The state after reset, ready for a kernel.
    pub(crate) fn reset(&mut self, pc: u64, device_tree: u64) {
        self.x = [0; 256];
        self.x[10] = self.id.into();
        self.x[11] = device_tree;
        self.f = [0; 32];
        self.pc = pc;
        self.mode = Mode::Supervisor;
        self.rounding = 0;
        self.flags = Flags::NONE;
        self.csr = Csrs::at_start();
        self.reservation = None;
        self.timer = u64::MAX;
        self.timer_due = false;
        self.state_replaced();
    }

    /// To be called when registers that the MMU depends on were replaced as a whole.
    pub(crate) fn state_replaced(&mut self) {
        self.mmu.set_satp(self.csr.satp);
        self.rules_changed();
        self.flush_translations();
        self.recheck_code();
    }
}
