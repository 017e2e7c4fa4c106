//! The A extension, by the host's atomic operations.

use crate::cpu::{Cpu, Halt, Reservation, cause};
use crate::decode::{Code, Op};
use crate::memory_access::{OFFSET_MASK, Width};
use crate::mmu::Access;
use std::sync::atomic::{Ordering, fence};

/// What a register gets of a loaded value: words are sign-extended.
fn extend<T: Width>(value: T) -> u64 {
    if T::BYTES == 4 { value.widen() as u32 as i32 as u64 } else { value.widen() }
}

/// Executes an instruction of the A extension.
#[inline(never)]
pub(super) fn execute(cpu: &mut Cpu, op: &Op) -> Result<(), Halt> {
    use Code::*;
    match op.code {
        LrW => load_reserved::<u32>(cpu, op),
        LrD => load_reserved::<u64>(cpu, op),
        ScW => store_conditional::<u32>(cpu, op),
        ScD => store_conditional::<u64>(cpu, op),
        AmoswapW => modify::<u32>(cpu, op, |_, b| b),
        AmoaddW => modify::<u32>(cpu, op, u32::wrapping_add),
        AmoxorW => modify::<u32>(cpu, op, |a, b| a ^ b),
        AmoandW => modify::<u32>(cpu, op, |a, b| a & b),
        AmoorW => modify::<u32>(cpu, op, |a, b| a | b),
        AmominW => modify::<u32>(cpu, op, |a, b| (a as i32).min(b as i32) as u32),
        AmomaxW => modify::<u32>(cpu, op, |a, b| (a as i32).max(b as i32) as u32),
        AmominuW => modify::<u32>(cpu, op, u32::min),
        AmomaxuW => modify::<u32>(cpu, op, u32::max),
        AmoswapD => modify::<u64>(cpu, op, |_, b| b),
        AmoaddD => modify::<u64>(cpu, op, u64::wrapping_add),
        AmoxorD => modify::<u64>(cpu, op, |a, b| a ^ b),
        AmoandD => modify::<u64>(cpu, op, |a, b| a & b),
        AmoorD => modify::<u64>(cpu, op, |a, b| a | b),
        AmominD => modify::<u64>(cpu, op, |a, b| (a as i64).min(b as i64) as u64),
        AmomaxD => modify::<u64>(cpu, op, |a, b| (a as i64).max(b as i64) as u64),
        AmominuD => modify::<u64>(cpu, op, u64::min),
        AmomaxuD => modify::<u64>(cpu, op, u64::max),
        _ => cpu.illegal(),
    }
}

fn load_reserved<T: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Halt> {
    let address = cpu.x[op.rs1 as usize];
    if address & (T::BYTES - 1) != 0 {
        return cpu.trap(cause::LOAD_MISALIGNED, address);
    }
    let (page, _) = cpu.ram_target(address, Access::Load)?;
    // It stays behind all that came before (`rl`) and before all that follows (`aq`), asked for or not. A
    // sequentially consistent compare-and-swap that fails is this load alone.
    fence(Ordering::SeqCst);
    let value = page.load::<T>(address);
    fence(Ordering::Acquire);
    let (offset, bytes) = (address & OFFSET_MASK, T::BYTES);
    cpu.reservation = Some(Reservation { page, offset, bytes, value: value.widen() });
    cpu.x[op.rd as usize] = extend(value);
    Ok(())
}

fn store_conditional<T: Width + PartialEq>(cpu: &mut Cpu, op: &Op) -> Result<(), Halt> {
    let address = cpu.x[op.rs1 as usize];
    if address & (T::BYTES - 1) != 0 {
        return cpu.trap(cause::STORE_MISALIGNED, address);
    }
    let (page, code) = cpu.ram_target(address, Access::Store)?;
    let new = T::narrow(cpu.x[op.rs2 as usize]);
    let (offset, bytes) = (address & OFFSET_MASK, T::BYTES);
    let stored = cpu.reservation.take().is_some_and(|held| {
        held.page == page
            && held.offset == offset
            && held.bytes == bytes
            && page.exchange(address, T::narrow(held.value), new)
    });
    cpu.x[op.rd as usize] = u64::from(!stored);
    if stored { cpu.code_written([code, None]) } else { Ok(()) }
}

fn modify<T: Width>(cpu: &mut Cpu, op: &Op, new: impl Fn(T, T) -> T) -> Result<(), Halt> {
    let address = cpu.x[op.rs1 as usize];
    if address & (T::BYTES - 1) != 0 {
        return cpu.trap(cause::STORE_MISALIGNED, address);
    }
    let operand = T::narrow(cpu.x[op.rs2 as usize]);
    let (page, code) = match cpu.mmu.tlb.writable::<T>(address) {
        Some(page) => (page, None),
        None => cpu.ram_target(address, Access::Store)?,
    };
    let old = page.modify(address, |old| new(old, operand));
    cpu.x[op.rd as usize] = extend(old);
    cpu.code_written([code, None])
}
