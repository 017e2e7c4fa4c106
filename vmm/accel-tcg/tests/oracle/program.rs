//! Random programs put together into one memory image that both emulators run.
//!
//! ```text
//! BASE          entries, trap handler, end of the run
//! BASE + 4 KiB  one record a program: registers (before the run: initial, after: final), scratch
//! code          each program: load registers from its record, body, store registers to it
//! ```
//!
//! A program reaches its record through its home register, a pointer that the body never writes.

use crate::asm::{add_immediate, address_of, constant, rd, rs1, store};
use crate::item::{Item, assemble};
use std::ops::Range;

/// Guest address of the image: the start of RAM on the board, unused in a Linux process.
pub(crate) const BASE: u64 = 0x8000_0000;
/// Entry for a Linux process; for a bare machine it is [`BASE`].
pub(crate) const USER_ENTRY: u64 = BASE + 0x40;
/// Bytes that programs may load from and store to.
pub(crate) const SCRATCH_BYTES: usize = 1024;
/// The `a7` that the bare machine's trap handler passes on; its arguments are scause, sepc, stval.
pub(crate) const TRAP_CALL: u64 = 0x7ff;

const HANDLER: u64 = BASE + 0x80;
const FINISH: u64 = BASE + 0x100;
const RECORDS: u64 = BASE + 0x1000;
const REGISTER_BYTES: usize = (32 + 32 + 1) * 8;
/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = REGISTER_BYTES + SCRATCH_BYTES;
/// Some writable register of the stubs.
const T0: u8 = 5;

/// Registers and scratch area before or after a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) x: [u64; 32],
    pub(crate) f: [u64; 32],
    pub(crate) fcsr: u64,
    pub(crate) scratch: [u64; SCRATCH_BYTES / 8],
}

impl Default for State {
    fn default() -> Self {
        Self { x: [0; 32], f: [0; 32], fcsr: 0, scratch: [0; SCRATCH_BYTES / 8] }
    }
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let words = self.x.iter().chain(&self.f).chain([&self.fcsr]).chain(&self.scratch);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    /// From a record.
    pub(crate) fn decode(record: &[u8]) -> Self {
        let words =
            record.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let words: Vec<u64> = words.collect();
        let (x, rest) = words.split_at(32);
        let (f, rest) = rest.split_at(32);
        let (fcsr, scratch) = rest.split_first().unwrap();
        Self {
            x: x.try_into().unwrap(),
            f: f.try_into().unwrap(),
            fcsr: *fcsr,
            scratch: scratch.try_into().unwrap(),
        }
    }
}

/// One random program with what it starts from.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) items: Vec<Item>,
    pub(crate) state: State,
    /// Registers that point into the scratch area, with their offsets; the first is the home.
    pub(crate) pointers: Vec<(u8, u32)>,
}

impl Program {
    /// The same start, fewer pieces.
    pub(crate) fn without(&self, removed: Range<usize>) -> Self {
        let mut shorter = self.clone();
        shorter.items.drain(removed);
        shorter
    }

    fn home(&self) -> (u8, u32) {
        self.pointers[0]
    }

    /// The record before the run, when it lies at `address`.
    fn record(&self, address: u64) -> Vec<u8> {
        let mut state = self.state.clone();
        for &(register, offset) in &self.pointers {
            state.x[usize::from(register)] = scratch_of(address) + u64::from(offset);
        }
        state.encode()
    }
}

/// Programs in memory.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// Code addresses of each program.
    pub(crate) code: Vec<Range<u64>>,
}

fn record_address(index: usize) -> u64 {
    RECORDS + (index * RECORD_BYTES) as u64
}

fn scratch_of(record: u64) -> u64 {
    record + REGISTER_BYTES as u64
}

/// Where the records of `count` programs lie in the image.
pub(crate) fn records(count: usize) -> Range<usize> {
    let start = (RECORDS - BASE) as usize;
    start..start + count * RECORD_BYTES
}

/// Puts programs together.
pub(crate) fn link(programs: &[Program]) -> Image {
    let mut image = Image { bytes: Vec::new(), code: Vec::new() };
    image.bytes.resize((RECORDS - BASE) as usize, 0);
    for (index, program) in programs.iter().enumerate() {
        image.bytes.extend(program.record(record_address(index)));
    }
    let start = image.here();
    for (index, program) in programs.iter().enumerate() {
        let begin = image.here();
        image.program(program, record_address(index));
        image.code.push(begin..image.here());
    }
    image.jump_to(FINISH);
    image.stubs(start, programs.len());
    image
}

impl Image {
    fn here(&self) -> u64 {
        BASE + self.bytes.len() as u64
    }

    fn emit(&mut self, words: impl IntoIterator<Item = u32>) {
        self.bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
    }

    /// `auipc; addi`: the address of something.
    fn load_address(&mut self, register: u8, address: u64) {
        let words = address_of(register, self.here(), address);
        self.emit(words);
    }

    fn jump_to(&mut self, address: u64) {
        let words = jump(self.here(), address);
        self.emit(words);
    }

    fn program(&mut self, program: &Program, record: u64) {
        let (home, offset) = program.home();
        self.load_address(home, scratch_of(record) + u64::from(offset));
        // Offset of register slot `index` from the home register.
        let slot = |index: usize| {
            let to_record = index as i32 * 8 - REGISTER_BYTES as i32 - offset as i32;
            to_record as u32 & 0xfff
        };
        let registers = (1u8..32).filter(|&register| register != home);
        let load = |register: u8| 0x3003 | rd(register) | rs1(home) | slot(register.into()) << 20;
        let float = |register: u8| {
            0x3007 | rd(register) | rs1(home) | slot(usize::from(register) + 32) << 20
        };
        let spare = if home == T0 { T0 + 1 } else { T0 };
        self.emit([
            0x3003 | rd(spare) | rs1(home) | slot(64) << 20,
            0x0030_1073 | rs1(spare), // fscsr
        ]);
        self.emit((0..32).map(float));
        self.emit(registers.clone().map(load));

        let body = assemble(&program.items);
        self.bytes.extend(body.into_iter().flat_map(u16::to_le_bytes));

        let keep = |register: u8| 0x3023 | rs1(home) | store(register, slot(register.into()));
        let keep_float =
            |register: u8| 0x3027 | rs1(home) | store(register, slot(usize::from(register) + 32));
        self.emit(registers.map(keep));
        self.emit((0..32).map(keep_float));
        self.emit([
            0x0030_2073 | rd(spare), // frcsr
            0x3023 | rs1(home) | store(spare, slot(64)),
        ]);
        if !self.bytes.len().is_multiple_of(4) {
            self.bytes.extend(0x0001u16.to_le_bytes()); // c.nop
        }
    }

    /// Fills in the fixed part: everything before the records.
    fn stubs(&mut self, start: u64, count: usize) {
        let mut bare = vec![0x0000_62b7, 0x1002_a073]; // lui t0, 6; csrs sstatus, t0: FS dirty
        bare.extend(address_of(T0, BASE + 8, HANDLER));
        bare.push(0x1050_1073 | rs1(T0)); // csrw stvec
        bare.extend(jump(BASE + 20, start));
        self.place(BASE, &bare);
        self.place(USER_ENTRY, &jump(USER_ENTRY, start));
        let trapped = [
            0x1420_2573,                            // csrr a0, scause
            0x1410_25f3,                            // csrr a1, sepc
            0x1430_2673,                            // csrr a2, stval
            add_immediate(17, 0, TRAP_CALL as u32), // li a7
            0x0000_0073,                            // ecall
            0x0000_006f,                            // j .
        ];
        self.place(HANDLER, &trapped);
        self.place(FINISH, &finish(count));
    }

    fn place(&mut self, address: u64, words: &[u32]) {
        let offset = (address - BASE) as usize;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.bytes[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
}

fn jump(here: u64, address: u64) -> [u32; 3] {
    let [upper, lower] = address_of(T0, here, address);
    [upper, lower, 0x67 | rs1(T0)]
}

/// Linux: write all records to standard output, exit. On the bare machine the first call ends it.
fn finish(count: usize) -> Vec<u32> {
    let bytes = (count * RECORD_BYTES) as u32;
    let mut code = Vec::new();
    code.extend(address_of(11, FINISH, RECORDS));
    code.extend(constant(12, bytes as i32));
    code.extend([
        add_immediate(10, 0, 1),                   // loop: li a0, 1
        add_immediate(17, 0, 64),                  // li a7, write
        0x0000_0073,                               // ecall
        0x00a0_5c63,                               // blez a0, +24: failed
        0x0000_0033 | rd(11) | rs1(11) | 10 << 20, // add a1, a1, a0
        0x4000_0033 | rd(12) | rs1(12) | 10 << 20, // sub a2, a2, a0
        0xfe06_14e3,                               // bnez a2, -24: loop
        add_immediate(10, 0, 0),                   // li a0, 0
        0x0080_006f,                               // j +8
        add_immediate(10, 0, 1),                   // failed: li a0, 1
        add_immediate(17, 0, 93),                  // li a7, exit
        0x0000_0073,                               // ecall
    ]);
    code
}
