use super::*;

/// `sw rs2, offset(rs1)`
fn sw(rs2: u32, rs1: u32, offset: u32) -> u32 {
    0x2023 | (offset & 0x1f) << 7 | rs1 << 15 | rs2 << 20 | (offset >> 5) << 25
}

#[test]
fn a_store_over_the_same_block_is_seen() {
    let mut board = Board::new(&[NOP, sw(A1, A2, 12), FENCE_I, addi(A0, 0, 1), ECALL]);
    *board.x(A1) = addi(A0, 0, 2).into();
    *board.x(A2) = BASE;
    board.run_to_call();
    assert_eq!(*board.x(A0), 2);
    assert_eq!(board.hart.instructions(), 5);
}

#[test]
fn code_is_rewritten_again_and_again() {
    // loop: sw a1, 8(a2); fence.i; addi a0, a0, 0 (rewritten); addi a1, a1, 1 << 20: the
    // immediate grows by one; addi a3, a3, -1; bnez a3, loop
    let mut board = Board::new(&[
        sw(A1, A2, 8),
        FENCE_I,
        NOP,
        0x00e5_85b3, // add a1, a1, a4
        addi(A3, A3, -1),
        0xfe06_96e3, // bnez a3, -20
        ECALL,
    ]);
    *board.x(A1) = addi(A0, A0, 1).into();
    *board.x(A2) = BASE;
    *board.x(A3) = 100;
    *board.x(14) = 1 << 20;
    board.run_to_call();
    assert_eq!(*board.x(A0), (1..=100).sum::<u64>());
}

#[test]
fn what_a_device_writes_is_seen_after_a_fence() {
    // f: addi a0, a0, 1; ret    main: call f; ecall; fence.i; call f; ecall
    let function = BASE + 0x100;
    let call = |from: u32| 0x6f | 1 << 7 | ((0x100 - from) >> 1 & 0x3ff) << 21;
    let mut board = Board::new(&[call(0), ECALL, FENCE_I, call(12), ECALL]);
    board.put_words(function, &[addi(A0, A0, 1), 0x0000_8067]);
    board.run_to_call();
    assert_eq!(*board.x(A0), 1);
    board.put_words(function, &[addi(A0, A0, 16)]);
    board.run_to_call();
    assert_eq!(*board.x(A0), 17);
}

#[test]
fn what_was_written_meanwhile_is_seen_after_translations_are_flushed() {
    let mut board = Board::new(&[addi(A0, A0, 1), ECALL]);
    board.run_to_call();
    board.put_words(BASE, &[addi(A0, A0, 16)]);
    board.hart.fence(accel::Fence::TRANSLATIONS);
    board.hart.fence(accel::Fence::CODE);
    board.hart.cpu.pc = BASE;
    board.run_to_call();
    assert_eq!(*board.x(A0), 17);
}

#[test]
fn an_instruction_may_lie_in_two_pages() {
    let mut board = Board::new(&[]);
    let start = BASE + 0x1000 - 2;
    board.put_words(start, &[addi(A0, 0, 77), ECALL]);
    board.hart.boot(start, 0);
    // Each run takes it anew: it is in no block.
    for _ in 0..2 {
        board.hart.cpu.pc = start;
        board.run_to_call();
        assert_eq!(*board.x(A0), 77);
        *board.x(A0) = 0;
    }
}

#[test]
fn data_beside_code_is_written_often() {
    // loop: ld a0, 256(a2); addi a0, a0, 1; sd a0, 256(a2); addi a3, a3, -1; bnez a3, loop
    let mut board = Board::new(&[
        ld(A0, A2, 256),
        addi(A0, A0, 1),
        sd(A0, A2, 256),
        addi(A3, A3, -1),
        0xfe06_98e3,
        ECALL,
    ]);
    *board.x(A2) = BASE;
    *board.x(A3) = 1000;
    board.run_to_call();
    assert_eq!(board.get(BASE + 256), 1000);
}
