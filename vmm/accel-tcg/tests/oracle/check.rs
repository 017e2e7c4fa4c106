//! Runs programs on both emulators and, when they differ, finds a short program that shows it.

use crate::program::{Image, Program, RECORD_BYTES, State, link, records};
use crate::{reference, subject};
use std::fmt::Write as _;

/// Runs all programs on both.
///
/// # Panics
/// With a short program and what differs, when the emulators do not agree.
pub(crate) fn agree(programs: &[Program], seed: u64) {
    let image = link(programs);
    let expected = match reference::run(&image, programs.len()) {
        Ok(records) => records,
        Err(words) => panic!("{}", refused(programs, &words)),
    };
    if let Some(index) = first_difference(&image, &expected, programs.len()) {
        let (short, difference) = shrink(programs[index].clone());
        panic!("seed {seed}, program {index} differs\n{}\n{difference}", listing(&short));
    }
}

fn first_difference(image: &Image, expected: &[u8], count: usize) -> Option<usize> {
    match subject::run(image) {
        Err(stop) => {
            let within = |code: &std::ops::Range<u64>| code.contains(&stop.address);
            let found = image.code.iter().position(within);
            Some(found.unwrap_or_else(|| panic!("stopped outside every program: {stop}")))
        }
        Ok(memory) => {
            let observed = memory[records(count)].chunks_exact(RECORD_BYTES);
            let mut pairs = expected.chunks_exact(RECORD_BYTES).zip(observed);
            pairs.position(|(expected, observed)| expected != observed)
        }
    }
}

/// What differs when a program runs alone.
fn difference(program: &Program) -> Option<String> {
    let image = link(std::slice::from_ref(program));
    // A shorter program that QEMU refuses shows nothing.
    let expected = reference::run(&image, 1).ok()?;
    match subject::run(&image) {
        Err(stop) => Some(format!("ours stopped: {stop}")),
        Ok(memory) => compare(&State::decode(&expected), &State::decode(&memory[records(1)])),
    }
}

fn compare(expected: &State, observed: &State) -> Option<String> {
    let mut text = String::new();
    let mut field = |name: String, expected: u64, observed: u64| {
        if expected != observed {
            writeln!(text, "  {name}: QEMU {expected:#018x}, ours {observed:#018x}").unwrap();
        }
    };
    for index in 0..32 {
        field(format!("x{index}"), expected.x[index], observed.x[index]);
        field(format!("f{index}"), expected.f[index], observed.f[index]);
    }
    field("fcsr".into(), expected.fcsr, observed.fcsr);
    for (index, (&expected, &observed)) in
        expected.scratch.iter().zip(&observed.scratch).enumerate()
    {
        field(format!("scratch+{}", index * 8), expected, observed);
    }
    (!text.is_empty()).then_some(text)
}

/// Removes runs of pieces, halves first, then smaller ones, as long as a difference remains.
fn shrink(mut program: Program) -> (Program, String) {
    let Some(mut shown) = difference(&program) else {
        return (program, "differs only together with the programs before it".into());
    };
    let mut chunk = program.items.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        while start < program.items.len() {
            let end = (start + chunk).min(program.items.len());
            let candidate = program.without(start..end);
            if let Some(difference) = difference(&candidate) {
                (program, shown) = (candidate, difference);
            } else {
                start = end;
            }
        }
        chunk /= 2;
    }
    (program, shown)
}

/// The program, and the registers that it starts from.
fn listing(program: &Program) -> String {
    let mut text = String::new();
    for item in &program.items {
        writeln!(text, "  {item}").unwrap();
    }
    let State { x, f, fcsr, .. } = &program.state;
    writeln!(
        text,
        "from fcsr={fcsr:#x}, pointers (register, scratch offset) {:?}",
        program.pointers
    )
    .unwrap();
    for index in 0..32 {
        writeln!(text, "  x{index}={:#x} f{index}={:#x}", x[index], f[index]).unwrap();
    }
    text
}

/// Our own fault: a program that QEMU does not run to its end.
fn refused(programs: &[Program], words: &str) -> String {
    let alone = |program: &Program| reference::run(&link(std::slice::from_ref(program)), 1);
    let bad = programs.iter().find(|program| alone(program).is_err());
    let listing = bad.map_or_else(|| "each alone runs".into(), listing);
    format!("QEMU does not run the programs: {words}\n{listing}")
}
