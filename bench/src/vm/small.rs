//! A guest of a few instructions, without devices or an operating system: for what KVM itself takes.
#![allow(unsafe_code)]

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

const PAGE: u64 = 4096;
/// Guest addresses: the code, and three levels of page tables.
const CODE_AT: u64 = 0;
const TABLES: [u64; 3] = [PAGE, 2 * PAGE, 3 * PAGE];
/// The lowest level maps 1 GiB in pages of 2 MiB, each address at itself.
const LARGE_PAGE: u64 = 2 << 20;
const PRESENT_WRITABLE_USER: u64 = 0b111;
const LARGE: u64 = 1 << 7;

/// Three pages that no guest memory lies at.
const TSS_ADDRESS: usize = 0xfffb_d000;

const CR0_PE_PG: u64 = 1 << 31 | 1;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// The bit that is always set, and the level that may use ports: any.
const RFLAGS: u64 = 1 << 1 | 3 << 12;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; PAGE as usize]);

/// How much its code may. A KVM without the hardware's help emulates what may do all, and runs programs as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A kernel's: CPL 0.
    Kernel,
    /// A program's: CPL 3, ports allowed.
    Program,
}

/// How its code came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By `hlt`.
    Halted,
    /// By `out` to this port.
    Port(u16),
}

/// The guest: 64-bit code, memory below 1 GiB mapped to itself. The first four pages are its own.
#[derive(Debug)]
pub struct SmallGuest {
    vcpu: VcpuFd,
    // Dropped in this order: nothing of the VM is left when its memory goes.
    vm: VmFd,
    _own: Vec<Page>,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

fn put(pages: &mut [Page], at: u64, bytes: &[u8]) -> Result<()> {
    let page = pages.get_mut((at / PAGE) as usize).context("no such page")?;
    page.0.get_mut(..bytes.len()).context("more than a page")?.copy_from_slice(bytes);
    Ok(())
}

fn own_pages(code: &[u8]) -> Result<Vec<Page>> {
    let mut pages = vec![Page([0; PAGE as usize]); 1 + TABLES.len()];
    let [first, second, third] = TABLES;
    put(&mut pages, CODE_AT, code)?;
    put(&mut pages, first, &(second | PRESENT_WRITABLE_USER).to_le_bytes())?;
    put(&mut pages, second, &(third | PRESENT_WRITABLE_USER).to_le_bytes())?;
    let large = (0..PAGE / 8).map(|number| (number * LARGE_PAGE) | PRESENT_WRITABLE_USER | LARGE);
    put(&mut pages, third, &large.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(pages)
}

/// A vCPU about to run the code in long mode.
fn at_the_code(vcpu: &VcpuFd, level: Level) -> Result<()> {
    let dpl = if level == Level::Kernel { 0 } else { 3 };
    let segment = |number: u16, type_, l, db| kvm_segment {
        limit: u32::MAX,
        selector: number << 3 | u16::from(dpl),
        type_,
        present: 1,
        dpl,
        s: 1,
        g: 1,
        l,
        db,
        ..Default::default()
    };
    let mut special = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    special.cs = segment(1, 0b1011, 1, 0);
    let data = segment(2, 0b0011, 0, 1);
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.cr0, special.cr3, special.cr4) = (CR0_PE_PG, TABLES[0], CR4_PAE);
    special.efer = EFER_LME_LMA;
    vcpu.set_sregs(&special).context("KVM_SET_SREGS")?;
    let mut registers = vcpu.get_regs().context("KVM_GET_REGS")?;
    (registers.rip, registers.rflags) = (CODE_AT, RFLAGS);
    vcpu.set_regs(&registers).context("KVM_SET_REGS")
}

impl SmallGuest {
    /// A guest about to run this code, a page of it at most.
    ///
    /// # Errors
    /// When there is no KVM, or it refuses.
    pub fn new(code: &[u8], level: Level) -> Result<Self> {
        let kvm = Kvm::new().context("cannot open /dev/kvm")?;
        let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
        // Intel's processors want room of their own before a vCPU is made.
        vm.set_tss_address(TSS_ADDRESS).context("KVM_SET_TSS_ADDR")?;
        let mut own = own_pages(code)?;
        let (address, bytes) = (own.as_mut_ptr() as u64, size_of_val(own.as_slice()) as u64);
        let region = region(0, 0, address, bytes);
        // SAFETY: the region is `own`, whole pages that nobody touches while the guest may: they go into the result,
        // whose VM is dropped before them, and an error on the way drops what was made last first.
        unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        at_the_code(&vcpu, level)?;
        Ok(Self { vcpu, vm, _own: own })
    }

    /// Gives it more memory: so many bytes, from this guest address on, that lie at `address` in this process.
    ///
    /// # Errors
    /// When KVM refuses.
    ///
    /// # Safety
    /// The memory is there, and no Rust reference to it, as long as this guest is.
    pub unsafe fn add_memory(&self, at: u64, address: u64, bytes: u64) -> Result<()> {
        // SAFETY: as the caller has promised.
        unsafe { self.vm.set_user_memory_region(region(1, at, address, bytes)) }
            .context("KVM_SET_USER_MEMORY_REGION")
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it ends by anything else.
    pub fn run(&mut self) -> Result<Ended> {
        match self.vcpu.run().context("KVM_RUN")? {
            VcpuExit::Hlt => Ok(Ended::Halted),
            VcpuExit::IoOut(port, _) => Ok(Ended::Port(port)),
            other => bail!("a small guest ended by {other:?}"),
        }
    }
}

fn region(slot: u32, at: u64, address: u64, bytes: u64) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: at,
        memory_size: bytes,
        userspace_addr: address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hlt`, and `out 0x10, al` (Intel SDM, volume 2).
    const HLT: [u8; 1] = [0xf4];
    const OUT: [u8; 2] = [0xe6, 0x10];

    #[test]
    fn a_guest_runs_to_the_end_that_its_level_allows() {
        if Kvm::new().is_err() {
            return;
        }
        let ended = |code: &[u8], level| SmallGuest::new(code, level).unwrap().run();
        assert_eq!(ended(&HLT, Level::Kernel).unwrap(), Ended::Halted);
        assert_eq!(ended(&OUT, Level::Program).unwrap(), Ended::Port(0x10));
        assert!(ended(&HLT, Level::Program).is_err(), "no program may");
    }
}
