//! The first vCPU's registers at the start. The others wait for it, in their reset state.

use crate::load::Start;
use crate::long_mode::{GDT_BYTES, code, data, no_local_descriptors, task};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_sregs};

/// `rflags` with interrupts and traps off; bit 1 is always set.
const FLAGS: u64 = 1 << 1;
const CR0_PROTECTED: u64 = 1;
const CR0_PAGING: u64 = 1 << 31;
/// Says only that there is an x87, and cannot be cleared.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
/// Long mode wanted, and active.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;

/// General registers.
#[must_use]
pub fn registers(start: &Start) -> kvm_regs {
    let registers = kvm_regs { rflags: FLAGS, ..kvm_regs::default() };
    match *start {
        Start::Pvh { entry, start_info } => {
            kvm_regs { rip: entry.0, rbx: start_info.0, ..registers }
        }
        Start::Linux64 { entry, boot_params, .. } => {
            kvm_regs { rip: entry.0, rsi: boot_params.0, ..registers }
        }
    }
}

/// Segments and control registers, given those that the vCPU has. The local APIC's address stays;
/// nothing else does, whatever ran before.
#[must_use]
pub fn special_registers(start: &Start, present: &kvm_sregs) -> kvm_sregs {
    let long = matches!(start, Start::Linux64 { .. });
    let mut special = kvm_sregs {
        cs: code(long),
        ds: data(),
        es: data(),
        ss: data(),
        fs: data(),
        gs: data(),
        tr: task(),
        ldt: no_local_descriptors(),
        cr0: CR0_PROTECTED | CR0_EXTENSION_TYPE,
        apic_base: present.apic_base,
        ..kvm_sregs::default()
    };
    if let Start::Linux64 { gdt, page_table, .. } = start {
        special.gdt = kvm_dtable { base: gdt.0, limit: GDT_BYTES as u16 - 1, padding: [0; 3] };
        special.cr0 |= CR0_PAGING;
        special.cr3 = page_table.0;
        special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
        special.efer = EFER_LONG;
    }
    special
}

#[cfg(test)]
mod tests;
