//! 16-bit instructions as the 32-bit instructions they stand for
//! (RISC-V unprivileged specification, chapter "C" Extension, "RVC Instruction Set Listings").

fn bit(parcel: u32, from: u32, to: u32) -> u32 {
    (parcel >> from & 1) << to
}

/// `parcel`'s bits from `low`, `count` of them, moved to bit `to`.
fn field(parcel: u32, low: u32, count: u32, to: u32) -> u32 {
    (parcel >> low & ((1 << count) - 1)) << to
}

/// The low `width` bits of `value` as a signed number.
fn signed(value: u32, width: u32) -> u32 {
    ((value << (32 - width)) as i32 >> (32 - width)) as u32
}

fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: u32) -> u32 {
    opcode | rd << 7 | funct3 << 12 | rs1 << 15 | immediate << 20
}

fn s_type(opcode: u32, funct3: u32, rs1: u32, rs2: u32, immediate: u32) -> u32 {
    let (low, high) = (immediate & 0x1f, immediate >> 5 & 0x7f);
    opcode | low << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | high << 25
}

fn r_type(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    opcode | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | funct7 << 25
}

const LOAD: u32 = 0x03;
const LOAD_FP: u32 = 0x07;
const OP_IMM: u32 = 0x13;
const OP_IMM_32: u32 = 0x1b;
const STORE: u32 = 0x23;
const STORE_FP: u32 = 0x27;
const OP: u32 = 0x33;
const LUI: u32 = 0x37;
const OP_32: u32 = 0x3b;
const BRANCH: u32 = 0x63;
const JALR: u32 = 0x67;
const JAL: u32 = 0x6f;

/// The 32-bit instruction; `None` for a reserved or illegal one.
pub(super) fn expand(parcel: u16) -> Option<u32> {
    let parcel = u32::from(parcel);
    match parcel & 3 {
        0 => quadrant_0(parcel),
        1 => quadrant_1(parcel),
        _ => quadrant_2(parcel),
    }
}

fn quadrant_0(p: u32) -> Option<u32> {
    let (rd, rs1) = (8 + field(p, 2, 3, 0), 8 + field(p, 7, 3, 0));
    let word = field(p, 10, 3, 3) | bit(p, 6, 2) | bit(p, 5, 6);
    let double = field(p, 10, 3, 3) | field(p, 5, 2, 6);
    Some(match p >> 13 {
        0 => {
            let immediate = field(p, 11, 2, 4) | field(p, 7, 4, 6) | bit(p, 6, 2) | bit(p, 5, 3);
            if immediate == 0 {
                return None;
            }
            i_type(OP_IMM, 0, rd, 2, immediate)
        }
        1 => i_type(LOAD_FP, 3, rd, rs1, double),
        2 => i_type(LOAD, 2, rd, rs1, word),
        3 => i_type(LOAD, 3, rd, rs1, double),
        5 => s_type(STORE_FP, 3, rs1, rd, double),
        6 => s_type(STORE, 2, rs1, rd, word),
        7 => s_type(STORE, 3, rs1, rd, double),
        _ => return None,
    })
}

fn quadrant_1(p: u32) -> Option<u32> {
    let rd = field(p, 7, 5, 0);
    let immediate = signed(bit(p, 12, 5) | field(p, 2, 5, 0), 6);
    Some(match p >> 13 {
        0 => i_type(OP_IMM, 0, rd, rd, immediate),
        1 if rd == 0 => return None,
        1 => i_type(OP_IMM_32, 0, rd, rd, immediate),
        2 => i_type(OP_IMM, 0, rd, 0, immediate),
        3 if immediate == 0 && rd != 2 => return None,
        3 if rd == 2 => add_to_stack_pointer(p)?,
        3 => LUI | rd << 7 | immediate << 12,
        4 => arithmetic(p)?,
        5 => jump(p),
        6 => branch(p, 0),
        _ => branch(p, 1),
    })
}

fn add_to_stack_pointer(p: u32) -> Option<u32> {
    let unsigned = bit(p, 12, 9) | bit(p, 6, 4) | bit(p, 5, 6) | field(p, 3, 2, 7) | bit(p, 2, 5);
    (unsigned != 0).then(|| i_type(OP_IMM, 0, 2, 2, signed(unsigned, 10)))
}

fn arithmetic(p: u32) -> Option<u32> {
    let rd = 8 + field(p, 7, 3, 0);
    let rs2 = 8 + field(p, 2, 3, 0);
    let unsigned = bit(p, 12, 5) | field(p, 2, 5, 0);
    Some(match (field(p, 10, 2, 0), bit(p, 12, 0), field(p, 5, 2, 0)) {
        (0, ..) => i_type(OP_IMM, 5, rd, rd, unsigned),
        (1, ..) => i_type(OP_IMM, 5, rd, rd, unsigned | 0x400),
        (2, ..) => i_type(OP_IMM, 7, rd, rd, signed(unsigned, 6)),
        (_, 0, 0) => r_type(OP, 0, 0x20, rd, rd, rs2),
        (_, 0, 1) => r_type(OP, 4, 0, rd, rd, rs2),
        (_, 0, 2) => r_type(OP, 6, 0, rd, rd, rs2),
        (_, 0, _) => r_type(OP, 7, 0, rd, rd, rs2),
        (_, _, 0) => r_type(OP_32, 0, 0x20, rd, rd, rs2),
        (_, _, 1) => r_type(OP_32, 0, 0, rd, rd, rs2),
        _ => return None,
    })
}

fn jump(p: u32) -> u32 {
    let unsigned = bit(p, 12, 11)
        | bit(p, 11, 4)
        | field(p, 9, 2, 8)
        | bit(p, 8, 10)
        | bit(p, 7, 6)
        | bit(p, 6, 7)
        | field(p, 3, 3, 1)
        | bit(p, 2, 5);
    let offset = signed(unsigned, 12);
    let low = field(offset, 1, 10, 21) | bit(offset, 11, 20);
    JAL | (offset & 0xff000) | low | bit(offset, 20, 31)
}

fn branch(p: u32, funct3: u32) -> u32 {
    let unsigned =
        bit(p, 12, 8) | field(p, 10, 2, 3) | field(p, 5, 2, 6) | field(p, 3, 2, 1) | bit(p, 2, 5);
    let offset = signed(unsigned, 9);
    let encoded =
        field(offset, 1, 4, 8) | field(offset, 5, 6, 25) | bit(offset, 11, 7) | bit(offset, 12, 31);
    BRANCH | funct3 << 12 | (8 + field(p, 7, 3, 0)) << 15 | encoded
}

fn quadrant_2(p: u32) -> Option<u32> {
    let (rd, rs2) = (field(p, 7, 5, 0), field(p, 2, 5, 0));
    let load_word = field(p, 4, 3, 2) | bit(p, 12, 5) | field(p, 2, 2, 6);
    let load_double = field(p, 5, 2, 3) | bit(p, 12, 5) | field(p, 2, 3, 6);
    let store_word = field(p, 9, 4, 2) | field(p, 7, 2, 6);
    let store_double = field(p, 10, 3, 3) | field(p, 7, 3, 6);
    Some(match p >> 13 {
        0 => i_type(OP_IMM, 1, rd, rd, bit(p, 12, 5) | rs2),
        1 => i_type(LOAD_FP, 3, rd, 2, load_double),
        2 | 3 if rd == 0 => return None,
        2 => i_type(LOAD, 2, rd, 2, load_word),
        3 => i_type(LOAD, 3, rd, 2, load_double),
        4 => match (bit(p, 12, 0), rd, rs2) {
            (0, 0, 0) => return None,
            (0, _, 0) => i_type(JALR, 0, 0, rd, 0),
            (0, ..) => r_type(OP, 0, 0, rd, 0, rs2),
            (_, 0, 0) => 0x0010_0073, // ebreak
            (_, _, 0) => i_type(JALR, 0, 1, rd, 0),
            _ => r_type(OP, 0, 0, rd, rd, rs2),
        },
        5 => s_type(STORE_FP, 3, 2, rs2, store_double),
        6 => s_type(STORE, 2, 2, rs2, store_word),
        _ => s_type(STORE, 3, 2, rs2, store_double),
    })
}
