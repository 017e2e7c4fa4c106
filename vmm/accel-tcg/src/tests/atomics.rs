use super::*;

/// `lr.d rd, (rs1)`
fn lr(rd: u32, rs1: u32) -> u32 {
    0x1000_302f | rd << 7 | rs1 << 15
}
/// `sc.d rd, rs2, (rs1)`
fn sc(rd: u32, rs2: u32, rs1: u32) -> u32 {
    0x1800_302f | rd << 7 | rs1 << 15 | rs2 << 20
}
/// `amoadd.d a0, a1, (a2)`
const ADD: u32 = 0x00b6_352f;

#[test]
fn a_conditional_store_needs_its_reservation() {
    let mut board = Board::new(&[
        lr(A0, A2),
        addi(A0, A0, 1),
        sc(A1, A0, A2),
        // The reservation is used up.
        sc(A3, A0, A2),
        ECALL,
    ]);
    board.put(DATA, 41);
    *board.x(A2) = DATA;
    board.run_to_call();
    assert_eq!((*board.x(A1), *board.x(A3), board.get(DATA)), (0, 1, 42));
}

#[test]
fn a_conditional_store_fails_when_another_has_written() {
    let mut board = Board::new(&[lr(A0, A2), ECALL, sc(A1, A0, A2), ECALL]);
    *board.x(A2) = DATA;
    board.run_to_call();
    board.put(DATA, 5);
    board.run_to_call();
    assert_eq!((*board.x(A1), board.get(DATA)), (1, 5));
}

#[test]
fn atomics_want_aligned_ram() {
    let mut board = Board::new(&[ADD]);
    *board.x(A2) = DATA + 4;
    assert_eq!(board.run_to_trap(), (6, DATA + 4));
    let mut board = Board::new(&[ADD]);
    *board.x(A2) = DEVICE;
    assert_eq!(board.run_to_trap(), (7, DEVICE));
    let mut board = Board::new(&[lr(A0, A2)]);
    *board.x(A2) = DEVICE;
    assert_eq!(board.run_to_trap(), (5, DEVICE));
}

#[test]
fn two_harts_add_to_one_place() {
    const ROUNDS: u64 = 100_000;
    // loop: amoadd.d; addi a3, a3, -1; bnez a3, loop
    let program = [ADD, addi(A3, A3, -1), 0xfe06_9ce3, ECALL];
    let first = Board::new(&program);
    let ram = first.ram.clone();
    let second = Board::with_ram(ram.clone(), &program);
    let threads = [first, second].map(|mut board| {
        *board.x(A1) = 1;
        *board.x(A2) = DATA;
        *board.x(A3) = ROUNDS;
        std::thread::spawn(move || board.run_to_call())
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut sum = [0; 8];
    ram.read_at(GuestAddress(DATA), &mut sum).unwrap();
    assert_eq!(u64::from_le_bytes(sum), 2 * ROUNDS);
}
