//! What of guest memory a vCPU needs first: the pages that KVM itself writes, and what the registers point to,
//! with the page tables in between (Intel SDM volume 3, "4-Level Paging and 5-Level Paging", "Task
//! Management", "Interrupt and Exception Handling").

use super::{KvmVcpu, apic};
use crate::state::msrs;
use std::io;
use umem_memory::{GuestAddress, GuestRam};

/// `CR0.PG`, `CR4.LA57`, `EFER.LMA`.
const PAGING: u64 = 1 << 31;
const FIVE_LEVELS: u64 = 1 << 12;
const LONG_MODE: u64 = 1 << 10;

/// Present, and a page instead of a table, in an entry of a page table.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Where an entry points to.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Registers that hold places of KVM's own in guest memory, and the bits beside each address (Linux,
/// `Documentation/virt/kvm/x86/msr.rst`): clock, asynchronous page faults, stolen time, end of interrupt.
const KVMS_OWN: [(u32, u64); 4] =
    [(0x4b56_4d01, 1), (0x4b56_4d02, 0x3f), (0x4b56_4d03, 0x3f), (0x4b56_4d04, 3)];
/// Where SYSCALL goes, and the base that SWAPGS puts into GS.
const SYSTEM_CALL: u32 = 0xc000_0082;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Bytes of a gate in the interrupt descriptor table.
const GATE_BYTES: u64 = 16;
/// Vector of a page fault.
const PAGE_FAULT: u64 = 14;
/// Where the stacks' addresses lie in a task state segment: those of the levels, then those of gates.
const STACKS: [u64; 2] = [4, 36];

/// Memory as the vCPU translates it.
struct Translation<'a> {
    ram: &'a GuestRam,
    root: u64,
    /// Levels of page tables; none: addresses are physical.
    levels: u32,
    /// What was read, and where it led.
    touched: Vec<GuestAddress>,
}

impl Translation<'_> {
    fn word(&self, physical: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.ram.read_at(GuestAddress(physical), &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Goes to an address; where it lies, if it is mapped.
    fn visit(&mut self, address: u64) -> Option<u64> {
        let mut at = self.root;
        for level in (0..self.levels).rev() {
            let shift = 12 + 9 * level;
            at += (address >> shift & 0x1ff) * 8;
            self.touched.push(GuestAddress(at));
            let entry = self.word(at).filter(|entry| entry & PRESENT != 0)?;
            at = entry & FRAME;
            if level > 0 && entry & LARGE != 0 {
                let inside = (1 << shift) - 1;
                at = at & !inside | address & inside & !0xfff;
                break;
            }
        }
        let physical = if self.levels == 0 { address } else { at | address & 0xfff };
        self.touched.push(GuestAddress(physical));
        Some(physical)
    }

    /// Reads a word at an address.
    fn read(&mut self, address: u64) -> Option<u64> {
        let physical = self.visit(address)?;
        self.word(physical)
    }
}

/// The pages, the surest first. The vCPU stands still.
pub(super) fn of(vcpu: &KvmVcpu) -> io::Result<Vec<GuestAddress>> {
    let (special, general) = (vcpu.fd.get_sregs()?, vcpu.fd.get_regs()?);
    let levels = match (special.cr0 & PAGING, special.efer & LONG_MODE) {
        (0, _) => 0,
        (_, 0) => return Ok(Vec::new()),
        _ if special.cr4 & FIVE_LEVELS != 0 => 5,
        _ => 4,
    };
    let msr = |index| msrs::read(&vcpu.fd, index).unwrap_or(0);
    let in_use = KVMS_OWN.iter().map(|&(index, flags)| (msr(index), flags));
    let own = in_use.filter(|(value, _)| value & 1 != 0).map(|(value, flags)| value & !flags);
    let touched = own.map(GuestAddress).collect();
    let root = special.cr3 & FRAME;
    let mut memory = Translation { ram: vcpu.vm.slots.ram(), root, levels, touched };
    for address in [
        general.rip,
        general.rsp,
        special.gdt.base.wrapping_add(special.cs.selector.into()),
        special.tr.base,
        special.gs.base,
        special.fs.base,
    ] {
        memory.visit(address);
    }
    let timer = u64::from(apic::get(&vcpu.fd.get_lapic()?, apic::TIMER) & 0xff);
    for vector in [timer, PAGE_FAULT] {
        let gate = special.idt.base.wrapping_add(vector * GATE_BYTES);
        if let (Some(low), Some(high)) = (memory.read(gate), memory.read(gate.wrapping_add(8))) {
            memory.visit(low & 0xffff | low >> 32 & 0xffff_0000 | high << 32);
        }
    }
    for stack in STACKS {
        // The first word that is pushed lies below.
        if let Some(top) = memory.read(special.tr.base.wrapping_add(stack)) {
            memory.visit(top.wrapping_sub(8));
        }
    }
    for address in [msr(SYSTEM_CALL), msr(KERNEL_GS_BASE)] {
        memory.visit(address);
    }
    Ok(memory.touched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_memory::{Backend, PageSize, RamBlockSpec, RamLayout};

    const WRITABLE: u64 = 2;

    fn ram() -> GuestRam {
        let spec =
            RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0), bytes: 4 << 20 };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        GuestRam::new(layout, &Backend::Anonymous).unwrap()
    }

    fn put(ram: &GuestRam, at: u64, value: u64) {
        ram.write_at(GuestAddress(at), &value.to_le_bytes()).unwrap();
    }

    #[test]
    fn tables_are_read_down_to_small_and_large_pages_and_no_further() {
        let ram = ram();
        let high = 0xffff_8000_0040_3000_u64;
        let entry = |level: u32, address: u64| (address >> (12 + 9 * level) & 0x1ff) * 8;
        let (root, third, second, first) = (0x1000, 0x2000, 0x3000, 0x4000);
        put(&ram, root + entry(3, high), third | PRESENT);
        put(&ram, third + entry(2, high), second | PRESENT);
        put(&ram, second + entry(1, high), first | PRESENT | WRITABLE);
        put(&ram, first + entry(0, high), 0x9000 | PRESENT | 1 << 63);
        put(&ram, second + entry(1, high + (2 << 20)), 0x20_0000 | PRESENT | LARGE);
        put(&ram, 0x9010, 77);
        let mut memory = Translation { ram: &ram, root, levels: 4, touched: Vec::new() };
        assert_eq!(memory.read(high | 0x10), Some(77));
        let touched = |memory: &mut Translation<'_>| -> Vec<u64> {
            std::mem::take(&mut memory.touched).iter().map(|at| at.0 & !0xfff).collect()
        };
        assert_eq!(touched(&mut memory), [root, third, second, first, 0x9000]);
        assert_eq!(memory.visit(high + (2 << 20) + 0x1234), Some(0x20_0000 + 0x4234));
        assert_eq!(touched(&mut memory), [root, third, second, 0x20_4000]);
        assert_eq!(memory.visit(high + (4 << 20)), None, "not mapped");
        assert_eq!(touched(&mut memory), [root, third, second]);
        assert_eq!(memory.visit(0x1000), None);
        assert_eq!(touched(&mut memory), [root]);
        // A table outside RAM, and no tables at all.
        memory.root = 1 << 40;
        assert_eq!(memory.visit(high), None);
        let mut bare = Translation { ram: &ram, root, levels: 0, touched: Vec::new() };
        assert_eq!(bare.read(0x9010), Some(77));
        assert_eq!(touched(&mut bare), [0x9000]);
    }
}
