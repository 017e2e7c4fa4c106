//! Random programs: instructions of given classes over registers that partly point into a scratch
//! area.

use crate::asm::{add_immediate, constant, rd, rs1, rs2, store};
use crate::catalogue::{Class, Form, Instruction, Short, of_classes};
use crate::item::{Item, Reach};
use crate::program::{Program, SCRATCH_BYTES, State};
use crate::random::Random;
use crate::values;

/// Pointers lie in this part of the scratch area, so that every compressed offset, which is
/// positive and at most 504, and every offset that we choose stays inside.
const POINTER_BASE: u32 = 256;
const POINTER_SPAN: u32 = 128;
/// Pieces that a jump goes over at most; compressed branches, whose range is short, over two.
const LONGEST_SKIP: u32 = 4;

const STACK: u8 = 2;
const QUOTED: std::ops::Range<u8> = 8..16;

/// The registers of one program by their use.
struct Registers {
    pointers: Vec<u8>,
    /// Everything that may be written, x0 included.
    writable: Vec<u8>,
}

impl Registers {
    /// Always the stack pointer, one that compressed instructions reach, and one more.
    fn choose(random: &mut Random) -> Self {
        let quoted = QUOTED.start + random.below(8) as u8;
        let home = loop {
            let candidate = 3 + random.below(29) as u8;
            if candidate != quoted {
                break candidate;
            }
        };
        let pointers = vec![home, STACK, quoted];
        let writable = (0..32).filter(|register| !pointers.contains(register)).collect();
        Self { pointers, writable }
    }

    /// Without the stack pointer among the pointers, for what writes it.
    fn choose_with_free_stack(random: &mut Random) -> Self {
        let mut registers = Self::choose(random);
        registers.pointers.retain(|&register| register != STACK);
        registers.writable.push(STACK);
        registers
    }

    fn has_free_stack(&self) -> bool {
        self.writable.contains(&STACK)
    }
}

/// Writes one program.
struct Generator<'a> {
    random: &'a mut Random,
    registers: Registers,
}

/// A program of `length` instructions of these classes.
pub(crate) fn program(classes: &[Class], length: usize, random: &mut Random) -> Program {
    mixture(&of_classes(classes), length, false, random)
}

/// A short program of one instruction over and over.
pub(crate) fn drill(instruction: Instruction, length: usize, random: &mut Random) -> Program {
    let flags_apart = !random.one_in(4);
    mixture(&[instruction], length, flags_apart, random)
}

/// Floating-point instructions are followed by a read and clear of the flags when `flags_apart`,
/// so that each one's flags are seen; without, flags accrue.
fn mixture(
    catalogue: &[Instruction],
    length: usize,
    flags_apart: bool,
    random: &mut Random,
) -> Program {
    let adjusts_stack = |i: &Instruction| i.form == Form::Compressed(Short::StackAdjust);
    let only_adjusts = catalogue.iter().all(adjusts_stack);
    let registers = if only_adjusts || (catalogue.len() > 1 && random.one_in(8)) {
        Registers::choose_with_free_stack(random)
    } else {
        Registers::choose(random)
    };
    let usable: Vec<_> = catalogue
        .iter()
        .filter(|i| registers.has_free_stack() == needs_free_stack(i) || !touches_stack(i))
        .copied()
        .collect();
    let state = initial_state(&registers, random);
    let mut generator = Generator { random, registers };
    let mut items = Vec::with_capacity(length);
    for _ in 0..length {
        let instruction = *generator.random.pick(&usable);
        items.push(generator.item(instruction));
        if flags_apart && raises_flags(&instruction) {
            items.push(generator.take_flags());
        }
    }
    let pointers = generator.registers.pointers.iter();
    let random = generator.random;
    let pointers = pointers
        .map(|&register| (register, POINTER_BASE + random.below(POINTER_SPAN / 16) * 16))
        .collect();
    Program { items, state, pointers }
}

fn needs_free_stack(instruction: &Instruction) -> bool {
    instruction.form == Form::Compressed(Short::StackAdjust)
}

/// Whether it uses x2 without naming it.
fn touches_stack(instruction: &Instruction) -> bool {
    matches!(
        instruction.form,
        Form::Compressed(
            Short::StackAdjust
                | Short::StackLoad
                | Short::StackFloatLoad
                | Short::StackStore
                | Short::StackFloatStore
        )
    )
}

fn raises_flags(instruction: &Instruction) -> bool {
    matches!(instruction.class, Class::Single | Class::Double)
}

fn initial_state(registers: &Registers, random: &mut Random) -> State {
    let mut state = State::default();
    for &register in &registers.writable {
        if register != 0 {
            state.x[usize::from(register)] = values::integer(random);
        }
    }
    state.f.fill_with(|| values::float(random));
    state.fcsr = u64::from(random.below(5) << 5 | random.bits(5));
    state.scratch.fill_with(|| values::memory(random));
    state
}

impl Generator<'_> {
    fn rd(&mut self) -> u8 {
        *self.random.pick(&self.registers.writable)
    }

    fn rs(&mut self) -> u8 {
        self.random.bits(5) as u8
    }

    fn fp(&mut self) -> u8 {
        self.random.bits(5) as u8
    }

    fn pointer(&mut self) -> u8 {
        *self.random.pick(&self.registers.pointers)
    }

    /// A writable register other than x0.
    fn rd_not_zero(&mut self) -> u8 {
        loop {
            let register = self.rd();
            if register != 0 {
                return register;
            }
        }
    }

    fn rd_quoted(&mut self) -> u8 {
        loop {
            let register = self.rd();
            if QUOTED.contains(&register) {
                return register - QUOTED.start;
            }
        }
    }

    fn pointer_quoted(&mut self) -> u8 {
        let pointers = self.registers.pointers.iter().copied();
        let quoted: Vec<_> = pointers.filter(|register| QUOTED.contains(register)).collect();
        self.random.pick(&quoted) - QUOTED.start
    }

    /// Static modes, and DYN.
    fn rounding(&mut self) -> u32 {
        *self.random.pick(&[0, 1, 2, 3, 4, 7, 7])
    }

    fn skip(&mut self) -> usize {
        self.random.below(LONGEST_SKIP + 1) as usize
    }

    /// Any offset that stays in the scratch area from every pointer; misaligned at times.
    fn offset(&mut self) -> i32 {
        let lowest = -(POINTER_BASE as i32);
        let highest = SCRATCH_BYTES as i32 - (POINTER_BASE + POINTER_SPAN) as i32 - 8;
        let offset = lowest + self.random.below((highest - lowest) as u32) as i32;
        if self.random.one_in(4) { offset } else { offset & !7 }
    }

    /// A multiple of eight, a little further along.
    fn aligned_offset(&mut self) -> u32 {
        self.random.below(16) * 8
    }

    fn take_flags(&mut self) -> Item {
        let rd = self.rd();
        Item::new(format!("csrrw x{rd}, fflags, x0")).word(0x0010_1073 | u32::from(rd) << 7)
    }

    fn item(&mut self, instruction: Instruction) -> Item {
        let Instruction { name, form, base, .. } = instruction;
        match form {
            Form::Register => {
                let (d, a, b) = (self.rd(), self.rs(), self.rs());
                Item::new(format!("{name} x{d}, x{a}, x{b}")).word(base | rd(d) | rs1(a) | rs2(b))
            }
            Form::Immediate => {
                let (d, a, value) = (self.rd(), self.rs(), self.random.bits(12));
                let text = format!("{name} x{d}, x{a}, {:#x}", value);
                Item::new(text).word(base | rd(d) | rs1(a) | value << 20)
            }
            Form::Shift(bits) => {
                let (d, a, amount) = (self.rd(), self.rs(), self.random.bits(bits));
                let text = format!("{name} x{d}, x{a}, {amount}");
                Item::new(text).word(base | rd(d) | rs1(a) | amount << 20)
            }
            Form::Upper => {
                let (d, value) = (self.rd(), self.random.bits(20));
                Item::new(format!("{name} x{d}, {value:#x}")).word(base | rd(d) | value << 12)
            }
            Form::Bare => Item::new(name).word(base),
            Form::Load | Form::Store | Form::FloatLoad | Form::FloatStore => {
                self.memory(instruction)
            }
            Form::Branch | Form::Jump | Form::IndirectJump => self.control(instruction),
            Form::Amo => self.amo(instruction),
            Form::Reserved => self.reserved(instruction),
            Form::SelfModification => self.self_modification(instruction),
            Form::CsrRegister => {
                let (d, a) = (self.rd(), self.rs());
                Item::new(format!("{name}, x{a} -> x{d}")).word(base | rd(d) | rs1(a))
            }
            Form::CsrImmediate(bound) => {
                let (d, value) = (self.rd(), self.random.below(bound));
                let text = format!("{name}, {value} -> x{d}");
                Item::new(text).word(base | rd(d) | value << 15)
            }
            Form::Compressed(short) => self.compressed(name, short, base as u16),
            _ => self.float(instruction),
        }
    }

    fn float(&mut self, instruction: Instruction) -> Item {
        let suffix = if instruction.class == Class::Single { "s" } else { "d" };
        let Instruction { name, form, base, .. } = instruction;
        let mode = self.rounding();
        let mode_if = |rounded: bool| if rounded { mode << 12 } else { 0 };
        let (x, f, a, b, c) = (self.rd(), self.fp(), self.fp(), self.fp(), self.fp());
        let integer = self.rs();
        let (text, bits) = match form {
            Form::Float { rounded } => {
                (format!("f{f}, f{a}, f{b}"), mode_if(rounded) | rd(f) | rs1(a) | rs2(b))
            }
            Form::FloatFused => (
                format!("f{f}, f{a}, f{b}, f{c}"),
                mode << 12 | rd(f) | rs1(a) | rs2(b) | u32::from(c) << 27,
            ),
            Form::FloatUnary { rounded } => {
                (format!("f{f}, f{a}"), mode_if(rounded) | rd(f) | rs1(a))
            }
            Form::FloatCompare => (format!("x{x}, f{a}, f{b}"), rd(x) | rs1(a) | rs2(b)),
            Form::FloatToInteger { rounded } => {
                (format!("x{x}, f{a}"), mode_if(rounded) | rd(x) | rs1(a))
            }
            Form::IntegerToFloat { rounded } => {
                (format!("f{f}, x{integer}"), mode_if(rounded) | rd(f) | rs1(integer))
            }
            other => unreachable!("{name} is no floating-point instruction: {other:?}"),
        };
        Item::new(format!("{name}.{suffix} {text}, rm={mode}")).word(base | bits)
    }

    fn memory(&mut self, instruction: Instruction) -> Item {
        let Instruction { name, form, base, .. } = instruction;
        let (pointer, offset) = (self.pointer(), self.offset());
        let low = offset as u32 & 0xfff;
        let (register, bits) = match form {
            Form::Load => {
                let d = self.rd();
                (format!("x{d}"), rd(d) | low << 20)
            }
            Form::FloatLoad => {
                let d = self.fp();
                (format!("f{d}"), rd(d) | low << 20)
            }
            Form::Store => {
                let b = self.rs();
                (format!("x{b}"), store(b, low))
            }
            _ => {
                let b = self.fp();
                (format!("f{b}"), store(b, low))
            }
        };
        Item::new(format!("{name} {register}, {offset}(x{pointer})"))
            .word(base | bits | rs1(pointer))
    }

    fn control(&mut self, instruction: Instruction) -> Item {
        let Instruction { name, form, base, .. } = instruction;
        let skip = self.skip();
        match form {
            Form::Branch => {
                let a = self.rs();
                // Equal operands are rare by chance.
                let b = if self.random.one_in(4) { a } else { self.rs() };
                Item::new(format!("{name} x{a}, x{b}"))
                    .word(base | rs1(a) | rs2(b))
                    .jumping(Reach::Branch, skip)
            }
            Form::Jump => {
                let d = self.rd();
                Item::new(format!("{name} x{d}")).word(base | rd(d)).jumping(Reach::Jump, skip)
            }
            _ => {
                let (t, d) = (self.rd_not_zero(), self.rd());
                Item::new(format!("auipc x{t}, 0; {name} x{d}, (x{t})"))
                    .word(0x17 | rd(t))
                    .word(base | rd(d) | rs1(t))
                    .jumping(Reach::Indirect, skip)
            }
        }
    }

    /// An aligned address in a register, then the instruction on it.
    fn amo(&mut self, instruction: Instruction) -> Item {
        let (t, d, b) = (self.rd_not_zero(), self.rd(), self.rs());
        let (pointer, offset) = (self.pointer(), self.aligned_offset());
        let order = self.random.bits(2) << 25;
        let name = instruction.name;
        Item::new(format!("addi x{t}, x{pointer}, {offset}; {name} x{d}, x{b}, (x{t})"))
            .word(add_immediate(t, pointer, offset))
            .word(instruction.base | order | rd(d) | rs1(t) | rs2(b))
    }

    /// LR, sometimes something between, SC; sometimes without LR or to another address, when it has
    /// to fail.
    fn reserved(&mut self, instruction: Instruction) -> Item {
        const LOAD: u32 = 2 << 27;
        const STORE: u32 = 3 << 27;
        let t = self.rd_not_zero();
        let (pointer, offset) = (self.pointer(), self.aligned_offset());
        let kind = self.random.below(8);
        let mut item = Item::new(format!("{} at {offset}(x{pointer})", instruction.name))
            .word(add_immediate(t, pointer, offset));
        if kind != 0 {
            let d = self.other_than(t);
            item.text += &format!("; lr x{d}, (x{t})");
            item = item.word(instruction.base | LOAD | self.random.bits(2) << 25 | rd(d) | rs1(t));
        }
        if kind == 1 {
            item.text += &format!("; addi x{t}, x{t}, 128");
            item = item.word(add_immediate(t, t, 128));
        }
        if kind >= 5 {
            let (d, a, b) = (self.other_than(t), self.rs(), self.rs());
            item.text += &format!("; add x{d}, x{a}, x{b}");
            item = item.word(0x33 | rd(d) | rs1(a) | rs2(b));
        }
        let (d, b) = (self.rd(), self.rs());
        item.text += &format!("; sc x{d}, x{b}, (x{t})");
        let order = self.random.bits(2) << 25;
        item.word(instruction.base | STORE | order | rd(d) | rs1(t) | rs2(b))
    }

    fn other_than(&mut self, register: u8) -> u8 {
        loop {
            let candidate = self.rd();
            if candidate != register {
                return candidate;
            }
        }
    }

    /// Writes `addi d, d, n; jr link` into the scratch area, twice with another `n`, and calls it.
    /// The words are built in a register, so `t` and `link` are left with their last values.
    fn self_modification(&mut self, instruction: Instruction) -> Item {
        let t = self.rd_not_zero();
        let link = loop {
            let candidate = self.rd_not_zero();
            if candidate != t {
                break candidate;
            }
        };
        let d = loop {
            let candidate = self.other_than(t);
            if candidate != link {
                break candidate;
            }
        };
        let (pointer, offset) = (self.pointer(), self.aligned_offset());
        let mut item = Item::new(format!("call of written code at {offset}(x{pointer}), x{d}"));
        for _ in 0..2 {
            let addition = add_immediate(d, d, self.random.bits(11));
            let back = 0x67 | rs1(link);
            for (place, word) in [(offset, addition), (offset + 4, back)] {
                item = load_word(item, t, word).word(0x2023 | rs1(pointer) | store(t, place));
            }
            item = item
                .word(instruction.base)
                .word(add_immediate(t, pointer, offset))
                .word(0x67 | rd(link) | rs1(t));
        }
        item
    }

    fn compressed(&mut self, name: &str, short: Short, base: u16) -> Item {
        let six = |bits: u32| ((bits >> 5 & 1) << 12 | (bits & 0x1f) << 2) as u16;
        let any = six(self.random.bits(6));
        let not_zero = six(1 + self.random.below(63));
        let full = |register: u8| u16::from(register) << 7;
        let second = |register: u8| u16::from(register) << 2;
        let bits = match short {
            Short::Immediate => full(self.rd_not_zero()) | any,
            Short::ImmediateNotZero => full(self.rd_not_zero()) | not_zero,
            Short::Upper => loop {
                let register = self.rd_not_zero();
                if register != STACK {
                    break full(register) | not_zero;
                }
            },
            Short::StackAdjust => not_zero,
            Short::StackAddress => {
                (1 + self.random.below(255) as u16) << 5 | second(self.rd_quoted())
            }
            Short::Quoted => full(self.rd_quoted()) | any,
            Short::QuotedNotZero => full(self.rd_quoted()) | not_zero,
            Short::Arithmetic => full(self.rd_quoted()) | second(self.random.bits(3) as u8),
            Short::Register => full(self.rd_not_zero()) | second(1 + self.random.below(31) as u8),
            Short::Load => self.short_address() | second(self.rd_quoted()),
            Short::FloatLoad | Short::Store | Short::FloatStore => {
                self.short_address() | second(self.random.bits(3) as u8)
            }
            Short::StackLoad => full(self.rd_not_zero()) | any,
            Short::StackFloatLoad => full(self.fp()) | any,
            Short::StackStore | Short::StackFloatStore => {
                (self.random.bits(6) as u16) << 7 | second(self.rs())
            }
            Short::Jump | Short::Branch | Short::IndirectJump => {
                return self.short_control(name, short, base);
            }
        };
        Item::new(name).half(base | bits)
    }

    /// Pointer and offset bits of the CL and CS formats.
    fn short_address(&mut self) -> u16 {
        let offset = self.random.bits(5) as u16;
        u16::from(self.pointer_quoted()) << 7 | (offset >> 2) << 10 | (offset & 3) << 5
    }

    fn short_control(&mut self, name: &str, short: Short, base: u16) -> Item {
        let skip = self.skip().min(2);
        match short {
            Short::Jump => Item::new(name).half(base).jumping(Reach::ShortJump, skip),
            Short::Branch => {
                let register = self.random.bits(3) as u16;
                Item::new(format!("{name} x{}", register + 8))
                    .half(base | register << 7)
                    .jumping(Reach::ShortBranch, skip)
            }
            _ => {
                let t = self.rd_not_zero();
                Item::new(format!("auipc x{t}, 0; addi x{t}; {name} x{t}"))
                    .word(0x17 | rd(t))
                    .word(add_immediate(t, t, 0))
                    .half(base | u16::from(t) << 7)
                    .jumping(Reach::ShortIndirect, skip)
            }
        }
    }
}

/// Builds a word in `t`.
fn load_word(item: Item, t: u8, word: u32) -> Item {
    constant(t, word as i32).into_iter().fold(item, Item::word)
}
