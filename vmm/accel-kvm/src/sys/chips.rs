//! The interrupt controllers that vCPUs share: the kernel has one structure for all, with a union in it.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_irqchip,
    kvm_pic_state,
};
use kvm_ioctls::VmFd;
use std::io;

fn chip(vm: &VmFd, chip_id: u32) -> io::Result<kvm_irqchip> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip)?;
    Ok(chip)
}

/// The state of a PIC: `KVM_IRQCHIP_PIC_MASTER` or `…_SLAVE`.
pub(crate) fn pic(vm: &VmFd, number: u32) -> io::Result<kvm_pic_state> {
    let chip = chip(vm, number)?;
    // SAFETY: the kernel fills in this member for a PIC; it is bytes.
    Ok(unsafe { chip.chip.pic })
}

/// Replaces it.
pub(crate) fn set_pic(vm: &VmFd, number: u32, state: kvm_pic_state) -> io::Result<()> {
    let mut chip = kvm_irqchip { chip_id: number, ..Default::default() };
    chip.chip.pic = state;
    Ok(vm.set_irqchip(&chip)?)
}

/// The state of the I/O APIC, its redirection entries apart.
pub(crate) fn ioapic(vm: &VmFd) -> io::Result<(kvm_ioapic_state, Vec<u64>)> {
    let chip = chip(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the kernel fills in this member for an I/O APIC; every pattern of bits is a value of it.
    let state = unsafe { chip.chip.ioapic };
    let bits = |entry: &kvm_ioapic_state__bindgen_ty_1| {
        // SAFETY: both members have the same 8 bytes, of which every pattern is a value.
        unsafe { entry.bits }
    };
    let entries = state.redirtbl.iter().map(bits).collect();
    Ok((state, entries))
}

/// Replaces it. Entries that are missing are masked.
pub(crate) fn set_ioapic(
    vm: &VmFd,
    mut state: kvm_ioapic_state,
    entries: &[u64],
) -> io::Result<()> {
    for (to, &bits) in state.redirtbl.iter_mut().zip(entries) {
        *to = kvm_ioapic_state__bindgen_ty_1 { bits };
    }
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    chip.chip.ioapic = state;
    Ok(vm.set_irqchip(&chip)?)
}
