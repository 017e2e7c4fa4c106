//! Instruction words to pre-decoded operations.

mod compressed;
mod float;
mod op;
#[cfg(test)]
mod tests;

pub(crate) use op::{Code, Op, SINK};

/// Whether an instruction that begins with this parcel has 16 bits.
#[inline]
pub(crate) fn is_compressed(parcel: u16) -> bool {
    parcel & 3 != 3
}

/// Decodes a 16-bit instruction.
pub(crate) fn decode_compressed(parcel: u16) -> Op {
    let mut op = match compressed::expand(parcel) {
        Some(word) => decode(word),
        None => Op::illegal(parcel.into()),
    };
    op.length = 2;
    op
}

fn bits(word: u32, low: u32, count: u32) -> u32 {
    word >> low & ((1 << count) - 1)
}

fn sink(register: u32) -> u8 {
    if register == 0 { SINK } else { register as u8 }
}

/// Fields of a 32-bit instruction (RISC-V unprivileged specification, "Base Instruction Formats").
#[derive(Clone, Copy)]
struct Fields {
    word: u32,
}

impl Fields {
    fn rd(self) -> u8 {
        sink(self.rd_raw().into())
    }
    fn rd_raw(self) -> u8 {
        bits(self.word, 7, 5) as u8
    }
    fn rs1(self) -> u8 {
        bits(self.word, 15, 5) as u8
    }
    fn rs2(self) -> u8 {
        bits(self.word, 20, 5) as u8
    }
    fn funct3(self) -> u32 {
        bits(self.word, 12, 3)
    }
    fn funct7(self) -> u32 {
        bits(self.word, 25, 7)
    }
    fn i(self) -> i32 {
        self.word as i32 >> 20
    }
    fn s(self) -> i32 {
        (self.word as i32 >> 25) << 5 | i32::from(self.rd_raw())
    }
    fn b(self) -> i32 {
        let low = bits(self.word, 8, 4) << 1 | bits(self.word, 25, 6) << 5;
        (self.word as i32 >> 31) << 12 | (low | bits(self.word, 7, 1) << 11) as i32
    }
    fn u(self) -> i32 {
        (self.word & 0xffff_f000) as i32
    }
    fn j(self) -> i32 {
        let low = bits(self.word, 21, 10) << 1 | bits(self.word, 20, 1) << 11;
        (self.word as i32 >> 31) << 20 | (low | (self.word & 0xff000)) as i32
    }

    fn register(self, code: Code) -> Op {
        Op::new(code, self.rd(), self.rs1(), self.rs2(), 0)
    }
    fn immediate(self, code: Code) -> Op {
        Op::new(code, self.rd(), self.rs1(), 0, self.i())
    }
    fn store(self, code: Code) -> Op {
        Op::new(code, SINK, self.rs1(), self.rs2(), self.s())
    }
}

/// Decodes a 32-bit instruction.
pub(crate) fn decode(word: u32) -> Op {
    let f = Fields { word };
    let known = match word & 0x7f {
        0x37 => Some(Op::new(Code::Lui, f.rd(), 0, 0, f.u())),
        0x17 => Some(Op::new(Code::Auipc, f.rd(), 0, 0, f.u())),
        0x6f => Some(Op::new(Code::Jal, f.rd(), 0, 0, f.j())),
        0x67 => (f.funct3() == 0).then(|| f.immediate(Code::Jalr)),
        0x63 => branch(f),
        0x03 => load(f),
        0x23 => store(f),
        0x13 => immediate(f),
        0x1b => immediate_word(f),
        0x33 => register(f),
        0x3b => register_word(f),
        0x0f => fence(f),
        0x2f => atomic(f),
        0x73 => system(f),
        0x07 | 0x27 | 0x43 | 0x47 | 0x4b | 0x4f | 0x53 => float::decode(f),
        _ => None,
    };
    known.unwrap_or_else(|| Op::illegal(word))
}

fn branch(f: Fields) -> Option<Op> {
    use Code::*;
    let code = match f.funct3() {
        0 => Beq,
        1 => Bne,
        4 => Blt,
        5 => Bge,
        6 => Bltu,
        7 => Bgeu,
        _ => return None,
    };
    Some(Op::new(code, SINK, f.rs1(), f.rs2(), f.b()))
}

fn load(f: Fields) -> Option<Op> {
    let codes = [Code::Lb, Code::Lh, Code::Lw, Code::Ld, Code::Lbu, Code::Lhu, Code::Lwu];
    codes.get(f.funct3() as usize).map(|&code| f.immediate(code))
}

fn store(f: Fields) -> Option<Op> {
    let codes = [Code::Sb, Code::Sh, Code::Sw, Code::Sd];
    codes.get(f.funct3() as usize).map(|&code| f.store(code))
}

fn immediate(f: Fields) -> Option<Op> {
    use Code::*;
    let mut op = f.immediate(match f.funct3() {
        0 => Addi,
        1 => Slli,
        2 => Slti,
        3 => Sltiu,
        4 => Xori,
        5 => Srli,
        6 => Ori,
        _ => Andi,
    });
    if matches!(op.code, Slli | Srli) {
        op.code = match (op.code, f.word >> 26) {
            (Slli, 0) => Slli,
            (Srli, 0) => Srli,
            (Srli, 0x10) => Srai,
            _ => return None,
        };
        op.imm &= 0x3f;
    }
    Some(op)
}

fn immediate_word(f: Fields) -> Option<Op> {
    use Code::*;
    let code = match (f.funct3(), f.funct7()) {
        (0, _) => return Some(f.immediate(Addiw)),
        (1, 0) => Slliw,
        (5, 0) => Srliw,
        (5, 0x20) => Sraiw,
        _ => return None,
    };
    let mut op = f.immediate(code);
    op.imm &= 0x1f;
    Some(op)
}

fn register(f: Fields) -> Option<Op> {
    use Code::*;
    let code = match (f.funct7(), f.funct3()) {
        (0, 0) => Add,
        (0, 1) => Sll,
        (0, 2) => Slt,
        (0, 3) => Sltu,
        (0, 4) => Xor,
        (0, 5) => Srl,
        (0, 6) => Or,
        (0, 7) => And,
        (0x20, 0) => Sub,
        (0x20, 5) => Sra,
        (1, 0) => Mul,
        (1, 1) => Mulh,
        (1, 2) => Mulhsu,
        (1, 3) => Mulhu,
        (1, 4) => Div,
        (1, 5) => Divu,
        (1, 6) => Rem,
        (1, 7) => Remu,
        _ => return None,
    };
    Some(f.register(code))
}

fn register_word(f: Fields) -> Option<Op> {
    use Code::*;
    let code = match (f.funct7(), f.funct3()) {
        (0, 0) => Addw,
        (0, 1) => Sllw,
        (0, 5) => Srlw,
        (0x20, 0) => Subw,
        (0x20, 5) => Sraw,
        (1, 0) => Mulw,
        (1, 4) => Divw,
        (1, 5) => Divuw,
        (1, 6) => Remw,
        (1, 7) => Remuw,
        _ => return None,
    };
    Some(f.register(code))
}

/// PAUSE of Zihintpause: a FENCE that orders nothing.
const PAUSE: u32 = 0x0100_000f;

// Unused fields are ignored: "base implementations shall ignore these fields".
fn fence(f: Fields) -> Option<Op> {
    match f.funct3() {
        0 if f.word == PAUSE => Some(Op::new(Code::Pause, SINK, 0, 0, 0)),
        0 => Some(Op::new(Code::Fence, SINK, 0, 0, 0)),
        1 => Some(Op::new(Code::FenceI, SINK, 0, 0, 0)),
        _ => None,
    }
}

fn atomic(f: Fields) -> Option<Op> {
    use Code::*;
    let [word, double] = match f.funct7() >> 2 {
        0x02 if f.rs2() == 0 => [LrW, LrD],
        0x03 => [ScW, ScD],
        0x01 => [AmoswapW, AmoswapD],
        0x00 => [AmoaddW, AmoaddD],
        0x04 => [AmoxorW, AmoxorD],
        0x0c => [AmoandW, AmoandD],
        0x08 => [AmoorW, AmoorD],
        0x10 => [AmominW, AmominD],
        0x14 => [AmomaxW, AmomaxD],
        0x18 => [AmominuW, AmominuD],
        0x1c => [AmomaxuW, AmomaxuD],
        _ => return None,
    };
    match f.funct3() {
        2 => Some(f.register(word)),
        3 => Some(f.register(double)),
        _ => None,
    }
}

fn system(f: Fields) -> Option<Op> {
    use Code::*;
    let code = match f.funct3() {
        0 => return environment(f),
        1 => Csrrw,
        2 => Csrrs,
        3 => Csrrc,
        5 => Csrrwi,
        6 => Csrrsi,
        7 => Csrrci,
        _ => return None,
    };
    Some(Op::new(code, f.rd(), f.rs1(), 0, f.i() & 0xfff))
}

fn environment(f: Fields) -> Option<Op> {
    let code = match f.word {
        0x0000_0073 => Code::Ecall,
        0x0010_0073 => Code::Ebreak,
        0x1020_0073 => Code::Sret,
        0x1050_0073 => Code::Wfi,
        _ if f.funct7() == 0x09 && f.rd_raw() == 0 => {
            return Some(Op::new(Code::SfenceVma, SINK, f.rs1(), f.rs2(), 0));
        }
        _ => return None,
    };
    Some(Op::new(code, SINK, 0, 0, 0))
}
