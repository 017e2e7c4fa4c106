//! Probes: a few instructions that a supervisor runs in a chosen mode and address space until they
//! trap, and what it sees then.
//!
//! The supervisor is a fixed program. For each entry of a table it writes the entry's instructions
//! into a code page, sets page table entries, satp and sstatus, fills all registers with one value
//! and returns into the code; its trap handler writes an entry of a log and goes on with the next.
//!
//! ```text
//! BASE            M-mode start (QEMU only), S-mode start, handlers, context
//! CODE            page that holds the probe's instructions
//! SCRATCH         page to load from and to store to
//! TABLE_3..0      page tables; TABLE_2 is the Sv39 root, TABLE_3 the Sv48 root
//! PROBES, log     entries
//! ```

use crate::asm::{Assembler, write_csr};
use crate::program::BASE;

/// The supervisor's start.
pub(crate) const SUPERVISOR: u64 = BASE + 0x400;
const CONTEXT: u64 = BASE + 0xf00;
/// Page of the probe's instructions.
pub(crate) const CODE: u64 = BASE + 0x1000;
/// Page for data.
pub(crate) const SCRATCH: u64 = BASE + 0x2000;
/// What registers hold by default: every 12-bit offset from it stays off the page tables.
pub(crate) const DATA: u64 = SCRATCH + 0x7f0;
const TABLE_3: u64 = BASE + 0x3000;
const TABLE_2: u64 = BASE + 0x4000;
const TABLE_1: u64 = BASE + 0x5000;
const TABLE_0: u64 = BASE + 0x6000;
const PROBES: u64 = BASE + 0x7000;
const UART: i32 = 0x1000_0000;
const TEST_DEVICE: i32 = 0x10_0000;
const POWER_OFF: i32 = 0x5555;

/// `satp` for three and four levels.
pub(crate) const SV39: u64 = 8 << 60 | TABLE_2 >> 12;
/// `satp` for four levels.
pub(crate) const SV48: u64 = 9 << 60 | TABLE_3 >> 12;
/// Address translated by the entries under test, under Sv39 and, with all four, under Sv48.
pub(crate) const TESTED_39: u64 = 64 << 30;
/// As [`TESTED_39`], through the root entry under test.
pub(crate) const TESTED_48: u64 = 1 << 39 | TESTED_39;
/// User-mode alias of [`BASE`].
pub(crate) const USER: u64 = 65 << 30;

const SLOTS: [u64; 4] = [TABLE_3 + 8, TABLE_2 + 64 * 8, TABLE_1, TABLE_0];

/// Page table entry bits.
pub(crate) mod pte {
    pub(crate) const V: u64 = 1;
    pub(crate) const R: u64 = 2;
    pub(crate) const W: u64 = 4;
    pub(crate) const X: u64 = 8;
    pub(crate) const U: u64 = 16;
    pub(crate) const G: u64 = 32;
    pub(crate) const A: u64 = 64;
    pub(crate) const D: u64 = 128;

    /// An entry for a physical address.
    pub(crate) const fn to(address: u64, bits: u64) -> u64 {
        address >> 12 << 10 | bits
    }
}

/// One probe.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) code: [u32; 4],
    pub(crate) satp: u64,
    pub(crate) sstatus: u64,
    /// Entries under test: of the Sv48 root, the Sv39 root, and the two levels below.
    pub(crate) tables: [u64; 4],
    pub(crate) pc: u64,
    /// What all registers hold.
    pub(crate) value: u64,
}

/// `ebreak`
const EBREAK: u32 = 0x0010_0073;
/// SPP: the probe runs in supervisor mode.
pub(crate) const SUPERVISOR_MODE: u64 = 1 << 8;
/// FS: initial.
pub(crate) const FLOAT_INITIAL: u64 = 1 << 13;
const ENTRY_BYTES: u64 = 11 * 8;
const LOG_BYTES: u64 = 6 * 8;

impl Probe {
    /// Instructions, ended by EBREAK, without translation, in supervisor mode.
    pub(crate) fn new(name: impl Into<String>, instructions: &[u32]) -> Self {
        let mut code = [EBREAK; 4];
        code[..instructions.len()].copy_from_slice(instructions);
        Self {
            name: name.into(),
            code,
            satp: 0,
            sstatus: SUPERVISOR_MODE | FLOAT_INITIAL,
            tables: Self::links(),
            pc: CODE,
            value: DATA,
        }
    }

    /// Entries that lead down to the last level.
    pub(crate) fn links() -> [u64; 4] {
        [TABLE_2, TABLE_1, TABLE_0, SCRATCH].map(|table| pte::to(table, pte::V))
    }

    /// In user mode, through the alias.
    pub(crate) fn in_user_mode(mut self) -> Self {
        self.sstatus &= !SUPERVISOR_MODE;
        self.pc = self.pc - BASE + USER;
        if self.satp == 0 {
            self.satp = SV39;
        }
        self
    }

    fn encode(&self) -> Vec<u8> {
        let code = [0, 2].map(|i| u64::from(self.code[i]) | u64::from(self.code[i + 1]) << 32);
        // The leaf under test is the one that an access may change.
        let leaf = self.tables.iter().position(|entry| entry & 0xf > 1).unwrap_or(3);
        let rest = [self.pc, self.value, SLOTS[leaf]];
        let head = [code[0], code[1], self.satp, self.sstatus];
        let words = head.iter().chain(&self.tables).chain(&rest);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// What the supervisor saw when a probe trapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) cause: u64,
    pub(crate) pc: u64,
    pub(crate) value: u64,
    pub(crate) a1: u64,
    pub(crate) sstatus: u64,
    /// The leaf entry under test, afterwards.
    pub(crate) leaf: u64,
}

impl Observation {
    fn decode(bytes: &[u8]) -> Self {
        let word =
            |index: usize| u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap());
        Self {
            cause: word(0),
            pc: word(1),
            value: word(2),
            a1: word(3),
            sstatus: word(4),
            leaf: word(5),
        }
    }
}

fn log_address(count: usize) -> u64 {
    PROBES + count as u64 * ENTRY_BYTES
}

fn log_end(count: usize) -> u64 {
    log_address(count) + count as u64 * LOG_BYTES
}

/// Memory from [`BASE`] on, for a table of probes; both starts, room for the log.
pub(crate) fn image(probes: &[Probe]) -> Vec<u8> {
    let count = probes.len();
    let mut memory = vec![0; (log_end(count) - BASE) as usize];
    let mut put = |address: u64, bytes: &[u8]| {
        let offset = (address - BASE) as usize;
        memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    let machine = words_to_bytes(&machine_mode(count));
    assert!(BASE + machine.len() as u64 <= SUPERVISOR);
    put(BASE, &machine);
    let supervisor = words_to_bytes(&supervisor());
    assert!(SUPERVISOR + supervisor.len() as u64 <= CONTEXT);
    put(SUPERVISOR, &supervisor);
    for (slot, value) in [PROBES, log_address(count), log_address(count)].into_iter().enumerate() {
        put(CONTEXT + slot as u64 * 8, &value.to_le_bytes());
    }
    let all = pte::V | pte::R | pte::W | pte::X | pte::A | pte::D;
    for (address, entry) in [
        (TABLE_2 + 2 * 8, pte::to(BASE, all | pte::G)),
        (TABLE_2 + 65 * 8, pte::to(BASE, all | pte::U)),
        (TABLE_3, pte::to(TABLE_2, pte::V)),
    ] {
        put(address, &entry.to_le_bytes());
    }
    let pattern: Vec<u8> = (0..4096u32).map(|index| (index % 251) as u8).collect();
    put(SCRATCH, &pattern);
    for (index, probe) in probes.iter().enumerate() {
        put(PROBES + index as u64 * ENTRY_BYTES, &probe.encode());
    }
    memory
}

/// The observations in memory after a run.
pub(crate) fn observations(memory: &[u8], count: usize) -> Vec<Observation> {
    let log = (log_address(count) - BASE) as usize..(log_end(count) - BASE) as usize;
    decode_log(&memory[log])
}

/// The observations of a log by itself.
pub(crate) fn decode_log(log: &[u8]) -> Vec<Observation> {
    log.chunks_exact(LOG_BYTES as usize).map(Observation::decode).collect()
}

/// Bytes of the log.
pub(crate) fn log_bytes(count: usize) -> usize {
    count * LOG_BYTES as usize
}

fn words_to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

mod csr {
    pub(super) const SSTATUS: u32 = 0x100;
    pub(super) const STVEC: u32 = 0x105;
    pub(super) const SSCRATCH: u32 = 0x140;
    pub(super) const SEPC: u32 = 0x141;
    pub(super) const SCAUSE: u32 = 0x142;
    pub(super) const STVAL: u32 = 0x143;
    pub(super) const SATP: u32 = 0x180;
    pub(super) const MSTATUS: u32 = 0x300;
    pub(super) const MEDELEG: u32 = 0x302;
    pub(super) const MIDELEG: u32 = 0x303;
    pub(super) const MTVEC: u32 = 0x305;
    pub(super) const MCOUNTEREN: u32 = 0x306;
    pub(super) const MEPC: u32 = 0x341;
    pub(super) const PMPCFG0: u32 = 0x3a0;
    pub(super) const PMPADDR0: u32 = 0x3b0;
}

const FENCE_I: u32 = 0x0000_100f;
const SFENCE_VMA: u32 = 0x1200_0073;
const SRET: u32 = 0x1020_0073;
const MRET: u32 = 0x3020_0073;
const ECALL: u32 = 0x0000_0073;

/// For QEMU: opens memory, delegates everything but the supervisor's call, starts the supervisor;
/// at its call writes the log to the UART and powers off.
fn machine_mode(count: usize) -> Vec<u32> {
    let mut asm = Assembler::new(BASE);
    let (t0, data, end, uart, byte, line) = (5, 10, 11, 12, 13, 14);
    // The address of the handler below: this prologue has a fixed length.
    let handler = BASE + 0x80;
    asm.la(t0, handler);
    asm.csrw(csr::MTVEC, t0);
    for (register, value) in [
        (csr::PMPADDR0, -1),
        (csr::PMPCFG0, 0x1f),
        (csr::MEDELEG, 0xb1ff),
        (csr::MIDELEG, 0x222),
        (csr::MCOUNTEREN, 7),
        (csr::MSTATUS, 0x800), // MPP: supervisor
    ] {
        asm.li(t0, value);
        asm.csrw(register, t0);
    }
    asm.la(t0, SUPERVISOR);
    asm.csrw(csr::MEPC, t0);
    asm.word(MRET);
    while asm.here() < handler {
        asm.word(ECALL);
    }
    asm.la(data, log_address(count));
    asm.la(end, log_end(count));
    asm.li(uart, UART);
    let next = asm.label();
    asm.place(next);
    asm.word(0x0056_4703); // lbu a4, 5(a2): line status
    asm.word(0x0207_7713); // andi a4, a4, 0x20: transmitter empty
    asm.branch(0, line, 0, next);
    asm.word(0x0005_4683); // lbu a3, 0(a0)
    asm.word(0x00d6_0023); // sb a3, 0(a2)
    asm.addi(data, data, 1);
    asm.branch(1, data, end, next);
    asm.li(uart, TEST_DEVICE);
    asm.li(byte, POWER_OFF);
    asm.word(0x00d6_2023); // sw a3, 0(a2)
    let forever = asm.label();
    asm.place(forever);
    asm.jump(forever);
    asm.finish()
}

/// The fixed program. Its context holds: next probe, next log entry, end of the probes, spare.
fn supervisor() -> Vec<u32> {
    let mut asm = Assembler::new(SUPERVISOR);
    let (entry, a0, a1, a2, a3, context) = (8, 10, 11, 12, 13, 31);
    let handler = SUPERVISOR + 0x20;
    let next = asm.label();
    asm.la(a0, handler);
    asm.csrw(csr::STVEC, a0);
    asm.la(context, CONTEXT);
    asm.csrw(csr::SSCRATCH, context);
    asm.jump(next);
    while asm.here() < handler {
        asm.word(ECALL);
    }

    asm.word(write_csr(context, csr::SSCRATCH, context));
    asm.sd(a1, 24, context);
    asm.ld(a0, 8, context);
    for (slot, register) in [csr::SCAUSE, csr::SEPC, csr::STVAL].into_iter().enumerate() {
        asm.csrr(a2, register);
        asm.sd(a2, slot as u32 * 8, a0);
    }
    asm.ld(a2, 24, context);
    asm.sd(a2, 24, a0);
    asm.csrr(a2, csr::SSTATUS);
    asm.sd(a2, 32, a0);
    asm.csrw(csr::SATP, 0);
    asm.word(SFENCE_VMA);
    asm.csrw(csr::SSCRATCH, context);
    asm.ld(entry, 0, context);
    asm.ld(a3, 80, entry);
    asm.ld(a3, 0, a3);
    asm.sd(a3, 40, a0);
    asm.addi(a0, a0, LOG_BYTES as u32);
    asm.sd(a0, 8, context);
    asm.addi(entry, entry, ENTRY_BYTES as u32);
    asm.sd(entry, 0, context);

    asm.place(next);
    let done = asm.label();
    asm.ld(entry, 0, context);
    asm.ld(a1, 16, context);
    asm.branch(0, entry, a1, done);
    let copies = [(0, CODE), (8, CODE + 8)].into_iter();
    let slots = SLOTS.into_iter().zip([32, 40, 48, 56]).map(|(slot, offset)| (offset, slot));
    for (offset, address) in copies.chain(slots) {
        asm.la(a1, address);
        asm.ld(a0, offset, entry);
        asm.sd(a0, 0, a1);
    }
    asm.word(FENCE_I);
    for (offset, register) in [(16, csr::SATP), (24, csr::SSTATUS), (64, csr::SEPC)] {
        asm.ld(a0, offset, entry);
        asm.csrw(register, a0);
    }
    asm.word(SFENCE_VMA);
    asm.ld(a0, 72, entry);
    for register in (1..32).filter(|&register| register != a0) {
        asm.addi(register, a0, 0);
    }
    asm.word(SRET);
    asm.place(done);
    asm.word(ECALL);
    asm.finish()
}
