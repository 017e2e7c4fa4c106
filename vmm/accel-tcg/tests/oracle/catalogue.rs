//! Every instruction that the guest may use, with its fixed bits and the kind of its operands.
//!
//! Source: RISC-V unprivileged specification, chapter "RV32/64G Instruction Set Listings", and the
//! listings of chapter "C Standard Extension".

/// Extension that an instruction belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Integer,
    Multiply,
    Atomic,
    Single,
    Double,
    Compressed,
    FloatCsr,
    InstructionFence,
}

/// Operands of an instruction: which fields the generator fills in, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `rd, rs1, rs2`
    Register,
    /// `rd, rs1, imm12`
    Immediate,
    /// `rd, rs1, shamt` of so many bits
    Shift(u32),
    /// `rd, imm20`
    Upper,
    /// `rd, imm(rs1)`
    Load,
    /// `rs2, imm(rs1)`
    Store,
    /// `rs1, rs2, target`
    Branch,
    /// `rd, target`
    Jump,
    /// `rd, target` through a register
    IndirectJump,
    /// no operands
    Bare,
    /// `rd, rs2, (rs1)`
    Amo,
    /// A pair of load-reserved and store-conditional of this width.
    Reserved,
    /// `fd, fs1, fs2`, rounding mode where it has one
    Float {
        rounded: bool,
    },
    /// `fd, fs1, fs2, fs3, rm`
    FloatFused,
    /// `fd, fs1`, `rs2` being part of the opcode
    FloatUnary {
        rounded: bool,
    },
    /// `rd, fs1, fs2`
    FloatCompare,
    /// `rd, fs1`
    FloatToInteger {
        rounded: bool,
    },
    /// `fd, rs1`
    IntegerToFloat {
        rounded: bool,
    },
    /// `fd, imm(rs1)`
    FloatLoad,
    /// `fs2, imm(rs1)`
    FloatStore,
    /// `rd, csr, rs1`, where any value may be written
    CsrRegister,
    /// `rd, csr, imm5` below the bound
    CsrImmediate(u32),
    /// Writes two instructions to memory and calls them.
    SelfModification,
    Compressed(Short),
}

/// Operands of a compressed instruction. Quoted registers are x8 to x15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// CI: `rd != 0`, any six immediate bits
    Immediate,
    /// CI: `rd != 0`, six immediate bits not all zero
    ImmediateNotZero,
    /// C.LUI: neither x0 nor x2, not zero
    Upper,
    /// C.ADDI16SP
    StackAdjust,
    /// CIW: `rd'`, eight immediate bits not all zero
    StackAddress,
    /// CB: `rd'`, six immediate bits
    Quoted,
    /// CB: `rd'`, six immediate bits not all zero
    QuotedNotZero,
    /// CA: `rd', rs2'`
    Arithmetic,
    /// CR: `rd != 0, rs2 != 0`
    Register,
    /// CL into an integer register
    Load,
    /// CL into a floating-point register
    FloatLoad,
    /// CS from an integer register
    Store,
    /// CS from a floating-point register
    FloatStore,
    /// CI from the stack into `rd != 0`
    StackLoad,
    /// CI from the stack into `fd`
    StackFloatLoad,
    /// CSS
    StackStore,
    /// CSS from a floating-point register: all encodings are valid as for `StackStore`
    StackFloatStore,
    /// C.J
    Jump,
    /// C.BEQZ, C.BNEZ
    Branch,
    /// C.JR, C.JALR
    IndirectJump,
}

/// One instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) form: Form,
    /// All bits but the operands'.
    pub(crate) base: u32,
}

const fn instruction(name: &'static str, class: Class, form: Form, base: u32) -> Instruction {
    Instruction { name, class, form, base }
}

const fn op(opcode: u32, funct3: u32, funct7: u32) -> u32 {
    opcode | funct3 << 12 | funct7 << 25
}

const fn integer(name: &'static str, form: Form, base: u32) -> Instruction {
    instruction(name, Class::Integer, form, base)
}

const fn multiply(name: &'static str, base: u32) -> Instruction {
    instruction(name, Class::Multiply, Form::Register, base)
}

const fn amo(name: &'static str, funct5: u32, funct3: u32) -> Instruction {
    instruction(name, Class::Atomic, Form::Amo, op(0x2f, funct3, funct5 << 2))
}

const fn short(name: &'static str, form: Short, base: u32) -> Instruction {
    instruction(name, Class::Compressed, Form::Compressed(form), base)
}

const fn csr(name: &'static str, form: Form, funct3: u32, number: u32) -> Instruction {
    instruction(name, Class::FloatCsr, form, op(0x73, funct3, 0) | number << 20)
}

/// Instructions without operands in a floating-point format.
pub(crate) const FIXED: &[Instruction] = &[
    integer("add", Form::Register, op(0x33, 0, 0)),
    integer("sub", Form::Register, op(0x33, 0, 0x20)),
    integer("sll", Form::Register, op(0x33, 1, 0)),
    integer("slt", Form::Register, op(0x33, 2, 0)),
    integer("sltu", Form::Register, op(0x33, 3, 0)),
    integer("xor", Form::Register, op(0x33, 4, 0)),
    integer("srl", Form::Register, op(0x33, 5, 0)),
    integer("sra", Form::Register, op(0x33, 5, 0x20)),
    integer("or", Form::Register, op(0x33, 6, 0)),
    integer("and", Form::Register, op(0x33, 7, 0)),
    integer("addw", Form::Register, op(0x3b, 0, 0)),
    integer("subw", Form::Register, op(0x3b, 0, 0x20)),
    integer("sllw", Form::Register, op(0x3b, 1, 0)),
    integer("srlw", Form::Register, op(0x3b, 5, 0)),
    integer("sraw", Form::Register, op(0x3b, 5, 0x20)),
    integer("addi", Form::Immediate, op(0x13, 0, 0)),
    integer("slti", Form::Immediate, op(0x13, 2, 0)),
    integer("sltiu", Form::Immediate, op(0x13, 3, 0)),
    integer("xori", Form::Immediate, op(0x13, 4, 0)),
    integer("ori", Form::Immediate, op(0x13, 6, 0)),
    integer("andi", Form::Immediate, op(0x13, 7, 0)),
    integer("addiw", Form::Immediate, op(0x1b, 0, 0)),
    integer("slli", Form::Shift(6), op(0x13, 1, 0)),
    integer("srli", Form::Shift(6), op(0x13, 5, 0)),
    integer("srai", Form::Shift(6), op(0x13, 5, 0x20)),
    integer("slliw", Form::Shift(5), op(0x1b, 1, 0)),
    integer("srliw", Form::Shift(5), op(0x1b, 5, 0)),
    integer("sraiw", Form::Shift(5), op(0x1b, 5, 0x20)),
    integer("lui", Form::Upper, 0x37),
    integer("auipc", Form::Upper, 0x17),
    integer("lb", Form::Load, op(0x03, 0, 0)),
    integer("lh", Form::Load, op(0x03, 1, 0)),
    integer("lw", Form::Load, op(0x03, 2, 0)),
    integer("ld", Form::Load, op(0x03, 3, 0)),
    integer("lbu", Form::Load, op(0x03, 4, 0)),
    integer("lhu", Form::Load, op(0x03, 5, 0)),
    integer("lwu", Form::Load, op(0x03, 6, 0)),
    integer("sb", Form::Store, op(0x23, 0, 0)),
    integer("sh", Form::Store, op(0x23, 1, 0)),
    integer("sw", Form::Store, op(0x23, 2, 0)),
    integer("sd", Form::Store, op(0x23, 3, 0)),
    integer("beq", Form::Branch, op(0x63, 0, 0)),
    integer("bne", Form::Branch, op(0x63, 1, 0)),
    integer("blt", Form::Branch, op(0x63, 4, 0)),
    integer("bge", Form::Branch, op(0x63, 5, 0)),
    integer("bltu", Form::Branch, op(0x63, 6, 0)),
    integer("bgeu", Form::Branch, op(0x63, 7, 0)),
    integer("jal", Form::Jump, 0x6f),
    integer("jalr", Form::IndirectJump, 0x67),
    integer("fence", Form::Bare, 0x0ff0_000f),
    instruction("fence.i", Class::InstructionFence, Form::SelfModification, 0x0000_100f),
    multiply("mul", op(0x33, 0, 1)),
    multiply("mulh", op(0x33, 1, 1)),
    multiply("mulhsu", op(0x33, 2, 1)),
    multiply("mulhu", op(0x33, 3, 1)),
    multiply("div", op(0x33, 4, 1)),
    multiply("divu", op(0x33, 5, 1)),
    multiply("rem", op(0x33, 6, 1)),
    multiply("remu", op(0x33, 7, 1)),
    multiply("mulw", op(0x3b, 0, 1)),
    multiply("divw", op(0x3b, 4, 1)),
    multiply("divuw", op(0x3b, 5, 1)),
    multiply("remw", op(0x3b, 6, 1)),
    multiply("remuw", op(0x3b, 7, 1)),
    amo("amoadd.w", 0x00, 2),
    amo("amoswap.w", 0x01, 2),
    amo("amoxor.w", 0x04, 2),
    amo("amoor.w", 0x08, 2),
    amo("amoand.w", 0x0c, 2),
    amo("amomin.w", 0x10, 2),
    amo("amomax.w", 0x14, 2),
    amo("amominu.w", 0x18, 2),
    amo("amomaxu.w", 0x1c, 2),
    amo("amoadd.d", 0x00, 3),
    amo("amoswap.d", 0x01, 3),
    amo("amoxor.d", 0x04, 3),
    amo("amoor.d", 0x08, 3),
    amo("amoand.d", 0x0c, 3),
    amo("amomin.d", 0x10, 3),
    amo("amomax.d", 0x14, 3),
    amo("amominu.d", 0x18, 3),
    amo("amomaxu.d", 0x1c, 3),
    instruction("lr.w/sc.w", Class::Atomic, Form::Reserved, op(0x2f, 2, 0)),
    instruction("lr.d/sc.d", Class::Atomic, Form::Reserved, op(0x2f, 3, 0)),
    // Set and clear on fflags and clear on the others keep `frm` valid; so do immediates below 5.
    csr("csrrw fflags", Form::CsrRegister, 1, 1),
    csr("csrrs fflags", Form::CsrRegister, 2, 1),
    csr("csrrc fflags", Form::CsrRegister, 3, 1),
    csr("csrrc frm", Form::CsrRegister, 3, 2),
    csr("csrrc fcsr", Form::CsrRegister, 3, 3),
    csr("csrrwi fflags", Form::CsrImmediate(32), 5, 1),
    csr("csrrsi fflags", Form::CsrImmediate(32), 6, 1),
    csr("csrrci fflags", Form::CsrImmediate(32), 7, 1),
    csr("csrrwi frm", Form::CsrImmediate(5), 5, 2),
    csr("csrrci frm", Form::CsrImmediate(32), 7, 2),
    csr("csrrwi fcsr", Form::CsrImmediate(32), 5, 3),
    csr("csrrsi fcsr", Form::CsrImmediate(32), 6, 3),
    csr("csrrci fcsr", Form::CsrImmediate(32), 7, 3),
    short("c.addi4spn", Short::StackAddress, 0x0000),
    short("c.fld", Short::FloatLoad, 0x2000),
    short("c.lw", Short::Load, 0x4000),
    short("c.ld", Short::Load, 0x6000),
    short("c.fsd", Short::FloatStore, 0xa000),
    short("c.sw", Short::Store, 0xc000),
    short("c.sd", Short::Store, 0xe000),
    short("c.addi", Short::Immediate, 0x0001),
    short("c.addiw", Short::Immediate, 0x2001),
    short("c.li", Short::Immediate, 0x4001),
    short("c.addi16sp", Short::StackAdjust, 0x6101),
    short("c.lui", Short::Upper, 0x6001),
    short("c.srli", Short::QuotedNotZero, 0x8001),
    short("c.srai", Short::QuotedNotZero, 0x8401),
    short("c.andi", Short::Quoted, 0x8801),
    short("c.sub", Short::Arithmetic, 0x8c01),
    short("c.xor", Short::Arithmetic, 0x8c21),
    short("c.or", Short::Arithmetic, 0x8c41),
    short("c.and", Short::Arithmetic, 0x8c61),
    short("c.subw", Short::Arithmetic, 0x9c01),
    short("c.addw", Short::Arithmetic, 0x9c21),
    short("c.j", Short::Jump, 0xa001),
    short("c.beqz", Short::Branch, 0xc001),
    short("c.bnez", Short::Branch, 0xe001),
    short("c.slli", Short::ImmediateNotZero, 0x0002),
    short("c.fldsp", Short::StackFloatLoad, 0x2002),
    short("c.lwsp", Short::StackLoad, 0x4002),
    short("c.ldsp", Short::StackLoad, 0x6002),
    short("c.jr", Short::IndirectJump, 0x8002),
    short("c.mv", Short::Register, 0x8002),
    short("c.jalr", Short::IndirectJump, 0x9002),
    short("c.add", Short::Register, 0x9002),
    short("c.fsdsp", Short::StackFloatStore, 0xa002),
    short("c.swsp", Short::StackStore, 0xc002),
    short("c.sdsp", Short::StackStore, 0xe002),
];

const ROUNDED: bool = true;
const EXACT: bool = false;

/// Single-precision instructions; [`Instruction::for_double`] gives the double-precision ones.
const SINGLE: &[(&str, Form, u32)] = &[
    ("fadd", Form::Float { rounded: ROUNDED }, op(0x53, 0, 0x00)),
    ("fsub", Form::Float { rounded: ROUNDED }, op(0x53, 0, 0x04)),
    ("fmul", Form::Float { rounded: ROUNDED }, op(0x53, 0, 0x08)),
    ("fdiv", Form::Float { rounded: ROUNDED }, op(0x53, 0, 0x0c)),
    ("fsqrt", Form::FloatUnary { rounded: ROUNDED }, op(0x53, 0, 0x2c)),
    ("fsgnj", Form::Float { rounded: EXACT }, op(0x53, 0, 0x10)),
    ("fsgnjn", Form::Float { rounded: EXACT }, op(0x53, 1, 0x10)),
    ("fsgnjx", Form::Float { rounded: EXACT }, op(0x53, 2, 0x10)),
    ("fmin", Form::Float { rounded: EXACT }, op(0x53, 0, 0x14)),
    ("fmax", Form::Float { rounded: EXACT }, op(0x53, 1, 0x14)),
    ("fle", Form::FloatCompare, op(0x53, 0, 0x50)),
    ("flt", Form::FloatCompare, op(0x53, 1, 0x50)),
    ("feq", Form::FloatCompare, op(0x53, 2, 0x50)),
    ("fcvt.w", Form::FloatToInteger { rounded: ROUNDED }, op(0x53, 0, 0x60)),
    ("fcvt.wu", Form::FloatToInteger { rounded: ROUNDED }, op(0x53, 0, 0x60) | 1 << 20),
    ("fcvt.l", Form::FloatToInteger { rounded: ROUNDED }, op(0x53, 0, 0x60) | 2 << 20),
    ("fcvt.lu", Form::FloatToInteger { rounded: ROUNDED }, op(0x53, 0, 0x60) | 3 << 20),
    ("fcvt.from.w", Form::IntegerToFloat { rounded: ROUNDED }, op(0x53, 0, 0x68)),
    ("fcvt.from.wu", Form::IntegerToFloat { rounded: ROUNDED }, op(0x53, 0, 0x68) | 1 << 20),
    ("fcvt.from.l", Form::IntegerToFloat { rounded: ROUNDED }, op(0x53, 0, 0x68) | 2 << 20),
    ("fcvt.from.lu", Form::IntegerToFloat { rounded: ROUNDED }, op(0x53, 0, 0x68) | 3 << 20),
    ("fmv.x", Form::FloatToInteger { rounded: EXACT }, op(0x53, 0, 0x70)),
    ("fclass", Form::FloatToInteger { rounded: EXACT }, op(0x53, 1, 0x70)),
    ("fmv.from.x", Form::IntegerToFloat { rounded: EXACT }, op(0x53, 0, 0x78)),
    ("fmadd", Form::FloatFused, 0x43),
    ("fmsub", Form::FloatFused, 0x47),
    ("fnmsub", Form::FloatFused, 0x4b),
    ("fnmadd", Form::FloatFused, 0x4f),
];

/// What differs between the formats by more than the format field.
const MIXED: &[Instruction] = &[
    instruction("flw", Class::Single, Form::FloatLoad, op(0x07, 2, 0)),
    instruction("fsw", Class::Single, Form::FloatStore, op(0x27, 2, 0)),
    instruction("fld", Class::Double, Form::FloatLoad, op(0x07, 3, 0)),
    instruction("fsd", Class::Double, Form::FloatStore, op(0x27, 3, 0)),
    instruction(
        "fcvt.s.d",
        Class::Double,
        Form::FloatUnary { rounded: ROUNDED },
        op(0x53, 0, 0x20) | 1 << 20,
    ),
    // Exact, but the rounding mode field is there.
    instruction(
        "fcvt.d.s",
        Class::Double,
        Form::FloatUnary { rounded: ROUNDED },
        op(0x53, 0, 0x21),
    ),
];

/// All instructions of the given classes.
pub(crate) fn of_classes(classes: &[Class]) -> Vec<Instruction> {
    let formats = [(Class::Single, 0), (Class::Double, 1 << 25)];
    let floats = formats.iter().flat_map(|&(class, format)| {
        SINGLE.iter().map(move |&(name, form, base)| instruction(name, class, form, base | format))
    });
    let mut all: Vec<_> = FIXED.iter().chain(MIXED).copied().chain(floats).collect();
    all.retain(|instruction| classes.contains(&instruction.class));
    all
}
