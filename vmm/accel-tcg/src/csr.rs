//! Control and status registers.

use crate::cpu::{Cpu, Mode};
use crate::fpu::Flags;
use crate::mmu::mode;
use accel::InterruptKind;

/// Fields of `sstatus`.
pub(crate) mod sstatus {
    pub(crate) const SIE: u64 = 1 << 1;
    pub(crate) const SPIE: u64 = 1 << 5;
    pub(crate) const SPP: u64 = 1 << 8;
    pub(crate) const FS: u64 = 3 << 13;
    pub(crate) const SUM: u64 = 1 << 18;
    pub(crate) const MXR: u64 = 1 << 19;
    /// User mode has 64 bits, and always has.
    pub(crate) const UXL_64: u64 = 2 << 32;
    pub(crate) const SD: u64 = 1 << 63;
    /// What can be written.
    pub(crate) const WRITABLE: u64 = SIE | SPIE | SPP | FS | SUM | MXR;
}

/// Bits of `sie` and `sip`.
pub(crate) mod interrupt {
    pub(crate) const SOFTWARE: u64 = 1 << 1;
    pub(crate) const TIMER: u64 = 1 << 5;
    pub(crate) const EXTERNAL: u64 = 1 << 9;
    pub(crate) const ALL: u64 = SOFTWARE | TIMER | EXTERNAL;
}

/// `scounteren`: CY, TM, IR.
pub(crate) const COUNTERS: u64 = 7;
/// `senvcfg`: FIOM.
pub(crate) const ENVIRONMENT: u64 = 1;

/// Numbers of the registers.
mod number {
    pub(super) const FFLAGS: u32 = 0x001;
    pub(super) const FRM: u32 = 0x002;
    pub(super) const FCSR: u32 = 0x003;
    pub(super) const SSTATUS: u32 = 0x100;
    pub(super) const SIE: u32 = 0x104;
    pub(super) const STVEC: u32 = 0x105;
    pub(super) const SCOUNTEREN: u32 = 0x106;
    pub(super) const SENVCFG: u32 = 0x10a;
    pub(super) const SSCRATCH: u32 = 0x140;
    pub(super) const SEPC: u32 = 0x141;
    pub(super) const SCAUSE: u32 = 0x142;
    pub(super) const STVAL: u32 = 0x143;
    pub(super) const SIP: u32 = 0x144;
    pub(super) const SATP: u32 = 0x180;
    pub(super) const CYCLE: u32 = 0xc00;
    pub(super) const TIME: u32 = 0xc01;
    pub(super) const INSTRET: u32 = 0xc02;
}

/// The supervisor's registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Csrs {
    /// The writable fields of `sstatus`.
    pub(crate) status: u64,
    pub(crate) sie: u64,
    pub(crate) stvec: u64,
    pub(crate) scounteren: u64,
    pub(crate) senvcfg: u64,
    pub(crate) sscratch: u64,
    pub(crate) sepc: u64,
    pub(crate) scause: u64,
    pub(crate) stval: u64,
    pub(crate) satp: u64,
}

impl Csrs {
    /// As a hart starts. Kernels count on firmware having opened the counters to users, as OpenSBI does:
    /// Linux's vDSO reads `time` and nothing in the kernel sets its bit.
    pub(crate) fn at_start() -> Self {
        Self { scounteren: COUNTERS, ..Self::default() }
    }
    pub(crate) fn sum(&self) -> bool {
        self.status & sstatus::SUM != 0
    }
    pub(crate) fn mxr(&self) -> bool {
        self.status & sstatus::MXR != 0
    }
    /// Whether float instructions are on.
    #[inline]
    pub(crate) fn floats(&self) -> bool {
        self.status & sstatus::FS != 0
    }
}

/// Whether `satp` may hold this mode.
pub(crate) fn is_satp_mode(satp: u64) -> bool {
    matches!(satp >> 60, mode::BARE | mode::SV39 | mode::SV48)
}

impl Cpu {
    /// Marks the float registers changed.
    #[inline]
    pub(crate) fn floats_dirty(&mut self) {
        self.csr.status |= sstatus::FS;
    }

    fn counter(&self, bit: u32, value: u64) -> Option<u64> {
        (self.mode == Mode::Supervisor || self.csr.scounteren >> bit & 1 != 0).then_some(value)
    }

    /// Whether the current mode may touch a register, by its number alone.
    pub(crate) fn may_access_csr(&self, number: u32, write: bool) -> bool {
        let read_only = number >> 10 == 3;
        (number >> 8 & 3) <= self.mode as u32 && !(read_only && write)
    }

    /// A register's value; `None` when there is none, or not now. `retired` is the number of
    /// instructions before this one.
    pub(crate) fn read_csr(&mut self, number: u32, retired: u64) -> Option<u64> {
        use number::*;
        let csr = &self.csr;
        Some(match number {
            FFLAGS | FRM | FCSR if !csr.floats() => return None,
            FFLAGS => self.flags.bits().into(),
            FRM => self.rounding.into(),
            FCSR => u64::from(self.flags.bits()) | u64::from(self.rounding) << 5,
            SSTATUS => {
                let dirty = csr.status & sstatus::FS == sstatus::FS;
                csr.status | sstatus::UXL_64 | if dirty { sstatus::SD } else { 0 }
            }
            SIE => csr.sie,
            STVEC => csr.stvec,
            SCOUNTEREN => csr.scounteren,
            SENVCFG => csr.senvcfg,
            SSCRATCH => csr.sscratch,
            SEPC => csr.sepc,
            SCAUSE => csr.scause,
            STVAL => csr.stval,
            SIP => {
                self.check_timer();
                self.pending()
            }
            SATP => csr.satp,
            CYCLE => return self.counter(0, retired),
            TIME => return self.counter(1, self.clock.now()),
            INSTRET => return self.counter(2, retired),
            _ => return None,
        })
    }

    /// Writes the only bit of `sip` that can be written, the software interrupt's; whether it was set.
    /// Others raise it meanwhile, so it is read and written in one step.
    pub(crate) fn swap_software_interrupt(&mut self, high: bool) -> bool {
        self.handle.swap_line(InterruptKind::Software, high)
    }

    /// Writes a register that [`Cpu::read_csr`] knows, but for `sip`.
    pub(crate) fn write_csr(&mut self, number: u32, value: u64) {
        use number::*;
        match number {
            FFLAGS => self.flags = Flags::from_bits((value & 0x1f) as u8),
            FRM => self.rounding = (value & 7) as u8,
            FCSR => {
                self.flags = Flags::from_bits((value & 0x1f) as u8);
                self.rounding = (value >> 5 & 7) as u8;
            }
            SSTATUS => {
                self.csr.status = value & sstatus::WRITABLE;
                self.rules_changed();
            }
            SIE => self.csr.sie = value & interrupt::ALL,
            STVEC if value & 3 < 2 => self.csr.stvec = value,
            SCOUNTEREN => self.csr.scounteren = value & COUNTERS,
            SENVCFG => self.csr.senvcfg = value & ENVIRONMENT,
            SSCRATCH => self.csr.sscratch = value,
            SEPC => self.csr.sepc = value & !1,
            SCAUSE => self.csr.scause = value,
            STVAL => self.csr.stval = value,
            SATP if is_satp_mode(value) => {
                self.csr.satp = value;
                if self.mmu.set_satp(value) {
                    self.forget_jumps();
                }
            }
            _ => {}
        }
        if matches!(number, FFLAGS | FRM | FCSR) {
            self.floats_dirty();
        }
    }
}
