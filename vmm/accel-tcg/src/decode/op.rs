//! The pre-decoded form of an instruction.

/// Register number that takes what is written to `x0`.
pub(crate) const SINK: u8 = 32;

/// What an instruction does. Names are the mnemonics of the RISC-V specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[rustfmt::skip]
pub(crate) enum Code {
    // `imm` is the whole result; `imm` counts from the block's start for the next two.
    Lui, Auipc, Jal,
    Jalr,
    Beq, Bne, Blt, Bge, Bltu, Bgeu,
    Lb, Lh, Lw, Ld, Lbu, Lhu, Lwu,
    Sb, Sh, Sw, Sd,
    Addi, Slti, Sltiu, Xori, Ori, Andi, Slli, Srli, Srai,
    Add, Sub, Sll, Slt, Sltu, Xor, Srl, Sra, Or, And,
    Addiw, Slliw, Srliw, Sraiw, Addw, Subw, Sllw, Srlw, Sraw,
    Mul, Mulh, Mulhsu, Mulhu, Div, Divu, Rem, Remu,
    Mulw, Divw, Divuw, Remw, Remuw,
    Fence, Pause,
    // The block goes on at the following instruction, in another block.
    Next,
    // Atomics.
    LrW, LrD, ScW, ScD,
    AmoswapW, AmoaddW, AmoxorW, AmoandW, AmoorW, AmominW, AmomaxW, AmominuW, AmomaxuW,
    AmoswapD, AmoaddD, AmoxorD, AmoandD, AmoorD, AmominD, AmomaxD, AmominuD, AmomaxuD,
    // System: each ends its block.
    FenceI, Ecall, Ebreak, Sret, Wfi, SfenceVma, Illegal,
    Csrrw, Csrrs, Csrrc, Csrrwi, Csrrsi, Csrrci,
    // Floats. `imm` holds rm in its low 3 bits and rs3 above.
    Flw, Fld, Fsw, Fsd,
    FmaddS, FmsubS, FnmsubS, FnmaddS, FaddS, FsubS, FmulS, FdivS, FsqrtS,
    FsgnjS, FsgnjnS, FsgnjxS, FminS, FmaxS, FeqS, FltS, FleS, FclassS,
    FcvtWS, FcvtWuS, FcvtLS, FcvtLuS, FcvtSW, FcvtSWu, FcvtSL, FcvtSLu, FmvXW, FmvWX, FcvtSD,
    FmaddD, FmsubD, FnmsubD, FnmaddD, FaddD, FsubD, FmulD, FdivD, FsqrtD,
    FsgnjD, FsgnjnD, FsgnjxD, FminD, FmaxD, FeqD, FltD, FleD, FclassD,
    FcvtWD, FcvtWuD, FcvtLD, FcvtLuD, FcvtDW, FcvtDWu, FcvtDL, FcvtDLu, FmvXD, FmvDX, FcvtDS,
}

impl Code {
    /// Whether control may go elsewhere, or state that decoding depends on may change.
    pub(crate) fn ends_block(self) -> bool {
        use Code::*;
        matches!(
            self,
            Jal | Jalr
                | Beq
                | Bne
                | Blt
                | Bge
                | Bltu
                | Bgeu
                | Next
                | FenceI
                | Ecall
                | Ebreak
                | Sret
                | Wfi
                | SfenceVma
                | Illegal
                | Csrrw
                | Csrrs
                | Csrrc
                | Csrrwi
                | Csrrsi
                | Csrrci
        )
    }

    /// Whether `imm` counts from the instruction in its encoding, from the block's start in [`Op`].
    pub(crate) fn is_relative(self) -> bool {
        use Code::*;
        matches!(self, Auipc | Jal | Beq | Bne | Blt | Bge | Bltu | Bgeu)
    }
}

/// A pre-decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) code: Code,
    /// Destination; [`SINK`] instead of `x0`.
    pub(crate) rd: u8,
    pub(crate) rs1: u8,
    pub(crate) rs2: u8,
    /// Immediate, shift amount, CSR number, or the instruction word of [`Code::Illegal`].
    pub(crate) imm: i32,
    /// Bytes from the block's start.
    pub(crate) offset: u16,
    /// Instructions before it in its block.
    pub(crate) index: u8,
    /// Bytes of its encoding: 2 or 4, 0 for [`Code::Next`].
    pub(crate) length: u8,
}

impl Op {
    /// An instruction outside any block.
    pub(crate) fn new(code: Code, rd: u8, rs1: u8, rs2: u8, imm: i32) -> Self {
        Self { code, rd, rs1, rs2, imm, offset: 0, index: 0, length: 4 }
    }

    /// What no extension of ours defines.
    pub(crate) fn illegal(word: u32) -> Self {
        Self::new(Code::Illegal, SINK, 0, 0, word as i32)
    }
}
