//! A small assembler with labels, for the fixed programs of the bare machine.

use crate::item::{branch_offset, jump_offset};

/// Integer registers by number.
pub(crate) type Register = u8;

/// A place in the code, given out before it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label(usize);

/// Code under construction at a fixed address.
pub(crate) struct Assembler {
    base: u64,
    words: Vec<u32>,
    places: Vec<Option<usize>>,
    fixups: Vec<(usize, Label)>,
}

impl Assembler {
    pub(crate) fn new(base: u64) -> Self {
        Self { base, words: Vec::new(), places: Vec::new(), fixups: Vec::new() }
    }

    pub(crate) fn here(&self) -> u64 {
        self.base + self.words.len() as u64 * 4
    }

    pub(crate) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    pub(crate) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.words.len());
    }

    pub(crate) fn word(&mut self, word: u32) {
        self.words.push(word);
    }

    /// The address of something near, by `auipc; addi`.
    pub(crate) fn la(&mut self, d: Register, address: u64) {
        let words = address_of(d, self.here(), address);
        self.words.extend(words);
    }

    /// A 32-bit constant, sign-extended, by `lui; addiw`.
    pub(crate) fn li(&mut self, d: Register, value: i32) {
        self.words.extend(constant(d, value));
    }

    pub(crate) fn ld(&mut self, d: Register, offset: u32, a: Register) {
        self.word(0x3003 | rd(d) | rs1(a) | offset << 20);
    }

    pub(crate) fn sd(&mut self, b: Register, offset: u32, a: Register) {
        self.word(0x3023 | rs1(a) | store(b, offset));
    }

    pub(crate) fn addi(&mut self, d: Register, a: Register, value: u32) {
        self.word(add_immediate(d, a, value));
    }

    pub(crate) fn csrw(&mut self, csr: u32, a: Register) {
        self.word(write_csr(0, csr, a));
    }

    pub(crate) fn csrr(&mut self, d: Register, csr: u32) {
        self.word(read_csr(d, csr));
    }

    /// `beq a, b, label` and its like, by funct3.
    pub(crate) fn branch(&mut self, funct3: u32, a: Register, b: Register, to: Label) {
        self.fixups.push((self.words.len(), to));
        self.word(0x63 | funct3 << 12 | rs1(a) | rs2(b));
    }

    /// `j label`
    pub(crate) fn jump(&mut self, to: Label) {
        self.fixups.push((self.words.len(), to));
        self.word(0x6f);
    }

    /// The code, all labels placed.
    pub(crate) fn finish(mut self) -> Vec<u32> {
        for (at, label) in self.fixups {
            let target = self.places[label.0].expect("every label is placed");
            let offset = ((target as i64 - at as i64) * 4) as u32;
            self.words[at] |= match self.words[at] & 0x7f {
                0x6f => jump_offset(offset),
                _ => branch_offset(offset),
            };
        }
        self.words
    }
}

pub(crate) fn rd(register: Register) -> u32 {
    u32::from(register) << 7
}

pub(crate) fn rs1(register: Register) -> u32 {
    u32::from(register) << 15
}

pub(crate) fn rs2(register: Register) -> u32 {
    u32::from(register) << 20
}

/// Source register and offset of an S-type instruction.
pub(crate) fn store(register: Register, offset: u32) -> u32 {
    rs2(register) | (offset >> 5 & 0x7f) << 25 | (offset & 0x1f) << 7
}

/// `addi d, a, value`
pub(crate) fn add_immediate(d: Register, a: Register, value: u32) -> u32 {
    0x13 | rd(d) | rs1(a) | value << 20
}

/// `csrrw d, csr, a`
pub(crate) fn write_csr(d: Register, csr: u32, a: Register) -> u32 {
    0x1073 | rd(d) | rs1(a) | csr << 20
}

/// `csrr d, csr`
pub(crate) fn read_csr(d: Register, csr: u32) -> u32 {
    0x2073 | rd(d) | csr << 20
}

/// `lui d; addiw d, d` for a sign-extended word.
pub(crate) fn constant(d: Register, value: i32) -> [u32; 2] {
    let (upper, low) = split(value as u32);
    [0x37 | rd(d) | upper, 0x1b | rd(d) | rs1(d) | low << 20]
}

/// `auipc d; addi d, d` for an address, at `here`.
pub(crate) fn address_of(d: Register, here: u64, address: u64) -> [u32; 2] {
    let (upper, low) = split(address.wrapping_sub(here) as u32);
    [0x17 | rd(d) | upper, add_immediate(d, d, low)]
}

/// Upper 20 bits, and the lower 12 that are added sign-extended.
fn split(value: u32) -> (u32, u32) {
    (value.wrapping_add(0x800) & 0xffff_f000, value & 0xfff)
}
