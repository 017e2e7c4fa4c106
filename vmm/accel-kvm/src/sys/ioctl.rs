//! Ioctls that the crate kvm-ioctls does not have, or only as unsafe functions (Linux, `uapi/linux/kvm.h`).

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET};
use kvm_bindings::{kvm_clear_dirty_log, kvm_device_attr, kvm_sregs2, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;
use std::os::fd::AsRawFd;

const KVM: u64 = 0xae << 8;
const TO_KERNEL: u64 = 1 << 30;
const FROM_KERNEL: u64 = 2 << 30;
const RUN: u64 = KVM | 0x80;
const RESET_DIRTY_RINGS: u64 = KVM | 0xc7;
const CLEAR_DIRTY_LOG: u64 =
    TO_KERNEL | FROM_KERNEL | (size_of::<kvm_clear_dirty_log>() as u64) << 16 | KVM | 0xc0;
const GET_SREGS2: u64 = FROM_KERNEL | (size_of::<kvm_sregs2>() as u64) << 16 | KVM | 0xcc;
const SET_SREGS2: u64 = TO_KERNEL | (size_of::<kvm_sregs2>() as u64) << 16 | KVM | 0xcd;
const GET_XSAVE: u64 = FROM_KERNEL | (EXTENDED_STATE_BYTES as u64) << 16 | KVM | 0xa4;
const SET_XSAVE: u64 = TO_KERNEL | (EXTENDED_STATE_BYTES as u64) << 16 | KVM | 0xa5;
const GET_XSAVE2: u64 = FROM_KERNEL | (EXTENDED_STATE_BYTES as u64) << 16 | KVM | 0xcf;
const ATTRIBUTE: u64 = TO_KERNEL | (size_of::<kvm_device_attr>() as u64) << 16 | KVM;
const SET_ATTRIBUTE: u64 = ATTRIBUTE | 0xe1;
const GET_ATTRIBUTE: u64 = ATTRIBUTE | 0xe2;

const _: () = {
    assert!(size_of::<kvm_clear_dirty_log>() == 24);
    assert!(size_of::<kvm_sregs2>() == 320);
    assert!(size_of::<kvm_device_attr>() == 24);
    assert!(EXTENDED_STATE_BYTES == 4096);
};

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs the vCPU until it needs something.
pub(crate) fn run(vcpu: &VcpuFd) -> io::Result<()> {
    // SAFETY: the descriptor is a vCPU's; what its guest may touch lives as long as the VM's slots.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), RUN, 0) }).map(drop)
}

/// Segments and control registers, with those that a vCPU keeps of the page directory's pointers.
pub(crate) fn special_registers(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut special = kvm_sregs2::default();
    // SAFETY: the kernel writes one structure of that size.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), GET_SREGS2, &raw mut special) })?;
    Ok(special)
}

/// Replaces them.
pub(crate) fn set_special_registers(vcpu: &VcpuFd, special: &kvm_sregs2) -> io::Result<()> {
    // SAFETY: the kernel reads one structure of that size.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), SET_SREGS2, &raw const *special) }).map(drop)
}

/// What is added to the host's time-stamp counter for this vCPU, wrapping.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0u64;
    tsc_attribute(vcpu, GET_ATTRIBUTE, &mut offset)?;
    Ok(offset)
}

/// Sets it.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    tsc_attribute(vcpu, SET_ATTRIBUTE, &mut offset)
}

fn tsc_attribute(vcpu: &VcpuFd, request: u64, value: &mut u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
    };
    // SAFETY: the kernel reads the structure, and reads or writes the 8 bytes at its address, which are
    // borrowed for that.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attribute) }).map(drop)
}

/// Takes bits out of a slot's log and protects their pages. `first` is a multiple of 64 pages, and so is
/// `pages` unless it reaches the slot's end.
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first: u64,
    pages: u32,
    bits: &[u64],
) -> io::Result<()> {
    assert!(bits.len() as u64 * 64 >= u64::from(pages), "{} words for {pages} pages", bits.len());
    let mut argument = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        ..kvm_clear_dirty_log::default()
    };
    argument.__bindgen_anon_1.dirty_bitmap = bits.as_ptr().cast_mut().cast();
    // SAFETY: the kernel reads the structure and a bit for each page, which are there.
    checked(unsafe { libc::ioctl(vm.as_raw_fd(), CLEAR_DIRTY_LOG, &raw mut argument) }).map(drop)
}

/// Gives the entries that were taken out of the dirty rings back, and protects their pages; how many.
pub(crate) fn reset_dirty_rings(vm: &VmFd) -> io::Result<u32> {
    // SAFETY: no argument.
    let count = checked(unsafe { libc::ioctl(vm.as_raw_fd(), RESET_DIRTY_RINGS, 0) })?;
    Ok(count as u32)
}

/// Bytes of the extended state that every kernel writes and reads at least.
pub(crate) const EXTENDED_STATE_BYTES: usize = size_of::<kvm_xsave>();

/// What XSAVE would write of a vCPU. `bytes` is how much the kernel writes: [`EXTENDED_STATE_BYTES`], or
/// what it says to KVM_CAP_XSAVE2 when `larger`.
pub(crate) fn extended_state(vcpu: &VcpuFd, bytes: usize, larger: bool) -> io::Result<Vec<u8>> {
    let mut words = vec![0u32; bytes.max(EXTENDED_STATE_BYTES).div_ceil(size_of::<u32>())];
    let request = if larger { GET_XSAVE2 } else { GET_XSAVE };
    // SAFETY: the buffer holds all that the kernel writes.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, words.as_mut_ptr()) })?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

/// Replaces it. `state` is as long as [`extended_state`] gives it here.
pub(crate) fn set_extended_state(vcpu: &VcpuFd, state: &[u8]) -> io::Result<()> {
    assert!(state.len() >= EXTENDED_STATE_BYTES, "{} bytes of extended state", state.len());
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    let words: Vec<u32> = state.chunks(size_of::<u32>()).map(word).collect();
    // SAFETY: the buffer is as long as what the kernel reads.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), SET_XSAVE, words.as_ptr()) }).map(drop)
}
