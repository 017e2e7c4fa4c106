//! The F and D extensions.

use crate::cpu::{Cpu, Halt};
use crate::decode::{Code, Op};
use crate::fpu::{self, Rounding};

const BOX: u64 = 0xffff_ffff_0000_0000;

/// The single in a register; what is not boxed counts as a NaN.
#[inline(always)]
fn single(value: u64) -> u32 {
    if value & BOX == BOX { value as u32 } else { fpu::f32::CANONICAL_NAN }
}

#[inline(always)]
fn boxed(value: u32) -> u64 {
    BOX | u64::from(value)
}

impl Cpu {
    #[inline(always)]
    fn float(&self, register: u8) -> u64 {
        self.f[usize::from(register & 31)]
    }

    #[inline(always)]
    fn set_float(&mut self, register: u8, value: u64) {
        self.f[usize::from(register & 31)] = value;
    }

    /// The rounding mode of an instruction; `None` when it asks for `frm`, and that holds none.
    #[inline(always)]
    fn rounding(&self, op: &Op) -> Option<Rounding> {
        let own = (op.imm & 7) as u8;
        Rounding::from_bits(if own == 7 { self.rounding } else { own })
    }

    #[inline(always)]
    fn address(&self, op: &Op) -> u64 {
        self.x[op.rs1 as usize].wrapping_add(op.imm as u64)
    }
}

/// Executes an instruction of the F or D extension.
#[inline(never)]
#[allow(clippy::too_many_lines)]
pub(super) fn execute(cpu: &mut Cpu, op: &Op) -> Result<(), Halt> {
    use Code::*;
    use fpu::{f32 as s, f64 as d};
    if !cpu.csr.floats() {
        return cpu.illegal();
    }
    macro_rules! a {
        (s) => {
            single(cpu.float(op.rs1))
        };
        (d) => {
            cpu.float(op.rs1)
        };
    }
    macro_rules! b {
        (s) => {
            single(cpu.float(op.rs2))
        };
        (d) => {
            cpu.float(op.rs2)
        };
    }
    macro_rules! c {
        (s) => {
            single(cpu.float((op.imm >> 3) as u8))
        };
        (d) => {
            cpu.float((op.imm >> 3) as u8)
        };
    }
    macro_rules! put {
        (s, $value:expr) => {{
            let value = boxed($value);
            cpu.set_float(op.rd, value)
        }};
        (d, $value:expr) => {{
            let value = $value;
            cpu.set_float(op.rd, value)
        }};
    }
    macro_rules! put_integer {
        ($value:expr) => {
            cpu.x[op.rd as usize] = $value
        };
    }
    macro_rules! rm {
        () => {
            match cpu.rounding(op) {
                Some(rm) => rm,
                None => return cpu.illegal(),
            }
        };
    }
    macro_rules! flags {
        () => {
            &mut cpu.flags
        };
    }
    match op.code {
        Flw => {
            let value = cpu.load::<u32>(cpu.address(op))?;
            put!(s, value);
        }
        Fld => {
            let value = cpu.load::<u64>(cpu.address(op))?;
            put!(d, value);
        }
        // A store leaves the float state as it is.
        Fsw => return cpu.store(cpu.address(op), cpu.float(op.rs2) as u32),
        Fsd => return cpu.store(cpu.address(op), cpu.float(op.rs2)),
        FmaddS => put!(s, s::fmadd(a!(s), b!(s), c!(s), rm!(), flags!())),
        FmsubS => put!(s, s::fmsub(a!(s), b!(s), c!(s), rm!(), flags!())),
        FnmsubS => put!(s, s::fnmsub(a!(s), b!(s), c!(s), rm!(), flags!())),
        FnmaddS => put!(s, s::fnmadd(a!(s), b!(s), c!(s), rm!(), flags!())),
        FaddS => put!(s, s::add(a!(s), b!(s), rm!(), flags!())),
        FsubS => put!(s, s::sub(a!(s), b!(s), rm!(), flags!())),
        FmulS => put!(s, s::mul(a!(s), b!(s), rm!(), flags!())),
        FdivS => put!(s, s::div(a!(s), b!(s), rm!(), flags!())),
        FsqrtS => put!(s, s::sqrt(a!(s), rm!(), flags!())),
        FsgnjS => put!(s, s::sgnj(a!(s), b!(s))),
        FsgnjnS => put!(s, s::sgnjn(a!(s), b!(s))),
        FsgnjxS => put!(s, s::sgnjx(a!(s), b!(s))),
        FminS => put!(s, s::min(a!(s), b!(s), flags!())),
        FmaxS => put!(s, s::max(a!(s), b!(s), flags!())),
        FeqS => put_integer!(s::eq(a!(s), b!(s), flags!()).into()),
        FltS => put_integer!(s::lt(a!(s), b!(s), flags!()).into()),
        FleS => put_integer!(s::le(a!(s), b!(s), flags!()).into()),
        FclassS => put_integer!(s::classify(a!(s))),
        FcvtWS => put_integer!(s::to_i32(a!(s), rm!(), flags!()) as u64),
        FcvtWuS => put_integer!(s::to_u32(a!(s), rm!(), flags!()) as i32 as u64),
        FcvtLS => put_integer!(s::to_i64(a!(s), rm!(), flags!()) as u64),
        FcvtLuS => put_integer!(s::to_u64(a!(s), rm!(), flags!())),
        FcvtSW => put!(s, s::from_i32(cpu.x[op.rs1 as usize] as i32, rm!(), flags!())),
        FcvtSWu => put!(s, s::from_u32(cpu.x[op.rs1 as usize] as u32, rm!(), flags!())),
        FcvtSL => put!(s, s::from_i64(cpu.x[op.rs1 as usize] as i64, rm!(), flags!())),
        FcvtSLu => put!(s, s::from_u64(cpu.x[op.rs1 as usize], rm!(), flags!())),
        // The bits, boxed or not.
        FmvXW => put_integer!(cpu.float(op.rs1) as i32 as u64),
        FmvWX => put!(s, cpu.x[op.rs1 as usize] as u32),
        FcvtSD => put!(s, fpu::f64_to_f32(a!(d), rm!(), flags!())),
        FmaddD => put!(d, d::fmadd(a!(d), b!(d), c!(d), rm!(), flags!())),
        FmsubD => put!(d, d::fmsub(a!(d), b!(d), c!(d), rm!(), flags!())),
        FnmsubD => put!(d, d::fnmsub(a!(d), b!(d), c!(d), rm!(), flags!())),
        FnmaddD => put!(d, d::fnmadd(a!(d), b!(d), c!(d), rm!(), flags!())),
        FaddD => put!(d, d::add(a!(d), b!(d), rm!(), flags!())),
        FsubD => put!(d, d::sub(a!(d), b!(d), rm!(), flags!())),
        FmulD => put!(d, d::mul(a!(d), b!(d), rm!(), flags!())),
        FdivD => put!(d, d::div(a!(d), b!(d), rm!(), flags!())),
        FsqrtD => put!(d, d::sqrt(a!(d), rm!(), flags!())),
        FsgnjD => put!(d, d::sgnj(a!(d), b!(d))),
        FsgnjnD => put!(d, d::sgnjn(a!(d), b!(d))),
        FsgnjxD => put!(d, d::sgnjx(a!(d), b!(d))),
        FminD => put!(d, d::min(a!(d), b!(d), flags!())),
        FmaxD => put!(d, d::max(a!(d), b!(d), flags!())),
        FeqD => put_integer!(d::eq(a!(d), b!(d), flags!()).into()),
        FltD => put_integer!(d::lt(a!(d), b!(d), flags!()).into()),
        FleD => put_integer!(d::le(a!(d), b!(d), flags!()).into()),
        FclassD => put_integer!(d::classify(a!(d))),
        FcvtWD => put_integer!(d::to_i32(a!(d), rm!(), flags!()) as u64),
        FcvtWuD => put_integer!(d::to_u32(a!(d), rm!(), flags!()) as i32 as u64),
        FcvtLD => put_integer!(d::to_i64(a!(d), rm!(), flags!()) as u64),
        FcvtLuD => put_integer!(d::to_u64(a!(d), rm!(), flags!())),
        FcvtDW => put!(d, d::from_i32(cpu.x[op.rs1 as usize] as i32, rm!(), flags!())),
        FcvtDWu => put!(d, d::from_u32(cpu.x[op.rs1 as usize] as u32, rm!(), flags!())),
        FcvtDL => put!(d, d::from_i64(cpu.x[op.rs1 as usize] as i64, rm!(), flags!())),
        FcvtDLu => put!(d, d::from_u64(cpu.x[op.rs1 as usize], rm!(), flags!())),
        FmvXD => put_integer!(cpu.float(op.rs1)),
        FmvDX => put!(d, cpu.x[op.rs1 as usize]),
        FcvtDS => {
            let _ = rm!();
            put!(d, fpu::f32_to_f64(a!(s), flags!()));
        }
        _ => return cpu.illegal(),
    }
    cpu.floats_dirty();
    Ok(())
}

/// Completes a float load with what a device answered.
pub(super) fn complete_load(cpu: &mut Cpu, op: &Op, value: u64) {
    let value = if op.code == Code::Flw { boxed(value as u32) } else { value };
    cpu.set_float(op.rd, value);
    cpu.floats_dirty();
}
