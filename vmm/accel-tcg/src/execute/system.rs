//! Instructions that end their block: traps, CSRs, fences of code and translations.

use super::Flow;
use crate::cpu::{Cpu, Halt, Mode, cause};
use crate::decode::{Code, Op};
use accel::VmExit;

/// `sip`
const SIP: u32 = 0x144;
const SOFTWARE: u64 = 1 << 1;

/// Executes a system instruction. The program counter stands at it, and is moved on.
#[inline(never)]
pub(super) fn execute(cpu: &mut Cpu, op: &Op) -> Result<Flow, Halt> {
    let supervisor = cpu.mode == Mode::Supervisor;
    let here = cpu.pc;
    let mut next = here.wrapping_add(op.length.into());
    match op.code {
        Code::Illegal => return cpu.trap(cause::ILLEGAL, u64::from(op.imm as u32)),
        Code::FenceI => cpu.recheck_code(),
        Code::Ecall if supervisor => {
            let a = &cpu.x[10..18];
            let (extension, function) = (a[7], a[6]);
            let arguments = [a[0], a[1], a[2], a[3], a[4], a[5]];
            return cpu.completed(VmExit::Sbi { extension, function, arguments });
        }
        Code::Ecall => return cpu.trap(cause::USER_CALL, 0),
        Code::Ebreak => return cpu.trap(cause::BREAKPOINT, here),
        Code::Sret if supervisor => {
            cpu.return_from_trap();
            next = cpu.pc;
        }
        Code::Wfi if supervisor => {
            cpu.check_timer();
            if cpu.pending() & cpu.csr.sie == 0 {
                let armed =
                    cpu.timer != u64::MAX && cpu.csr.sie & crate::csr::interrupt::TIMER != 0;
                let until = armed.then_some(cpu.timer);
                return cpu.completed(VmExit::WaitForInterrupt { until });
            }
        }
        Code::SfenceVma if supervisor => {
            if op.rs1 == 0 {
                cpu.flush_translations();
            } else {
                cpu.mmu.tlb.flush_page(cpu.x[op.rs1 as usize]);
                cpu.forget_jumps();
            }
        }
        Code::Csrrw | Code::Csrrs | Code::Csrrc | Code::Csrrwi | Code::Csrrsi | Code::Csrrci => {
            access_csr(cpu, op)?;
        }
        _ => return cpu.illegal(),
    }
    cpu.pc = next;
    Ok(Flow::Check)
}

fn access_csr(cpu: &mut Cpu, op: &Op) -> Result<(), Halt> {
    use Code::*;
    let number = op.imm as u32;
    let operand = match op.code {
        Csrrw | Csrrs | Csrrc => cpu.x[op.rs1 as usize],
        _ => op.rs1.into(),
    };
    let replaces = matches!(op.code, Csrrw | Csrrwi);
    let write = replaces || op.rs1 != 0;
    if !cpu.may_access_csr(number, write) {
        return cpu.illegal();
    }
    let retired = cpu.retired + u64::from(op.index);
    let Some(mut old) = cpu.read_csr(number, retired) else {
        return cpu.illegal();
    };
    let new = match op.code {
        Csrrw | Csrrwi => operand,
        Csrrs | Csrrsi => old | operand,
        _ => old & !operand,
    };
    if number != SIP {
        if write {
            cpu.write_csr(number, new);
        }
    } else if replaces || operand & SOFTWARE != 0 {
        // Not unless it is meant: what was read may be old.
        let was = cpu.swap_software_interrupt(new & SOFTWARE != 0);
        old = if was { old | SOFTWARE } else { old & !SOFTWARE };
    }
    cpu.x[op.rd as usize] = old;
    Ok(())
}
