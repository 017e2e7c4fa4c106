use super::*;
use crate::csr::{interrupt, sstatus};
use crate::memory_access::Ram;
use accel::{InterruptKind, TICKS_PER_SECOND};
use std::time::{Duration, Instant};

const SIP: u32 = 0x144;
const INTERRUPT: u64 = 1 << 63;

fn enabled(program: &[u32]) -> Board {
    let mut board = Board::new(program);
    board.hart.cpu.csr.sie = interrupt::ALL;
    board.hart.cpu.csr.status |= sstatus::SIE;
    board
}

#[test]
fn a_waiting_hart_tells_until_when() {
    let mut board = enabled(&[WFI, ECALL]);
    assert_eq!(board.run(), VmExit::WaitForInterrupt { until: None });
    board.run_to_call();

    let mut board = enabled(&[WFI, ECALL]);
    let later = board.clock.now() + 3600 * TICKS_PER_SECOND;
    board.hart.set_timer(later);
    assert_eq!(board.run(), VmExit::WaitForInterrupt { until: Some(later) });
}

#[test]
fn waiting_ends_at_once_when_something_pends_although_interrupts_are_off() {
    let mut board = enabled(&[WFI, ECALL]);
    board.hart.cpu.csr.status &= !sstatus::SIE;
    board.hart.handle().set_line(InterruptKind::External, true);
    board.run_to_call();
}

#[test]
fn the_most_urgent_interrupt_is_taken_first() {
    let mut board = enabled(&[NOP, LOOP]);
    board.hart.cpu.csr.stvec = (HANDLER - 4 * 9) | 1; // vectored: external lands on the handler
    board.hart.set_timer(0);
    board.hart.handle().set_line(InterruptKind::Software, true);
    board.hart.handle().set_line(InterruptKind::External, true);
    assert_eq!(board.run_to_trap(), (INTERRUPT | 9, 0));
    assert_eq!(board.hart.cpu.csr.sepc, BASE);
}

#[test]
fn a_timer_breaks_into_a_loop_and_setting_it_clears_it() {
    let mut board = enabled(&[LOOP]);
    board.put_words(HANDLER, &[ECALL, csrr(A2, SIP), SRET]);
    board.hart.set_timer(board.clock.now() + 1000);
    assert_eq!(board.run_to_trap(), (INTERRUPT | 5, 0));
    board.hart.set_timer(u64::MAX);
    board.hart.handle().kick();
    assert_eq!(board.run(), VmExit::Kicked);
    // The handler goes on, and comes back into the loop.
    board.hart.set_timer(board.clock.now() + 1000);
    assert_eq!(board.run_to_trap(), (INTERRUPT | 5, 0));
    assert_eq!(*board.x(A2), 0);
}

#[test]
fn the_guest_raises_and_clears_its_software_interrupt() {
    let mut board = Board::new(&[
        addi(A1, 0, 2),
        csrs(SIP, A1),
        csrr(A2, SIP),
        csrc(SIP, A1),
        csrr(A3, SIP),
        ECALL,
    ]);
    board.run_to_call();
    assert_eq!((*board.x(A2), *board.x(A3)), (2, 0));
    assert_eq!(board.hart.handle().lines(), 0);
}

/// An interrupt that comes while the guest clears its bit is read, or stays.
#[test]
fn a_software_interrupt_is_never_cleared_unread() {
    const ROUNDS: u64 = 20_000;
    // loop: csrrc a0, sip, a1; add a2, a2, a0; sd a2, 0(a3); j loop
    let mut board = Board::new(&[csrc(SIP, A1) | A0 << 7, 0x00a6_0633, sd(A2, A3, 0), 0xff5f_f06f]);
    (*board.x(A1), *board.x(A3)) = (2, DATA);
    let (handle, ram) = (board.hart.handle(), board.ram.clone());
    let sender = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (ram, mut read) = (Ram::new(ram), 0);
        let counter = ram.page(DATA).unwrap().0;
        for round in 1..=ROUNDS {
            handle.set_line(InterruptKind::Software, true);
            while read < 2 * round && Instant::now() < deadline {
                std::thread::yield_now();
                read = counter.load::<u64>(DATA);
            }
            if read != 2 * round {
                break;
            }
        }
        handle.kick();
        read / 2
    });
    assert_eq!(board.run(), VmExit::Kicked);
    assert_eq!(sender.join().unwrap(), ROUNDS);
}

#[test]
fn an_interrupt_waits_for_the_instruction_that_allows_it() {
    let mut board = enabled(&[NOP, csrw(0x100, A1), LOOP]);
    board.hart.cpu.csr.status = 0;
    board.hart.handle().set_line(InterruptKind::Software, true);
    *board.x(A1) = sstatus::SIE;
    assert_eq!(board.run_to_trap(), (INTERRUPT | 1, 0));
    assert_eq!(board.hart.cpu.csr.sepc, BASE + 8);
}

#[test]
fn returning_to_user_mode_lets_interrupts_in() {
    let mut board = enabled(&[SRET]);
    board.put_words(BASE + 0x100, &[LOOP]);
    board.hart.cpu.csr.status = 0;
    board.hart.cpu.csr.sepc = BASE + 0x100;
    board.hart.handle().set_line(InterruptKind::Software, true);
    assert_eq!(board.run_to_trap(), (INTERRUPT | 1, 0));
    assert_eq!(board.hart.cpu.csr.sepc, BASE + 0x100);
    assert_eq!(board.hart.cpu.csr.status & sstatus::SPP, 0);
}

#[test]
fn a_kick_from_another_thread_ends_an_endless_loop() {
    let mut board = enabled(&[LOOP]);
    let handle = board.hart.handle();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        handle.kick();
    });
    assert_eq!(board.run(), VmExit::Kicked);
    kicker.join().unwrap();
}

#[test]
fn a_kick_ends_a_loop_of_traps() {
    let mut board = Board::new(&[]);
    // The handler is an illegal instruction: the hart does nothing but trap.
    board.put_words(HANDLER, &[0]);
    let handle = board.hart.handle();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        handle.kick();
    });
    assert_eq!(board.run(), VmExit::Kicked);
    kicker.join().unwrap();
}

#[test]
fn a_kick_that_came_before_waiting_is_not_slept_over() {
    let mut board = enabled(&[WFI, LOOP]);
    assert_eq!(board.run(), VmExit::WaitForInterrupt { until: None });
    board.hart.handle().kick();
    board.hart.handle().sleep_until(None);
    assert_eq!(board.run(), VmExit::Kicked);
}
