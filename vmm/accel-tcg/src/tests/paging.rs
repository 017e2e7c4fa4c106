use super::*;
use crate::csr::sstatus;
use crate::memory_access::Ram;
use std::sync::atomic::{AtomicBool, Ordering};

const ROOT: u64 = BASE + 0x20_0000;
const SECOND: u64 = ROOT + 0x1000;
const THIRD: u64 = ROOT + 0x2000;
const FOURTH: u64 = ROOT + 0x3000;
/// Virtual address of the last-level entries of `THIRD`, or `FOURTH` under Sv48.
const VIRTUAL: u64 = 0x40_0000_0000 - (1 << 30);

const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const U: u64 = 16;
const A: u64 = 64;
const D: u64 = 128;
const ALL: u64 = V | R | W | X | A | D;

fn entry(physical: u64, bits: u64) -> u64 {
    physical >> 12 << 10 | bits
}

/// A hart under Sv39: RAM at its physical addresses, and a page at [`VIRTUAL`].
fn sv39(program: &[u32], leaf: u64) -> Board {
    let mut board = Board::new(program);
    board.put(ROOT + 2 * 8, entry(BASE, ALL)); // 1 GiB
    board.put(ROOT + (VIRTUAL >> 30 & 511) * 8, entry(SECOND, V));
    board.put(SECOND, entry(THIRD, V));
    board.put(THIRD, leaf);
    board.put(THIRD + 8, entry(DATA + 0x1000, ALL));
    board.hart.cpu.csr.satp = 8 << 60 | ROOT >> 12;
    board.hart.cpu.state_replaced();
    *board.x(A1) = VIRTUAL;
    board
}

#[test]
fn accesses_mark_their_page() {
    let mut board = sv39(&[ld(A0, A1, 8), ECALL, sd(A0, A1, 16), ECALL], entry(DATA, V | R | W));
    board.put(DATA + 8, 99);
    board.run_to_call();
    assert_eq!(board.get(THIRD), entry(DATA, V | R | W | A));
    board.run_to_call();
    assert_eq!(board.get(THIRD), entry(DATA, V | R | W | A | D));
    assert_eq!(board.get(DATA + 16), 99);
}

#[test]
fn faults_tell_the_address_and_change_nothing() {
    for (word, leaf, cause) in [
        (ld(A0, A1, 8), 0, 13),
        (ld(A0, A1, 8), entry(DATA, V | X | A), 13),
        (ld(A0, A1, 8), entry(DATA, V | W | A | D), 13),
        (ld(A0, A1, 8), entry(DATA, V | R | U | A), 13),
        (ld(A0, A1, 8), entry(DATA, V | R | A) | 1 << 63, 13),
        (sd(A0, A1, 8), entry(DATA, V | R | A), 15),
    ] {
        let mut board = sv39(&[word], leaf);
        assert_eq!(board.run_to_trap(), (cause, VIRTUAL + 8), "{word:#x} {leaf:#x}");
        assert_eq!(board.hart.cpu.csr.sepc, BASE);
        assert_eq!(board.get(THIRD), leaf);
    }
    // No translation for the upper half's address with the lower half's bits.
    let mut board = sv39(&[ld(A0, A1, 0)], entry(DATA, ALL));
    *board.x(A1) = VIRTUAL | 1 << 60;
    assert_eq!(board.run_to_trap(), (13, VIRTUAL | 1 << 60));
    // A page table where no RAM is.
    let mut board = sv39(&[ld(A0, A1, 0)], 0);
    board.put(SECOND, entry(DEVICE, V));
    assert_eq!(board.run_to_trap(), (5, VIRTUAL));
}

#[test]
fn a_supervisor_reaches_user_pages_only_with_sum() {
    const STATUS: u32 = 0x100;
    // Translations stay cached over the changes of SUM.
    let program = [csrs(STATUS, A2), ld(A0, A1, 0), csrc(STATUS, A2), ld(A0, A1, 0), ECALL];
    let mut board = sv39(&program, entry(DATA, ALL | U));
    *board.x(A2) = sstatus::SUM;
    assert_eq!(board.run_to_trap(), (13, VIRTUAL));
    assert_eq!(board.hart.cpu.csr.sepc, BASE + 12);
    // Never to execute.
    let mut board = sv39(&[0x0005_8067], entry(DATA, ALL | U)); // jr a1
    board.hart.cpu.csr.status |= sstatus::SUM;
    board.hart.cpu.rules_changed();
    assert_eq!(board.run_to_trap(), (12, VIRTUAL));
}

#[test]
fn executable_pages_are_readable_with_mxr() {
    let program = [csrs(0x100, A2), ld(A0, A1, 0), csrc(0x100, A2), ld(A0, A1, 0), ECALL];
    let mut board = sv39(&program, entry(DATA, V | X | A));
    *board.x(A2) = sstatus::MXR;
    assert_eq!(board.run_to_trap(), (13, VIRTUAL));
    assert_eq!(board.hart.cpu.csr.sepc, BASE + 12);
}

#[test]
fn four_levels_and_superpages_translate() {
    let high = 0xffff_ff80_0000_0000u64; // a kernel's half
    for (level, bytes) in [(0u32, 1u64 << 12), (1, 1 << 21)] {
        let mut board = Board::new(&[ld(A0, A1, 0), ECALL, ld(A0, A2, 0), ECALL]);
        board.put(ROOT + (BASE >> 39 & 511) * 8, entry(FOURTH, V));
        board.put(FOURTH + (BASE >> 30 & 511) * 8, entry(BASE, ALL));
        board.put(ROOT + (high >> 39 & 511) * 8, entry(SECOND, V));
        board.put(SECOND, entry(THIRD, V));
        let target = BASE + 0x40_0000;
        let leaf = entry(target, ALL);
        if level == 0 {
            board.put(THIRD, entry(THIRD + 0x4000, V));
            board.put(THIRD + 0x4000, leaf);
        } else {
            board.put(THIRD, leaf);
            // A superpage at an address that is no multiple of its size.
            board.put(THIRD + 8, entry(target + 0x1000, ALL));
        }
        board.put(target + bytes - 8, 55);
        board.hart.cpu.csr.satp = 9 << 60 | ROOT >> 12;
        board.hart.cpu.state_replaced();
        *board.x(A1) = high + bytes - 8;
        *board.x(A2) = high + bytes;
        board.run_to_call();
        assert_eq!(*board.x(A0), 55);
        assert_eq!(board.run_to_trap(), (13, high + bytes));
    }
}

#[test]
fn a_changed_entry_is_seen_after_a_fence() {
    for fence in [SFENCE_VMA, SFENCE_VMA | A1 << 15] {
        let mut board = sv39(&[ld(A0, A1, 0), ECALL, fence, ld(A0, A1, 0)], entry(DATA, ALL));
        board.run_to_call();
        board.put(THIRD, 0);
        assert_eq!(board.run_to_trap(), (13, VIRTUAL));
    }
}

/// A superpage becomes a table, and back, while its pages are marked: the address is mapped all the time.
#[test]
fn an_entry_that_changes_while_it_is_marked_is_looked_at_again() {
    // loop: sfence.vma; ld a0, 0(a1); addi a3, a3, -1; bnez a3, loop
    let program = [SFENCE_VMA, ld(A0, A1, 0), addi(A3, A3, -1), 0xfe06_9ae3, ECALL];
    let mut board = sv39(&program, entry(BASE, ALL));
    board.put(SECOND, entry(BASE, V | R));
    *board.x(A3) = 50_000;
    let (ram, done) = (board.ram.clone(), Arc::new(AtomicBool::new(false)));
    let seen = done.clone();
    let other = std::thread::spawn(move || {
        let ram = Ram::new(ram);
        let table = ram.page(SECOND).unwrap().0;
        while !seen.load(Ordering::Relaxed) {
            table.store(SECOND, entry(THIRD, V));
            table.store(SECOND, entry(BASE, V | R));
        }
    });
    let exit = board.run();
    done.store(true, Ordering::Relaxed);
    other.join().unwrap();
    assert!(matches!(exit, VmExit::Sbi { .. }), "{exit:?}");
    assert!(!board.in_handler(), "trap {:#x}", board.hart.cpu.csr.scause);
}

#[test]
fn a_fence_of_one_address_forgets_its_whole_superpage() {
    let program = [ld(A0, A2, 0), ECALL, SFENCE_VMA | A1 << 15, ld(A0, A2, 0)];
    let mut board = sv39(&program, 0);
    board.put(SECOND, entry(BASE, ALL)); // 2 MiB
    *board.x(A2) = VIRTUAL + 0x10_0000;
    board.run_to_call();
    board.put(SECOND, 0);
    assert_eq!(board.run_to_trap(), (13, VIRTUAL + 0x10_0000));
}

#[test]
fn misaligned_accesses_reach_over_the_page_s_end() {
    let mut board = sv39(&[sd(A0, A2, 0), ld(A3, A2, 0), ECALL], entry(DATA + 0x4000, ALL));
    *board.x(A0) = 0x1122_3344_5566_7788;
    *board.x(A2) = VIRTUAL + 0xffd;
    board.run_to_call();
    assert_eq!(*board.x(A3), 0x1122_3344_5566_7788);
    assert_eq!(board.get(DATA + 0x4ff8), 0x6677_8800_0000_0000);
    assert_eq!(board.get(DATA + 0x1000), 0x0000_0011_2233_4455);
    // The second page's fault: nothing is written, the address is the second page's.
    let mut board = sv39(&[sd(A0, A2, 0)], entry(DATA, ALL));
    board.put(THIRD + 8, 0);
    *board.x(A0) = u64::MAX;
    *board.x(A2) = VIRTUAL + 0xffd;
    assert_eq!(board.run_to_trap(), (15, VIRTUAL + 0x1000));
    assert_eq!(board.get(DATA + 0xff8), 0);
}

#[test]
fn an_instruction_waits_for_its_missing_page() {
    let leaf = entry(DATA, V | R | W);
    for (word, write) in [(ld(A0, A1, 8), false), (sd(A0, A1, 8), true), (0x00c5_b52f, true)] {
        let mut board = sv39(&[addi(A2, A2, 1), word, ECALL], leaf);
        board.lose(DATA);
        for _ in 0..2 {
            assert_eq!(board.run(), VmExit::MissingPage { page: board.page(DATA), write });
            assert_eq!((*board.x(A2), board.hart.cpu.pc), (1, BASE + 4));
            assert_eq!(board.get(THIRD), leaf, "marks of an access that has not happened");
        }
        board.find(DATA);
        board.run_to_call();
        assert_eq!((*board.x(A2), board.hart.instructions()), (1, 3));
    }
}

#[test]
fn missing_page_tables_and_missing_code_are_waited_for() {
    let mut board = sv39(&[ld(A0, A1, 0), ECALL], entry(DATA, ALL));
    for lost in [BASE, SECOND, THIRD] {
        board.lose(lost);
    }
    for lost in [BASE, SECOND, THIRD] {
        let page = board.page(lost);
        assert_eq!(board.run(), VmExit::MissingPage { page, write: false });
        board.find(lost);
    }
    board.run_to_call();
}

#[test]
fn a_page_lost_after_use_is_missed_once_translations_are_flushed() {
    let mut board = sv39(&[ld(A0, A1, 0), ECALL, ld(A0, A1, 0), ECALL], entry(DATA, ALL));
    board.run_to_call();
    board.lose(DATA);
    board.hart.fence(accel::Fence::TRANSLATIONS);
    board.hart.fence(accel::Fence::CODE);
    assert_eq!(board.run(), VmExit::MissingPage { page: board.page(DATA), write: false });
}

#[test]
fn a_store_that_reaches_into_a_missing_page_writes_nothing() {
    let mut board = sv39(&[sd(A0, A2, 0), ECALL], entry(DATA + 0x4000, ALL));
    board.lose(DATA + 0x1000);
    *board.x(A0) = u64::MAX;
    *board.x(A2) = VIRTUAL + 0xffc;
    assert_eq!(board.run(), VmExit::MissingPage { page: board.page(DATA + 0x1000), write: true });
    assert_eq!(board.get(DATA + 0x4ff8), 0);
    board.find(DATA + 0x1000);
    board.run_to_call();
    assert_eq!(board.get(DATA + 0x1000), 0xffff_ffff);
}

#[test]
fn an_instruction_in_two_pages_faults_at_the_second() {
    let mut board = sv39(&[0x0005_8067], entry(DATA, ALL)); // jr a1
    board.put_words(DATA + 0xffc, &[0x0513_0001]); // c.nop; half of li a0, 0
    board.put(THIRD + 8, 0);
    *board.x(A1) = VIRTUAL + 0xffc;
    assert_eq!(board.run_to_trap(), (12, VIRTUAL + 0x1000));
    assert_eq!(board.hart.cpu.csr.sepc, VIRTUAL + 0xffe);
}

#[test]
fn what_a_hart_needs_first_is_what_its_translations_read_and_lead_to() {
    let mut board = sv39(&[ld(A0, A1, 8), ECALL], entry(DATA, V | R));
    *board.x(2) = VIRTUAL + 0x1ff8;
    board.run_to_call();
    let before: Vec<_> = (0..3).map(|table| board.get(ROOT + table * 0x1000)).collect();
    let touched: Vec<u64> = board.hart.working_set().iter().map(|address| address.0).collect();
    let pages: Vec<u64> = touched.iter().map(|address| address & !0xfff).collect();
    // Code, by a superpage; then the stack, by three tables, whose page was never touched.
    assert_eq!(pages[..6], [ROOT, BASE, ROOT, SECOND, THIRD, DATA + 0x1000]);
    assert_eq!(touched[5], DATA + 0x1ff8);
    // What was cached: the page of the load.
    assert!(pages.contains(&DATA), "{pages:x?}");
    let after: Vec<_> = (0..3).map(|table| board.get(ROOT + table * 0x1000)).collect();
    assert_eq!(after, before, "nothing is marked");
    *board.x(2) = 0x10_0000_0000;
    assert!(!board.hart.working_set().iter().any(|address| address.0 & !0xfff == DEVICE));
}
