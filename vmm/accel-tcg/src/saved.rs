//! The saved form of a hart.

use crate::cpu::{Cpu, Mode};
use crate::csr::{COUNTERS, Csrs, ENVIRONMENT, interrupt, is_satp_mode, sstatus};
use crate::fpu::Flags;
use serde::{Deserialize, Serialize};
use umem_state::{StateError, decode_body, encode_body};

const WHAT: &str = "hart";
/// Version of [`SavedHart`].
const VERSION: u32 = 1;

/// Everything that the guest can tell of its hart. Reservations are dropped, as a trap may do;
/// lines into the hart belong to whoever drives them, except the software interrupt's, which the
/// guest writes too.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedHart {
    version: u32,
    id: u32,
    x: Vec<u64>,
    f: Vec<u64>,
    pc: u64,
    supervisor: bool,
    rounding: u8,
    flags: u8,
    status: u64,
    sie: u64,
    software_interrupt: bool,
    stvec: u64,
    scounteren: u64,
    senvcfg: u64,
    sscratch: u64,
    sepc: u64,
    scause: u64,
    stval: u64,
    satp: u64,
    timer: Option<u64>,
    instret: u64,
}

pub(crate) fn save(cpu: &Cpu) -> Result<Vec<u8>, StateError> {
    let csr = &cpu.csr;
    let saved = SavedHart {
        version: VERSION,
        id: cpu.id,
        x: cpu.x[1..32].to_vec(),
        f: cpu.f.to_vec(),
        pc: cpu.pc,
        supervisor: cpu.mode == Mode::Supervisor,
        rounding: cpu.rounding,
        flags: cpu.flags.bits(),
        status: csr.status,
        sie: csr.sie,
        software_interrupt: cpu.handle.lines() & interrupt::SOFTWARE != 0,
        stvec: csr.stvec,
        scounteren: csr.scounteren,
        senvcfg: csr.senvcfg,
        sscratch: csr.sscratch,
        sepc: csr.sepc,
        scause: csr.scause,
        stval: csr.stval,
        satp: csr.satp,
        timer: (cpu.timer != u64::MAX).then_some(cpu.timer),
        instret: cpu.retired,
    };
    encode_body(WHAT, &saved)
}

impl SavedHart {
    /// The first value that no hart of ours can have.
    fn impossible(&self, id: u32) -> Option<String> {
        let checks = [
            ("id", u64::from(self.id), self.id == id),
            ("number of x registers", self.x.len() as u64, self.x.len() == 31),
            ("number of f registers", self.f.len() as u64, self.f.len() == 32),
            ("pc", self.pc, self.pc & 1 == 0),
            ("frm", self.rounding.into(), self.rounding < 8),
            ("fflags", self.flags.into(), self.flags < 0x20),
            ("sstatus", self.status, self.status & !sstatus::WRITABLE == 0),
            ("sie", self.sie, self.sie & !interrupt::ALL == 0),
            ("stvec", self.stvec, self.stvec & 2 == 0),
            ("scounteren", self.scounteren, self.scounteren & !COUNTERS == 0),
            ("senvcfg", self.senvcfg, self.senvcfg & !ENVIRONMENT == 0),
            ("sepc", self.sepc, self.sepc & 1 == 0),
            ("satp", self.satp, is_satp_mode(self.satp)),
            // No hart counts that far; room for what it goes on to count.
            ("instret", self.instret, self.instret < 1 << 63),
        ];
        let (name, value, _) = checks.into_iter().find(|(_, _, possible)| !possible)?;
        Some(format!("{name} cannot be {value:#x}"))
    }
}

pub(crate) fn restore(cpu: &mut Cpu, bytes: &[u8]) -> Result<(), StateError> {
    let saved: SavedHart = decode_body(WHAT, bytes)?;
    if saved.version != VERSION {
        let (what, found) = (WHAT.to_owned(), saved.version);
        return Err(StateError::Version { what, found, known: VERSION });
    }
    if let Some(reason) = saved.impossible(cpu.id) {
        return Err(StateError::refused(WHAT, reason));
    }
    cpu.reset(saved.pc, 0);
    cpu.x = [0; 256];
    for (register, value) in cpu.x[1..32].iter_mut().zip(&saved.x) {
        *register = *value;
    }
    for (register, value) in cpu.f.iter_mut().zip(&saved.f) {
        *register = *value;
    }
    cpu.mode = if saved.supervisor { Mode::Supervisor } else { Mode::User };
    cpu.rounding = saved.rounding;
    cpu.flags = Flags::from_bits(saved.flags);
    cpu.csr = Csrs {
        status: saved.status,
        sie: saved.sie,
        stvec: saved.stvec,
        scounteren: saved.scounteren,
        senvcfg: saved.senvcfg,
        sscratch: saved.sscratch,
        sepc: saved.sepc,
        scause: saved.scause,
        stval: saved.stval,
        satp: saved.satp,
    };
    cpu.timer = saved.timer.unwrap_or(u64::MAX);
    cpu.retired = saved.instret;
    cpu.poll_at = saved.instret;
    cpu.handle.set_line(accel::InterruptKind::Software, saved.software_interrupt);
    cpu.state_replaced();
    Ok(())
}
