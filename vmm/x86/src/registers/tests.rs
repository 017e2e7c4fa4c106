use super::*;
use umem_memory::GuestAddress;

const PVH: Start = Start::Pvh { entry: GuestAddress(0x20_0050), start_info: GuestAddress(0x6000) };
const LINUX: Start = Start::Linux64 {
    entry: GuestAddress(0x10_0200),
    boot_params: GuestAddress(0x7000),
    gdt: GuestAddress(0x500),
    page_table: GuestAddress(0x9000),
};

/// What a guest may leave behind.
fn present() -> kvm_sregs {
    let mut left = kvm_sregs { apic_base: 0xfee0_0900, cr8: 3, ..kvm_sregs::default() };
    (left.cr0, left.cr2, left.cr3, left.cr4, left.efer) = (0x8005_0033, 9, 0x1000, 0x6f0, 0xd01);
    left.interrupt_bitmap = [1; 4];
    left.ldt.selector = 0x48;
    left.idt.base = 0xfee;
    left
}

#[test]
fn pvh_enters_protected_mode_without_paging() {
    let general = registers(&PVH);
    assert_eq!((general.rip, general.rbx, general.rflags), (0x20_0050, 0x6000, 2));
    let special = special_registers(&PVH, &present());
    assert_eq!((special.cr0, special.cr3, special.cr4, special.efer), (0x11, 0, 0, 0));
    let code = special.cs;
    assert_eq!((code.base, code.limit, code.type_, code.db, code.l), (0, u32::MAX, 0xb, 1, 0));
    for data in [special.ds, special.es, special.ss] {
        assert_eq!((data.base, data.limit, data.type_, data.db), (0, u32::MAX, 3, 1));
    }
    let task = special.tr;
    assert_eq!((task.base, task.limit, task.type_, task.s), (0, 0x67, 0xb, 0));
}

#[test]
fn the_64_bit_protocol_enters_long_mode() {
    let general = registers(&LINUX);
    assert_eq!((general.rip, general.rsi, general.rflags), (0x10_0200, 0x7000, 2));
    let special = special_registers(&LINUX, &present());
    assert_eq!((special.cr0, special.cr3, special.cr4), (0x8000_0011, 0x9000, 0x20));
    assert_eq!(special.efer, 0x500);
    assert_eq!((special.cs.selector, special.cs.l, special.cs.db), (0x10, 1, 0));
    for data in [special.ds, special.es, special.ss] {
        assert_eq!((data.selector, data.type_, data.present), (0x18, 3, 1));
    }
    assert_eq!((special.gdt.base, special.gdt.limit), (0x500, 0x2f));
}

#[test]
fn of_what_was_before_the_local_apics_address_alone_stays() {
    for start in [PVH, LINUX] {
        let special = special_registers(&start, &present());
        assert_eq!(special.apic_base, 0xfee0_0900);
        assert_eq!((special.cr2, special.cr8, special.interrupt_bitmap), (0, 0, [0; 4]));
        assert_eq!((special.ldt.selector, special.idt.base), (0, 0));
    }
}
