//! Decoding of the F and D extensions. Float destinations have no sink: f0 is a register as any
//! other.

use super::{Code, Fields, Op};
use Code::*;

/// Every operation in single and in double precision.
type Pair = [Code; 2];

pub(super) fn decode(f: Fields) -> Option<Op> {
    match f.word & 0x7f {
        0x07 => match f.funct3() {
            2 => Some(Op { rd: f.rd_raw(), ..f.immediate(Flw) }),
            3 => Some(Op { rd: f.rd_raw(), ..f.immediate(Fld) }),
            _ => None,
        },
        0x27 => match f.funct3() {
            2 => Some(f.store(Fsw)),
            3 => Some(f.store(Fsd)),
            _ => None,
        },
        0x43 => fused(f, [FmaddS, FmaddD]),
        0x47 => fused(f, [FmsubS, FmsubD]),
        0x4b => fused(f, [FnmsubS, FnmsubD]),
        0x4f => fused(f, [FnmaddS, FnmaddD]),
        _ => arithmetic(f),
    }
}

/// Which of a pair the format field asks for.
fn format(f: Fields) -> Option<usize> {
    Some((f.funct7() & 3) as usize).filter(|&format| format < 2)
}

/// Whether rm may be decoded: 5 and 6 are reserved.
fn rounds(f: Fields) -> Option<i32> {
    let rm = f.funct3();
    (rm < 5 || rm == 7).then_some(rm as i32)
}

fn fused(f: Fields, pair: Pair) -> Option<Op> {
    let imm = rounds(f)? | (f.word >> 27 << 3) as i32;
    Some(Op::new(pair[format(f)?], f.rd_raw(), f.rs1(), f.rs2(), imm))
}

fn arithmetic(f: Fields) -> Option<Op> {
    let format = format(f)?;
    let (funct5, rm, rs2) = (f.funct7() >> 2, f.funct3(), f.rs2());
    let rounded = |pair: Pair| Some(Op::new(pair[format], f.rd_raw(), f.rs1(), rs2, rounds(f)?));
    // Result in a float register, no rounding.
    let exact = |pair: Pair| Some(Op::new(pair[format], f.rd_raw(), f.rs1(), rs2, 0));
    // Result in an integer register, no rounding.
    let integer = |pair: Pair| Some(Op::new(pair[format], f.rd(), f.rs1(), rs2, 0));
    match (funct5, rm, rs2) {
        (0x00, ..) => rounded([FaddS, FaddD]),
        (0x01, ..) => rounded([FsubS, FsubD]),
        (0x02, ..) => rounded([FmulS, FmulD]),
        (0x03, ..) => rounded([FdivS, FdivD]),
        (0x0b, _, 0) => rounded([FsqrtS, FsqrtD]),
        (0x04, 0, _) => exact([FsgnjS, FsgnjD]),
        (0x04, 1, _) => exact([FsgnjnS, FsgnjnD]),
        (0x04, 2, _) => exact([FsgnjxS, FsgnjxD]),
        (0x05, 0, _) => exact([FminS, FminD]),
        (0x05, 1, _) => exact([FmaxS, FmaxD]),
        (0x08, _, 1) if format == 0 => rounded([FcvtSD, FcvtSD]),
        (0x08, _, 0) if format == 1 => rounded([FcvtDS, FcvtDS]),
        (0x14, 0, _) => integer([FleS, FleD]),
        (0x14, 1, _) => integer([FltS, FltD]),
        (0x14, 2, _) => integer([FeqS, FeqD]),
        (0x18, _, 0..=3) => {
            let pairs =
                [[FcvtWS, FcvtWD], [FcvtWuS, FcvtWuD], [FcvtLS, FcvtLD], [FcvtLuS, FcvtLuD]];
            rounded(pairs[usize::from(rs2)]).map(|op| Op { rd: f.rd(), ..op })
        }
        (0x1a, _, 0..=3) => {
            let pairs =
                [[FcvtSW, FcvtDW], [FcvtSWu, FcvtDWu], [FcvtSL, FcvtDL], [FcvtSLu, FcvtDLu]];
            rounded(pairs[usize::from(rs2)])
        }
        (0x1c, 0, 0) => integer([FmvXW, FmvXD]),
        (0x1c, 1, 0) => integer([FclassS, FclassD]),
        (0x1e, 0, 0) => exact([FmvWX, FmvDX]),
        _ => None,
    }
}
