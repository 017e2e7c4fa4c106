//! The x86-64 test guest in QEMU: it works, keeps what a move must keep, and finds what a move lost.
#![allow(missing_docs)]

use std::path::PathBuf;
use umem_tests::qmp::given;
use umem_tests::{Accelerator, Lab, Qemu, field, until};

/// An address in the middle of the filled part of a small guest.
const FILLED: u64 = 40 << 20;

fn find(test: &str) -> Option<(PathBuf, Accelerator)> {
    Some((given("UMEM_QEMU_X86", test)?, Accelerator::find(test)))
}

fn well(guest: &Qemu, processors: u64) -> u64 {
    let line = guest.verdict();
    assert!(line.starts_with("verdict ok "), "{line}");
    assert_eq!(field(&line, "workers"), Some(processors), "{line}");
    field(&line, "tokens").expect("the number of interrupts")
}

/// The interrupt that was under way at the switch, and each since, has arrived.
fn interrupts_go_on(guest: &Qemu, processors: u64, before: u64) {
    until("interrupts between processors", || {
        (well(guest, processors) > before + 2 * processors).then_some(())
    });
}

fn boots_and_turns_off(test: &str, machine: &str) {
    let Some((qemu, accelerator)) = find(test) else { return };
    let lab = Lab::new();
    let options = format!("-machine {machine} -m 96M -smp 2");
    let guest = Qemu::start(&lab, &qemu, "a", accelerator, &options);
    guest.serial.wait_line(0, "ready ");
    guest.serial.wait_beats(20);
    let tokens = well(&guest, 2);
    interrupts_go_on(&guest, 2, tokens);
    guest.power_off();
}

#[test]
fn the_x86_guest_runs_on_qemus_microvm() {
    boots_and_turns_off("x86 guest on microvm", "microvm,isa-serial=on");
}

#[test]
fn the_x86_guest_runs_on_qemus_pc() {
    boots_and_turns_off("x86 guest on pc", "pc");
}

/// RAM on both sides of the hole below 4 GiB is one for the guest, and all of it is looked at.
#[test]
fn the_x86_guest_uses_ram_above_4_gib() {
    let Some((qemu, accelerator)) = find("x86 guest above 4 GiB") else { return };
    let lab = Lab::new();
    let options = "-machine pc,max-ram-below-4g=64M -m 128M";
    let guest = Qemu::start(&lab, &qemu, "a", accelerator, options);
    guest.serial.wait_line(0, "ready ");
    well(&guest, 1);
    // RAM's file has no hole: this is 4 GiB + 60 MiB for the guest, beyond the filled part.
    guest.alter(124 << 20);
    let line = guest.verdict();
    assert!(line.starts_with("verdict bad ") && field(&line, "bad_pages") == Some(1), "{line}");
}

#[test]
fn the_x86_guest_finds_what_was_altered() {
    let Some((qemu, accelerator)) = find("x86 guest's own checks") else { return };
    let lab = Lab::new();
    let options = "-machine microvm,isa-serial=on -m 96M -smp 2";
    let guest = Qemu::start(&lab, &qemu, "a", accelerator, options);
    guest.serial.wait_line(0, "ready ");
    well(&guest, 2);
    guest.alter(FILLED + 0x123);
    let line = guest.verdict();
    assert!(line.starts_with("verdict bad ") && field(&line, "bad_pages") == Some(1), "{line}");
    guest.alter(FILLED + 0x123);
    well(&guest, 2);
    guest.serial.send(b"r");
    let line = guest.verdict();
    assert!(line.starts_with("verdict bad ") && field(&line, "state_bad") == Some(2), "{line}");
    assert!(line.contains(" state_first=lstar"), "{line}");
}

fn moves(test: &str, postcopy: bool) {
    let Some((qemu, accelerator)) = find(test) else { return };
    let lab = Lab::new();
    let options = "-machine microvm,isa-serial=on -m 96M -smp 2";
    let mut here = Qemu::start(&lab, &qemu, "a", accelerator, options);
    let waiting = format!("{options} -incoming defer");
    let mut there = Qemu::start(&lab, &qemu, "b", accelerator, &waiting);
    here.serial.wait_line(0, "ready ");
    let tokens = well(&here, 2);
    here.serial.send(b"m");
    here.move_to(&mut there, &lab, postcopy);
    there.serial.wait_beats(20);
    interrupts_go_on(&there, 2, tokens);
    there.alter(FILLED);
    let line = there.verdict();
    assert!(line.starts_with("verdict bad ") && field(&line, "bad_pages") == Some(1), "{line}");
}

#[test]
fn the_x86_guest_keeps_everything_through_qemus_precopy() {
    moves("x86 guest through QEMU's precopy", false);
}

#[test]
fn the_x86_guest_keeps_everything_through_qemus_postcopy() {
    moves("x86 guest through QEMU's postcopy", true);
}
