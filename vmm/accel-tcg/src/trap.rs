//! Taking traps and interrupts, and returning from them.

use crate::cpu::{Cpu, Mode, cause};
use crate::csr::{interrupt, sstatus};

impl Cpu {
    /// Enters the supervisor's trap handler; `pc` is at the instruction that traps, or the one to
    /// go on with after an interrupt.
    pub(crate) fn take_trap(&mut self, cause: u64, value: u64) {
        let csr = &mut self.csr;
        csr.sepc = self.pc;
        csr.scause = cause;
        csr.stval = value;
        let enabled = csr.status & sstatus::SIE != 0;
        csr.status &= !(sstatus::SIE | sstatus::SPIE | sstatus::SPP);
        if enabled {
            csr.status |= sstatus::SPIE;
        }
        if self.mode == Mode::Supervisor {
            csr.status |= sstatus::SPP;
        }
        let base = csr.stvec & !3;
        let vectored = csr.stvec & 1 != 0 && cause & cause::INTERRUPT != 0;
        let code = cause & !cause::INTERRUPT;
        self.pc = if vectored { base.wrapping_add(4 * code) } else { base };
        self.mode = Mode::Supervisor;
        self.rules_changed();
    }

    /// SRET, in supervisor mode.
    pub(crate) fn return_from_trap(&mut self) {
        let csr = &mut self.csr;
        let user = csr.status & sstatus::SPP == 0;
        let enable = csr.status & sstatus::SPIE != 0;
        csr.status &= !(sstatus::SPP | sstatus::SIE);
        csr.status |= sstatus::SPIE;
        if enable {
            csr.status |= sstatus::SIE;
        }
        self.pc = csr.sepc;
        self.mode = if user { Mode::User } else { Mode::Supervisor };
        self.rules_changed();
    }

    /// `sip` as the guest sees it.
    pub(crate) fn pending(&self) -> u64 {
        let timer = if self.timer_due { interrupt::TIMER } else { 0 };
        self.handle.lines() & interrupt::ALL | timer
    }

    /// Compares the timer with the clock.
    pub(crate) fn check_timer(&mut self) {
        self.timer_due = self.timer != u64::MAX && self.clock.now() >= self.timer;
    }

    /// Takes the most urgent interrupt that is pending and enabled; whether there was one.
    pub(crate) fn take_interrupt(&mut self) -> bool {
        if self.mode == Mode::Supervisor && self.csr.status & sstatus::SIE == 0 {
            return false;
        }
        let ready = self.pending() & self.csr.sie;
        let order = [interrupt::EXTERNAL, interrupt::SOFTWARE, interrupt::TIMER];
        let Some(first) = order.into_iter().find(|bit| ready & bit != 0) else {
            return false;
        };
        self.take_trap(cause::INTERRUPT | u64::from(first.trailing_zeros()), 0);
        true
    }
}
