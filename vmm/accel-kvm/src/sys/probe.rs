//! Finds out what KVM says when a guest touches memory that cannot be had.
//!
//! With an address (KVM_EXIT_MEMORY_FAULT) the vCPU's thread can fetch the page by itself; the memory is
//! registered with a userfaultfd that has UFFD_FEATURE_SIGBUS then. Many kernels say KVM_CAP_MEMORY_FAULT_INFO
//! and give the address in other cases only. So it is tried: a program stores to a page that its process may
//! not touch, which the kernel finds out in the same way.

use super::ioctl;
use super::mapping::{Mapping, PAGE_BYTES};
use super::run_page::RunPage;
use kvm_bindings::{KVM_EXIT_MEMORY_FAULT, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;

/// Guest RAM of the trial, bytes; behind it lies the page that cannot be had.
const RAM: usize = 4 * PAGE_BYTES;
const TABLES: [u64; 3] = [0, PAGE_BYTES as u64, 2 * PAGE_BYTES as u64];
const CODE: u64 = 3 * PAGE_BYTES as u64;

/// mov \[RAM\], al; hlt. In a program HLT is an error, for which there is no handler: the vCPU shuts down.
const INSTRUCTIONS: u64 = 0xf4 << 56 | (RAM as u64) << 24 | 0x25_0488;

fn region(slot: u32, address: u64, memory: &Mapping) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: address,
        memory_size: memory.bytes() as u64,
        userspace_addr: memory.at::<u8>(0).as_ptr() as u64,
    }
}

fn segment(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// Has the vCPU run a program in 64-bit mode, each address at itself.
fn prepare(vcpu: &VcpuFd) -> io::Result<()> {
    let mut special = vcpu.get_sregs()?;
    special.cr0 = 1 << 31 | 1 << 4 | 1;
    special.cr3 = TABLES[0];
    special.cr4 = 1 << 5;
    special.efer = 1 << 10 | 1 << 8;
    special.cs = segment(0x33, 11, 1);
    let data = segment(0x2b, 3, 0);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() })?;
    Ok(())
}

/// Whether KVM tells the address of memory that a vCPU finds missing. Uses the VM and its vCPU up.
pub(crate) fn faults_have_addresses(vm: &VmFd, vcpu: &VcpuFd, page: &RunPage) -> io::Result<bool> {
    let (ram, missing) = (Mapping::anonymous(RAM, true)?, Mapping::anonymous(PAGE_BYTES, false)?);
    // Present, writable, for programs; the last a page of 2 MiB.
    let entries = [
        (TABLES[0], TABLES[1] | 7),
        (TABLES[1], TABLES[2] | 7),
        (TABLES[2], 0x87),
        (CODE, INSTRUCTIONS),
    ];
    for (address, value) in entries {
        let place = ram.at::<u64>(address as usize);
        // SAFETY: it lies in the mapping, aligned, and nobody else knows it yet.
        unsafe { place.write(value) };
    }
    for region in [region(0, 0, &ram), region(1, RAM as u64, &missing)] {
        // SAFETY: both mappings live until their slots are taken away below; no Rust reference into them
        // exists.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    let result = prepare(vcpu).and_then(|()| match ioctl::run(vcpu) {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
            Ok(page.reason() == KVM_EXIT_MEMORY_FAULT && page.detail_u64(8) == RAM as u64)
        }
        Err(error) => Err(error),
    });
    for mut region in [region(0, 0, &ram), region(1, RAM as u64, &missing)] {
        region.memory_size = 0;
        // SAFETY: a slot of no size is one that is taken away.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    result
}
