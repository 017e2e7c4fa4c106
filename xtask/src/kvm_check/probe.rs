//! How fast code of a guest's kernel runs: at the processor's speed where KVM has the hardware's help.
//!
//! A KVM may do without that help: it runs a guest's user code as it is and emulates its kernel's, an
//! instruction at a time. No flag tells that reliably, so it is measured: a loop at CPL0, in long mode.
#![allow(unsafe_code)]

use std::time::Instant;

use anyhow::{Context, Result, bail};
use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

/// Rounds of the loop, of two instructions each: 0.2 s where they are emulated.
const ROUNDS: u32 = 1 << 17;
/// Instructions a second that no processor falls below and no emulator of KVM's gets near.
pub(super) const HARDWARE: f64 = 50e6;

/// `mov ecx, ROUNDS; again: dec ecx; jnz again; hlt` for 64-bit mode (Intel SDM, volume 2).
const CODE: [u8; 10] = {
    let [a, b, c, d] = ROUNDS.to_le_bytes();
    [0xb9, a, b, c, d, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
};

const PAGE: u64 = 4096;
/// Guest addresses: the code, and three levels of page tables that map the first 2 MiB.
const CODE_AT: u64 = 0;
const TABLES: [u64; 3] = [PAGE, 2 * PAGE, 3 * PAGE];
const PRESENT_WRITABLE: u64 = 0b11;
const HUGE: u64 = 1 << 7;

/// Three pages that no guest memory lies at.
const TSS_ADDRESS: usize = 0xfffb_d000;

const CR0_PE_PG: u64 = 1 << 31 | 1;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; PAGE as usize]);

fn put(pages: &mut [Page], at: u64, bytes: &[u8]) -> Result<()> {
    let page = pages.get_mut((at / PAGE) as usize).context("no such page")?;
    page.0.get_mut(..bytes.len()).context("more than a page")?.copy_from_slice(bytes);
    Ok(())
}

/// A vCPU about to run the loop at CPL0 in long mode.
fn at_the_loop(vcpu: &VcpuFd) -> Result<()> {
    let mut special = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    let segment = |selector, type_, l, db| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l,
        db,
        ..Default::default()
    };
    special.cs = segment(0x08, 0b1011, 1, 0);
    let data = segment(0x10, 0b0011, 0, 1);
    (special.ds, special.es, special.ss) = (data, data, data);
    special.cr0 = CR0_PE_PG;
    special.cr3 = TABLES[0];
    special.cr4 = CR4_PAE;
    special.efer = EFER_LME_LMA;
    vcpu.set_sregs(&special).context("KVM_SET_SREGS")?;
    let mut registers = vcpu.get_regs().context("KVM_GET_REGS")?;
    (registers.rip, registers.rflags) = (CODE_AT, 2);
    vcpu.set_regs(&registers).context("KVM_SET_REGS")
}

/// Instructions a second of a guest's kernel code.
pub(super) fn kernel_speed() -> Result<f64> {
    let mut pages = vec![Page([0; PAGE as usize]); 1 + TABLES.len()];
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    // Intel's processors want room of their own before a vCPU is made.
    vm.set_tss_address(TSS_ADDRESS).context("KVM_SET_TSS_ADDR")?;
    put(&mut pages, CODE_AT, &CODE)?;
    put(&mut pages, TABLES[0], &(TABLES[1] | PRESENT_WRITABLE).to_le_bytes())?;
    put(&mut pages, TABLES[1], &(TABLES[2] | PRESENT_WRITABLE).to_le_bytes())?;
    put(&mut pages, TABLES[2], &(PRESENT_WRITABLE | HUGE).to_le_bytes())?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size_of_val(pages.as_slice()) as u64,
        userspace_addr: pages.as_mut_ptr() as u64,
    };
    // SAFETY: the region is `pages`, whole pages of this function's own that it touches no more while the
    // guest may; a return on an error drops what is declared later first, and the end says it in this order.
    unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
    let mut vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    at_the_loop(&vcpu)?;
    let start = Instant::now();
    match vcpu.run().context("KVM_RUN")? {
        VcpuExit::Hlt => {}
        other => bail!("a loop in kernel mode ended by {other:?}"),
    }
    let speed = f64::from(2 * ROUNDS) / start.elapsed().as_secs_f64();
    drop(vcpu);
    drop(vm);
    drop(pages);
    Ok(speed)
}

#[cfg(test)]
mod tests {
    use super::kernel_speed;

    #[test]
    fn a_loop_at_cpl0_ends_wherever_there_is_a_kvm() {
        if kvm_ioctls::Kvm::new().is_ok() {
            assert!(kernel_speed().unwrap() > 1e4);
        }
    }
}
