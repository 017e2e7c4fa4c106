//! Our CPU against QEMU's emulator: the same random programs on both end in the same registers,
//! flags and memory.
//!
//! `UMEM_ORACLE_SEED` picks other programs, `UMEM_ORACLE_PROGRAMS` how many a test runs. The
//! emulators are `qemu-riscv64` from `UMEM_QEMU_USER`, `PATH` or the workspace's `.cache`, and
//! `qemu-system-riscv64` likewise (`UMEM_QEMU_SYSTEM`); without them the tests fail.

// All of this is a test.
#![allow(clippy::unwrap_used)]

mod asm;
mod catalogue;
mod check;
mod elf;
mod generate;
mod item;
mod privileged;
mod probe;
mod program;
mod random;
mod reference;
mod subject;
mod system;
mod values;

use catalogue::Class;
use probe::Probe;
use random::Random;

const DEFAULT_PROGRAMS: u64 = 2000;
const PROGRAM_LENGTH: usize = 60;
const DEFAULT_PROBES: u64 = 10_000;
const DRILLS: usize = 24;
const DRILL_LENGTH: usize = 10;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number"))
    })
}

fn seed() -> u64 {
    setting("UMEM_ORACLE_SEED", 1)
}

/// Each instruction of the class alone, then all of them mixed.
fn class_agrees(class: Class) {
    let seed = seed();
    let mut random = Random::new(seed ^ (class as u64) << 32);
    let catalogue = catalogue::of_classes(&[class]);
    let mut programs = Vec::new();
    for instruction in catalogue {
        for _ in 0..DRILLS {
            programs.push(generate::drill(instruction, DRILL_LENGTH, &mut random));
        }
    }
    let mixtures = setting("UMEM_ORACLE_PROGRAMS", DEFAULT_PROGRAMS) / 8;
    for _ in 0..mixtures {
        programs.push(generate::program(&[class], PROGRAM_LENGTH, &mut random));
    }
    check::agree(&programs, seed);
}

#[test]
fn integer_instructions_agree_with_qemu() {
    class_agrees(Class::Integer);
}

#[test]
fn multiplications_and_divisions_agree_with_qemu() {
    class_agrees(Class::Multiply);
}

#[test]
fn atomic_instructions_agree_with_qemu() {
    class_agrees(Class::Atomic);
}

#[test]
fn single_precision_agrees_with_qemu() {
    class_agrees(Class::Single);
}

#[test]
fn double_precision_agrees_with_qemu() {
    class_agrees(Class::Double);
}

#[test]
fn floating_point_csrs_agree_with_qemu() {
    class_agrees(Class::FloatCsr);
}

#[test]
fn compressed_instructions_agree_with_qemu() {
    class_agrees(Class::Compressed);
}

#[test]
fn written_code_runs_after_an_instruction_fence_as_on_qemu() {
    class_agrees(Class::InstructionFence);
}

#[test]
fn mixtures_of_all_classes_agree_with_qemu() {
    let seed = seed();
    let mut random = Random::new(seed);
    let classes = [
        Class::Integer,
        Class::Multiply,
        Class::Atomic,
        Class::Single,
        Class::Double,
        Class::FloatCsr,
        Class::Compressed,
        Class::InstructionFence,
    ];
    let count = setting("UMEM_ORACLE_PROGRAMS", DEFAULT_PROGRAMS);
    let programs: Vec<_> =
        (0..count).map(|_| generate::program(&classes, PROGRAM_LENGTH, &mut random)).collect();
    check::agree(&programs, seed);
}

/// Runs probes under a supervisor on both.
fn probes_agree(probes: &[Probe]) {
    let expected = system::run(probes);
    let observed = subject::probe(probes);
    let pairs = expected.iter().zip(&observed).zip(probes);
    let differing: Vec<_> = pairs
        .filter(|((expected, observed), _)| !privileged::agree(expected, observed))
        .map(|((expected, observed), probe)| {
            format!("{}\n  QEMU {expected:x?}\n  ours {observed:x?}\n", probe.name)
        })
        .collect();
    let shown: String = differing.iter().take(10).cloned().collect();
    assert!(differing.is_empty(), "{} of {} probes differ\n{shown}", differing.len(), probes.len());
}

#[test]
fn the_same_words_are_instructions() {
    let count = setting("UMEM_ORACLE_PROBES", DEFAULT_PROBES) as usize;
    let mut random = Random::new(seed());
    let mut probes = privileged::words(count, &mut random);
    probes.extend(privileged::halves(count, &mut random));
    probes_agree(&probes);
}

#[test]
fn supervisor_csrs_keep_the_same_bits() {
    probes_agree(&privileged::csrs());
}

#[test]
fn the_same_instructions_trap_in_each_mode() {
    probes_agree(&privileged::privileges());
}

#[test]
fn page_permissions_agree_with_qemu() {
    probes_agree(&privileged::permissions());
}

#[test]
fn malformed_page_tables_fault_as_on_qemu() {
    probes_agree(&privileged::malformed());
}
