use super::*;
use accel::AccessSize;

fn read(size: AccessSize) -> VmExit {
    VmExit::MmioRead { address: GuestAddress(DEVICE + 8), size }
}

#[test]
fn a_load_from_a_device_completes_with_the_answer() {
    for (funct3, size, expected) in [
        (0, AccessSize::Byte, -2i64 as u64),
        (4, AccessSize::Byte, 0xfe),
        (1, AccessSize::Half, 0xffff_ffff_ffff_81fe),
        (5, AccessSize::Half, 0x81fe),
        (2, AccessSize::Word, 0xffff_ffff_8000_81fe),
        (6, AccessSize::Word, 0x8000_81fe),
        (3, AccessSize::Double, 0x8000_81fe),
    ] {
        let mut board = Board::new(&[i_type(0x03, funct3, A0, A1, 8), ECALL]);
        *board.x(A1) = DEVICE;
        assert_eq!(board.run(), read(size));
        // Without an answer the load is executed again.
        assert_eq!(board.run(), read(size));
        assert!(matches!(board.hart.run(VmEntry::MmioRead(0x8000_81fe)), VmExit::Sbi { .. }));
        assert_eq!(*board.x(A0), expected, "{funct3}");
        assert_eq!(board.hart.instructions(), 2);
    }
}

#[test]
fn a_compressed_load_and_a_float_load_complete_too() {
    let mut board = Board::new(&[0x0001_6588, ECALL]); // c.ld a0, 8(a1); c.nop
    *board.x(A1) = DEVICE;
    assert_eq!(board.run(), read(AccessSize::Double));
    assert!(matches!(board.hart.run(VmEntry::MmioRead(9)), VmExit::Sbi { .. }));
    assert_eq!(*board.x(A0), 9);

    let mut board = Board::new(&[i_type(0x07, 2, 1, A1, 8), ECALL]); // flw ft1, 8(a1)
    board.hart.cpu.csr.status |= crate::csr::sstatus::FS;
    *board.x(A1) = DEVICE;
    assert_eq!(board.run(), read(AccessSize::Word));
    assert!(matches!(board.hart.run(VmEntry::MmioRead(3)), VmExit::Sbi { .. }));
    assert_eq!(board.hart.cpu.f[1], 0xffff_ffff_0000_0003);
}

#[test]
fn a_store_to_a_device_is_complete_when_it_is_reported() {
    let mut board = Board::new(&[sd(A0, A1, 8), addi(A0, A0, 1), ECALL]);
    (*board.x(A0), *board.x(A1)) = (7, DEVICE);
    let (address, size) = (GuestAddress(DEVICE + 8), AccessSize::Double);
    assert_eq!(board.run(), VmExit::MmioWrite { address, size, value: 7 });
    board.run_to_call();
    assert_eq!(*board.x(A0), 8);
}

#[test]
fn code_does_not_come_from_devices() {
    let mut board = Board::new(&[0x0005_8067]); // jr a1
    *board.x(A1) = DEVICE;
    assert_eq!(board.run_to_trap(), (1, DEVICE));
    assert_eq!(board.hart.cpu.csr.sepc, DEVICE);
}

#[test]
fn an_answer_goes_before_a_kick() {
    let mut board = Board::new(&[ld(A0, A1, 8), ECALL]);
    *board.x(A1) = DEVICE;
    assert_eq!(board.run(), read(AccessSize::Double));
    board.hart.handle().kick();
    assert_eq!(board.hart.run(VmEntry::MmioRead(5)), VmExit::Kicked);
    assert_eq!(*board.x(A0), 5);
    board.run_to_call();
}
