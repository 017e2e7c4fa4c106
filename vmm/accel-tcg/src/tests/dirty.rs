use super::*;
use crate::HartWrites;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use umem_memory::{DirtyError, DirtyLog, DirtySource, PageBitmap};

const PAGES: u64 = RAM_BYTES / 4096;

fn writes_of(board: &Board) -> HartWrites {
    HartWrites::new(PAGES, vec![(0, board.hart.handle())])
}

/// Addresses of the pages that a source reports, from the start of RAM.
#[track_caller]
fn collected(source: &dyn DirtySource) -> Vec<u64> {
    let into = PageBitmap::new(PAGES);
    assert_eq!(source.collect(&into).unwrap(), into.count());
    (0..PAGES).filter(|&page| into.test(PageIndex(page))).map(|page| page * 4096).collect()
}

fn offset(address: u64) -> u64 {
    address - BASE
}

#[test]
fn stores_set_bits_again_after_each_collect_and_loads_never() {
    let mut board = Board::new(&[sd(A0, A1, 0), ECALL, sd(A0, A1, 8), ECALL, ld(A0, A1, 0), ECALL]);
    *board.x(A1) = DATA;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA)]);
    assert_eq!(collected(&writes), [0u64; 0]);
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA)]);
    board.run_to_call();
    assert_eq!(collected(&writes), [0u64; 0]);
}

#[test]
fn permission_cached_before_the_start_is_not_used() {
    let mut board = Board::new(&[sd(A0, A1, 0), ECALL, sd(A0, A1, 8), ECALL]);
    *board.x(A1) = DATA;
    let writes = writes_of(&board);
    board.run_to_call();
    writes.start().unwrap();
    assert_eq!(collected(&writes), [0u64; 0]);
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA)]);
}

#[test]
fn a_load_gives_no_permission_to_write() {
    let mut board = Board::new(&[ld(A0, A1, 0), sd(A0, A1, 8), ECALL]);
    *board.x(A1) = DATA;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA)]);
}

#[test]
fn a_store_over_two_pages_marks_both() {
    let mut board = Board::new(&[sd(A0, A1, -4), ECALL]);
    *board.x(A1) = DATA;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA) - 4096, offset(DATA)]);
}

#[test]
fn atomics_are_stores() {
    // amoadd.d a0, a3, (a2); lr.d a0, (a1); sc.d a3, a0, (a1)
    let mut board = Board::new(&[0x00d6_352f, ECALL, 0x1005_b52f, ECALL, 0x18a5_b6af, ECALL]);
    *board.x(A1) = DATA;
    *board.x(A2) = DATA + 0x3000;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA) + 0x3000]);
    board.run_to_call();
    assert_eq!(collected(&writes), [0u64; 0], "LR only loads");
    board.hart.cpu.x[13] = 9;
    // The call between them keeps the reservation.
    board.run_to_call();
    assert_eq!((*board.x(A3), collected(&writes)), (0, vec![offset(DATA)]));
}

#[test]
fn marks_in_page_tables_are_stores_to_the_tables() {
    const ROOT: u64 = BASE + 0x20_0000;
    const VIRTUAL: u64 = 0x40_0000_0000 - (1 << 30);
    let entry = |physical: u64, bits: u64| physical >> 12 << 10 | bits;
    let mut board = Board::new(&[ld(A0, A1, 0), ECALL, sd(A0, A1, 0), ECALL]);
    board.put(ROOT + 2 * 8, entry(BASE, 0xcf));
    board.put(ROOT + (VIRTUAL >> 30 & 511) * 8, entry(ROOT + 0x1000, 1));
    board.put(ROOT + 0x1000, entry(ROOT + 0x2000, 1));
    board.put(ROOT + 0x2000, entry(DATA, 7));
    board.hart.cpu.csr.satp = 8 << 60 | ROOT >> 12;
    board.hart.cpu.state_replaced();
    *board.x(A1) = VIRTUAL;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(ROOT) + 0x2000], "accessed");
    board.run_to_call();
    assert_eq!(collected(&writes), [offset(DATA), offset(ROOT) + 0x2000], "dirty");
}

#[test]
fn code_that_is_written_while_logging_runs_as_written() {
    // loop: sw a1, 8(a2); fence.i; addi a0, a0, 0 (rewritten); add a1, a1, a4; addi a3, a3, -1;
    // bnez a3, loop
    let words = [0x00b6_2423, FENCE_I, NOP, 0x00e5_85b3, addi(A3, A3, -1), 0xfe06_96e3, ECALL];
    let mut board = Board::new(&words);
    *board.x(A1) = addi(A0, A0, 1).into();
    *board.x(A2) = BASE;
    *board.x(A3) = 100;
    *board.x(14) = 1 << 20;
    let writes = writes_of(&board);
    writes.start().unwrap();
    board.run_to_call();
    assert_eq!(*board.x(A0), (1..=100).sum::<u64>());
    assert_eq!(collected(&writes), [0]);
}

#[test]
fn a_hart_that_does_not_answer_is_named_and_no_bit_is_lost() {
    let mut board = Board::new(&[sd(A0, A1, 0), ECALL]);
    *board.x(A1) = DATA;
    let stuck = VcpuHandle::new();
    let harts = vec![(0, board.hart.handle()), (7, stuck.clone())];
    let writes = HartWrites::new(PAGES, harts).with_longest_wait(Duration::from_millis(1));
    assert!(!stuck.asks().enter(0));
    assert!(matches!(writes.start(), Err(DirtyError::Vcpu { vcpu: 7, .. })));
    stuck.asks().leave(0);
    writes.start().unwrap();
    board.run_to_call();
    assert!(stuck.asks().enter(0));
    let into = PageBitmap::new(PAGES);
    let error = writes.collect(&into).unwrap_err();
    assert!(error.to_string().starts_with("vCPU 7 "), "{error}");
    assert_eq!(into.count(), 0);
    stuck.asks().leave(0);
    assert_eq!(collected(&writes), [offset(DATA)]);
    writes.stop();
    assert!(matches!(writes.collect(&into), Err(DirtyError::Off(_))));
    writes.start().unwrap();
    assert_eq!(collected(&writes), [0u64; 0]);
}

#[test]
fn a_hart_in_an_endless_loop_answers() {
    let board = Board::new(&[sd(A0, A1, 0), LOOP]);
    let (writes, handle) = (writes_of(&board), board.hart.handle());
    writes.start().unwrap();
    let mut board = board;
    *board.x(A1) = DATA;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || board.run());
        while collected(&writes) != [offset(DATA)] {
            std::thread::yield_now();
        }
        assert_eq!(collected(&writes), [0u64; 0]);
        handle.kick();
        assert_eq!(thread.join().unwrap(), VmExit::Kicked);
    });
}

const WINDOW: u64 = 64 * 4096;

fn r_type(base: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    base | rd << 7 | rs1 << 15 | rs2 << 20
}

/// Stores what a linear congruential generator gives where it says, 2 x 500 times, then calls; and
/// so on for ever.
fn scatter() -> Vec<u32> {
    let step = [
        r_type(0x0200_0033, A0, A0, 14), // mul a0, a0, a4
        r_type(0x0000_0033, A0, A0, 15), // add a0, a0, a5
        i_type(0x13, 5, A1, A0, 46),     // srli a1, a0, 46
        i_type(0x13, 7, A1, A1, -8),     // andi a1, a1, -8
        r_type(0x0000_0033, A1, A1, A2), // add a1, a1, a2
    ];
    let mut program = vec![addi(A3, 0, 500)];
    program.extend(step);
    program.push(sd(A0, A1, 0));
    program.extend(step);
    program.push(r_type(0x0000_302f, 16, A1, A0)); // amoadd.d a6, a0, (a1)
    program.push(addi(A3, A3, -1));
    let back = -4 * (program.len() as i32 - 1);
    let b = back as u32;
    let offset =
        (b >> 12 & 1) << 31 | (b >> 5 & 63) << 25 | (b >> 1 & 15) << 8 | (b >> 11 & 1) << 7;
    program.push(0x1063 | offset | A3 << 15); // bnez a3, the first step
    program.push(ECALL);
    let jump = -4 * (program.len() as i32);
    let j = jump as u32;
    let offset =
        (j >> 20 & 1) << 31 | (j >> 1 & 0x3ff) << 21 | (j >> 11 & 1) << 20 | (j >> 12 & 0xff) << 12;
    program.push(0x6f | offset); // j the start
    program
}

/// Runs harts, and a device if `device`, against a collector that copies what is reported. In the
/// end the copy is the RAM.
fn mirror_becomes_ram(seed: u64, harts: u64, device: bool, late: bool) {
    let board = Board::new(&scatter());
    let ram = board.ram.clone();
    let mut boards = vec![board];
    boards.extend((1..harts).map(|_| Board::with_ram(ram.clone(), &scatter())));
    let mut handles = Vec::new();
    for (number, board) in boards.iter_mut().enumerate() {
        *board.x(A0) = seed ^ number as u64;
        *board.x(A2) = DATA;
        *board.x(14) = 6_364_136_223_846_793_005;
        *board.x(15) = 1_442_695_040_888_963_407;
        handles.push((number as u32, board.hart.handle()));
    }
    let mut sources: Vec<Arc<dyn DirtySource>> = vec![Arc::new(HartWrites::new(PAGES, handles))];
    if device {
        sources.push(Arc::new(ram.host_writes()));
    }
    let log = DirtyLog::new(PAGES, sources);
    let mut mirror = vec![0u8; RAM_BYTES as usize];
    let copy = |mirror: &mut [u8], page: u64| {
        let at = page * 4096;
        let bytes = &mut mirror[at as usize..][..4096];
        ram.read_at(GuestAddress(BASE + at), bytes).unwrap();
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if !late {
            log.start().unwrap();
            (0..PAGES).for_each(|page| copy(&mut mirror, page));
        }
        let mut threads = Vec::new();
        for mut board in boards {
            threads.push(scope.spawn(move || {
                for _ in 0..60 {
                    board.run_to_call();
                }
            }));
        }
        if device {
            let ram = ram.clone();
            threads.push(scope.spawn(move || {
                let mut state = seed | 1;
                for _ in 0..20_000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let at = DATA + (state >> 46 & (WINDOW - 1));
                    ram.write_at(GuestAddress(at), &state.to_le_bytes()).unwrap();
                }
            }));
        }
        if late {
            log.start().unwrap();
            (0..PAGES).for_each(|page| copy(&mut mirror, page));
        }
        let finished = &finished;
        scope.spawn(move || {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            finished.store(true, Ordering::Release);
        });
        loop {
            let last = finished.load(Ordering::Acquire);
            let dirty = PageBitmap::new(PAGES);
            log.collect(&dirty).unwrap();
            (0..PAGES).filter(|&page| dirty.test(PageIndex(page))).for_each(|page| {
                copy(&mut mirror, page);
            });
            if last {
                break;
            }
        }
    });
    for page in 0..PAGES {
        let mut now = vec![0; 4096];
        ram.read_at(GuestAddress(BASE + page * 4096), &mut now).unwrap();
        assert!(mirror[page as usize * 4096..][..4096] == now, "page {page} differs");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_mirror_of_what_harts_are_said_to_write_becomes_the_ram(
        seed in any::<u64>(), harts in 1..3u64, late in any::<bool>(),
    ) {
        mirror_becomes_ram(seed, harts, false, late);
    }

    #[test]
    fn a_mirror_of_what_harts_and_devices_are_said_to_write_becomes_the_ram(
        seed in any::<u64>(), late in any::<bool>(),
    ) {
        mirror_becomes_ram(seed, 1, true, late);
    }
}
