use super::*;
use crate::csr::sstatus;
use proptest::prelude::*;
use umem_state::{decode_body, encode_body};

/// Mixes integers and floats, and stops at a call in each round.
const PROGRAM: &[u32] = &[
    // round:
    0x02b5_0533, // mul a0, a0, a1
    0x0075_0513, // addi a0, a0, 7
    0xd235_7053, // fcvt.d.lu ft0, a0
    0x1a00_70d3, // fdiv.d ft1, ft0, ft0
    0x0200_70d3, // fadd.d ft1, ft0, ft0
    0x0016_3427, // fsd ft1, 8(a2)
    0x0086_3683, // ld a3, 8(a2)
    0x00d5_4533, // xor a0, a0, a3
    0x00a6_3023, // sd a0, 0(a2)
    ECALL,
    0xfd9f_f06f, // j round
];

fn board() -> Board {
    let mut board = Board::new(PROGRAM);
    board.hart.cpu.csr.status |= sstatus::FS;
    board.hart.cpu.rounding = 2;
    *board.x(A0) = 12345;
    *board.x(A1) = 0x5851_f42d_4c95_7f2d;
    *board.x(A2) = DATA;
    board.hart.cpu.csr.sie = 0x222;
    board.hart.cpu.csr.sscratch = 0x77;
    board.hart.set_timer(u64::MAX - 5);
    board
}

fn answer(board: &mut Board) -> VmEntry {
    let error = *board.x(A0) as i64;
    VmEntry::Sbi { error, value: *board.x(A1) }
}

#[test]
fn a_moved_hart_computes_what_it_would_have() {
    let (mut whole, mut moved) = (board(), board());
    for board in [&mut whole, &mut moved] {
        board.run_to_call();
    }
    for step in 0..40 {
        let entry = answer(&mut whole);
        assert!(matches!(whole.hart.run(entry), VmExit::Sbi { .. }));
        let mut entry = answer(&mut moved);
        if step % 10 == 5 {
            // As a machine stops: the last exit is answered before the kick is seen.
            moved.hart.handle().kick();
            assert_eq!(moved.hart.run(entry), VmExit::Kicked);
            entry = VmEntry::Run;
            let saved = moved.hart.save().unwrap();
            // RAM stays; another hart goes on with it.
            moved = Board::with_ram(moved.ram.clone(), PROGRAM);
            moved.hart.restore(&saved).unwrap();
            assert_eq!(moved.hart.save().unwrap(), saved);
            assert_eq!(moved.hart.instructions(), 0);
        }
        assert!(matches!(moved.hart.run(entry), VmExit::Sbi { .. }));
    }
    assert_eq!(moved.hart.registers(), whole.hart.registers());
    assert_eq!(moved.get(DATA), whole.get(DATA));
    assert_eq!(moved.hart.save().unwrap(), whole.hart.save().unwrap());
}

#[test]
fn mode_and_translation_move_too() {
    let mut board = Board::new(&[ECALL]);
    board.user_mode();
    board.hart.cpu.csr.satp = 8 << 60 | 0x80100;
    board.hart.handle().set_line(accel::InterruptKind::Software, true);
    let saved = board.hart.save().unwrap();
    let mut other = Board::new(&[]);
    other.hart.restore(&saved).unwrap();
    assert_eq!(other.hart.registers(), board.hart.registers());
    // In force, not only stored: the root table is empty.
    assert_eq!(other.hart.cpu.mode, Mode::User);
    other.hart.cpu.csr.stvec = 0;
    other.hart.handle().restore_lines(0);
    // A trap to an address that has no translation either: it traps for ever.
    let handle = other.hart.handle();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        handle.kick();
    });
    assert_eq!(other.run(), VmExit::Kicked);
    kicker.join().unwrap();
    assert_eq!((other.hart.cpu.csr.scause, other.hart.cpu.csr.stval), (12, 0));
}

/// A saved form with one value replaced.
fn damaged(field: &str, value: u64) -> Vec<u8> {
    use std::collections::BTreeMap;
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Value {
        Flag(bool),
        Number(u64),
        Numbers(Vec<u64>),
        Nothing(Option<()>),
    }
    let saved = board().hart.save().unwrap();
    let mut fields: BTreeMap<String, Value> = decode_body("hart", &saved).unwrap();
    assert!(fields.insert(field.to_owned(), Value::Number(value)).is_some(), "{field}");
    encode_body("hart", &fields).unwrap()
}

#[test]
fn values_that_no_hart_has_are_refused_and_change_nothing() {
    let mut board = board();
    let before = board.hart.save().unwrap();
    for (field, value) in [
        ("version", 2),
        ("id", 1),
        ("pc", 1),
        ("rounding", 8),
        ("flags", 32),
        ("status", 1),
        ("sie", 1),
        ("stvec", 2),
        ("scounteren", 8),
        ("senvcfg", 2),
        ("sepc", 1),
        ("satp", 10 << 60),
        ("instret", u64::MAX),
        ("x", 0),
    ] {
        assert!(board.hart.restore(&damaged(field, value)).is_err(), "{field}");
        assert_eq!(board.hart.save().unwrap(), before, "{field}");
    }
    board.hart.restore(&damaged("sscratch", 5)).unwrap();
    assert_ne!(board.hart.save().unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_states_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut board = board();
        let mut saved = board.hart.save().unwrap();
        let at = at.index(saved.len());
        saved[at] = byte;
        let _ = board.hart.restore(&saved);
    }
}
