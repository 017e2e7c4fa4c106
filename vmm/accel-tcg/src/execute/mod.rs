//! Executes blocks of pre-decoded instructions.

mod alu;
mod atomic;
mod float;
mod memory;
mod system;

use crate::blocks::{Block, Blocks};
use crate::cpu::{Cpu, Halt};
use crate::decode::{Code, Op};
use alu::word;

/// How a block, or a run of blocks, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// With its last instruction.
    Next,
    /// With its last instruction, after which an interrupt may be possible that was not before.
    Check,
    /// Before its end; the event says why.
    Halted,
    /// There is no decoded block for the program counter.
    Unknown,
    /// It is time to look around.
    Poll,
}

/// Runs decoded blocks until something else is to be done.
pub(crate) fn run(cpu: &mut Cpu, blocks: &Blocks) -> Flow {
    let Some(mut block) = blocks.jump(cpu.pc, cpu.mode, cpu.jumps) else {
        return Flow::Unknown;
    };
    loop {
        let base = cpu.pc;
        match run_block(cpu, block) {
            Flow::Next if cpu.retired < cpu.poll_at => {}
            Flow::Next => return Flow::Poll,
            flow => return flow,
        }
        match blocks.follow(block, base, cpu.pc, cpu.mode, cpu.jumps) {
            Some(next) => block = next,
            None => return Flow::Unknown,
        }
    }
}

/// Runs one block, whose first instruction is at the program counter.
pub(crate) fn run_once(cpu: &mut Cpu, block: &Block) -> Flow {
    run_block(cpu, block)
}

/// Stops inside a block, with the program counter at the instruction, or behind it if it is
/// complete.
#[cold]
#[inline(never)]
fn halt(cpu: &mut Cpu, base: u64, op: &Op) -> Flow {
    use crate::cpu::Event;
    let complete = matches!(cpu.event, Event::Completed(_) | Event::CodeWritten);
    let behind = if complete { op.length.into() } else { 0 };
    cpu.pc = base.wrapping_add(u64::from(op.offset) + behind);
    cpu.retired += u64::from(op.index) + u64::from(complete);
    Flow::Halted
}

#[inline(always)]
#[allow(clippy::too_many_lines)]
fn run_block(cpu: &mut Cpu, block: &Block) -> Flow {
    use Code::*;
    let base = cpu.pc;
    for op in &block.ops {
        macro_rules! a {
            () => {
                cpu.x[op.rs1 as usize]
            };
        }
        macro_rules! b {
            () => {
                cpu.x[op.rs2 as usize]
            };
        }
        macro_rules! set {
            ($value:expr) => {
                cpu.x[op.rd as usize] = $value
            };
        }
        macro_rules! attempt {
            ($result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(Halt) => return halt(cpu, base, op),
                }
            };
        }
        macro_rules! load {
            ($width:ty, $as:ty) => {{
                let address = a!().wrapping_add(op.imm as u64);
                let value = attempt!(cpu.load::<$width>(address));
                set!(value as $as as u64)
            }};
        }
        macro_rules! store {
            ($width:ty) => {{
                let address = a!().wrapping_add(op.imm as u64);
                attempt!(cpu.store::<$width>(address, b!() as $width))
            }};
        }
        // Ends the block with the program counter that follows.
        macro_rules! leave {
            ($pc:expr) => {{
                cpu.pc = $pc;
                cpu.retired += u64::from(block.count);
                return Flow::Next;
            }};
        }
        macro_rules! branch {
            ($taken:expr) => {{
                let offset = if $taken { op.imm as u64 } else { block.bytes.into() };
                leave!(base.wrapping_add(offset))
            }};
        }
        let immediate = op.imm as u64;
        let shift = op.imm as u32;
        match op.code {
            Lui => set!(immediate),
            Auipc => set!(base.wrapping_add(immediate)),
            Addi => set!(a!().wrapping_add(immediate)),
            Slti => set!(((a!() as i64) < immediate as i64).into()),
            Sltiu => set!((a!() < immediate).into()),
            Xori => set!(a!() ^ immediate),
            Ori => set!(a!() | immediate),
            Andi => set!(a!() & immediate),
            Slli => set!(a!().wrapping_shl(shift)),
            Srli => set!(a!().wrapping_shr(shift)),
            Srai => set!((a!() as i64).wrapping_shr(shift) as u64),
            Add => set!(a!().wrapping_add(b!())),
            Sub => set!(a!().wrapping_sub(b!())),
            Sll => set!(a!().wrapping_shl(b!() as u32)),
            Slt => set!(((a!() as i64) < b!() as i64).into()),
            Sltu => set!((a!() < b!()).into()),
            Xor => set!(a!() ^ b!()),
            Srl => set!(a!().wrapping_shr(b!() as u32)),
            Sra => set!((a!() as i64).wrapping_shr(b!() as u32) as u64),
            Or => set!(a!() | b!()),
            And => set!(a!() & b!()),
            Addiw => set!(word(a!().wrapping_add(immediate))),
            Slliw => set!(word((a!() as u32).wrapping_shl(shift).into())),
            Srliw => set!(word((a!() as u32).wrapping_shr(shift).into())),
            Sraiw => set!((a!() as i32).wrapping_shr(shift) as u64),
            Addw => set!(word(a!().wrapping_add(b!()))),
            Subw => set!(word(a!().wrapping_sub(b!()))),
            Sllw => set!(word((a!() as u32).wrapping_shl(b!() as u32).into())),
            Srlw => set!(word((a!() as u32).wrapping_shr(b!() as u32).into())),
            Sraw => set!((a!() as i32).wrapping_shr(b!() as u32) as u64),
            Mul => set!(a!().wrapping_mul(b!())),
            Mulh => set!(alu::mulh(a!(), b!())),
            Mulhsu => set!(alu::mulhsu(a!(), b!())),
            Mulhu => set!(alu::mulhu(a!(), b!())),
            Div => set!(alu::div(a!(), b!())),
            Divu => set!(alu::divu(a!(), b!())),
            Rem => set!(alu::rem(a!(), b!())),
            Remu => set!(alu::remu(a!(), b!())),
            Mulw => set!(word(a!().wrapping_mul(b!()))),
            Divw => set!(alu::divw(a!(), b!())),
            Divuw => set!(alu::divuw(a!(), b!())),
            Remw => set!(alu::remw(a!(), b!())),
            Remuw => set!(alu::remuw(a!(), b!())),
            Lb => load!(u8, i8),
            Lh => load!(u16, i16),
            Lw => load!(u32, i32),
            Ld => load!(u64, u64),
            Lbu => load!(u8, u8),
            Lhu => load!(u16, u16),
            Lwu => load!(u32, u32),
            Sb => store!(u8),
            Sh => store!(u16),
            Sw => store!(u32),
            Sd => store!(u64),
            Beq => branch!(a!() == b!()),
            Bne => branch!(a!() != b!()),
            Blt => branch!((a!() as i64) < b!() as i64),
            Bge => branch!(a!() as i64 >= b!() as i64),
            Bltu => branch!(a!() < b!()),
            Bgeu => branch!(a!() >= b!()),
            Jal => {
                set!(base.wrapping_add(block.bytes.into()));
                leave!(base.wrapping_add(immediate))
            }
            Jalr => {
                let target = a!().wrapping_add(immediate) & !1;
                set!(base.wrapping_add(block.bytes.into()));
                leave!(target)
            }
            Next => leave!(base.wrapping_add(block.bytes.into())),
            Fence => std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst),
            // What the guest waits for in a loop, another hart does: perhaps on this host CPU.
            Pause => std::thread::yield_now(),
            FenceI | Ecall | Ebreak | Sret | Wfi | SfenceVma | Illegal | Csrrw | Csrrs | Csrrc
            | Csrrwi | Csrrsi | Csrrci => {
                cpu.pc = base.wrapping_add(op.offset.into());
                let flow = attempt!(system::execute(cpu, op));
                cpu.retired += u64::from(block.count);
                return flow;
            }
            LrW | LrD | ScW | ScD | AmoswapW | AmoaddW | AmoxorW | AmoandW | AmoorW | AmominW
            | AmomaxW | AmominuW | AmomaxuW | AmoswapD | AmoaddD | AmoxorD | AmoandD | AmoorD
            | AmominD | AmomaxD | AmominuD | AmomaxuD => attempt!(atomic::execute(cpu, op)),
            _ => attempt!(float::execute(cpu, op)),
        }
    }
    // Unreachable: the last instruction of a block leaves it. An endless loop is better than a
    // wrong step, and the run loop still looks around.
    cpu.retired += 1;
    Flow::Next
}

/// Completes a load with what a device answered.
pub(crate) fn complete_load(cpu: &mut Cpu, op: &Op, value: u64) {
    let extended = match op.code {
        Code::Lb => value as i8 as u64,
        Code::Lh => value as i16 as u64,
        Code::Lw => value as i32 as u64,
        Code::Lbu => value as u8 as u64,
        Code::Lhu => value as u16 as u64,
        Code::Lwu => value as u32 as u64,
        Code::Ld => value,
        _ => return float::complete_load(cpu, op, value),
    };
    cpu.x[op.rd as usize] = extended;
}
