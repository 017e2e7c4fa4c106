//! The x86-64 test guest in QEMU: it works, keeps what a move must keep, and finds what a move lost.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use umem_tests::qmp::given;
use umem_tests::scratch::{self, Requests, bad_sectors};
use umem_tests::{Accelerator, Lab, Qemu, field, until};

/// An address in the middle of the filled part of a small guest.
const FILLED: u64 = 40 << 20;

fn find(test: &str) -> Option<(PathBuf, Accelerator)> {
    Some((given("UMEM_QEMU_X86", test)?, Accelerator::find(test)))
}

/// Where the microvm has disk and random numbers that are its first two devices.
const DEVICES: &str = "disk=0xfeb00000:16 rng=0xfeb00200:17";
/// As [`DEVICES`], with interrupts that nothing ever sends.
const DEAF: &str = "disk=0xfeb00000:20 rng=0xfeb00200:21";

/// A microvm with a disk in that file, which another may have open as well.
fn with_devices(image: &Path) -> String {
    let disk = format!("if=none,id=disk,format=raw,file.locking=off,file={}", image.display());
    // The pins of QEMU's second I/O APIC are not its own under KVM.
    format!(
        "-machine microvm,isa-serial=on,ioapic2=off -m 96M -smp 2 \
         -global virtio-mmio.force-legacy=false -drive {disk} \
         -device virtio-blk-device,drive=disk,bus=virtio-mmio-bus.0 \
         -device virtio-rng-device,bus=virtio-mmio-bus.1"
    )
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

#[test]
fn the_x86_guest_uses_disk_and_random_numbers() {
    let Some((qemu, accelerator)) = find("x86 guest's devices") else { return };
    let lab = Lab::new();
    let image = scratch::make(&lab);
    let guest = Qemu::start_with(&lab, &qemu, "a", accelerator, &with_devices(&image), DEVICES);
    guest.serial.wait_line(0, "ready ");
    let some = scratch::go_on(Requests::default(), || guest.verdict());
    scratch::go_on(some, || guest.verdict());
    scratch::alter(&image);
    assert!(bad_sectors(&guest.verdict()) > 1);
    guest.power_off();
}

#[test]
fn the_x86_guest_finds_the_damage_it_does_to_its_disk() {
    let Some((qemu, accelerator)) = find("x86 guest's check of its disk") else { return };
    let lab = Lab::new();
    let options = with_devices(&scratch::make(&lab));
    let guest = Qemu::start_with(&lab, &qemu, "a", accelerator, &options, DEVICES);
    guest.serial.wait_line(0, "ready ");
    scratch::go_on(Requests::default(), || guest.verdict());
    guest.serial.send(b"k");
    guest.serial.wait_beats(20);
    assert_eq!(bad_sectors(&guest.verdict()), 1);
    // Once found it is not found again.
    assert_eq!(bad_sectors(&guest.verdict()), 1);
}

/// The devices do all they are asked for, and the guest never hears of it.
#[test]
fn the_x86_guest_notices_interrupts_that_do_not_come() {
    let Some((qemu, accelerator)) = find("x86 guest's check of interrupts") else { return };
    let lab = Lab::new();
    let options = with_devices(&scratch::make(&lab));
    let guest = Qemu::start_with(&lab, &qemu, "a", accelerator, &options, DEAF);
    guest.serial.wait_line(0, "ready ");
    guest.serial.wait_beats(20);
    let line = guest.verdict();
    assert!(line.starts_with("verdict bad ") && field(&line, "bad_pages") == Some(0), "{line}");
    for name in ["disk_lost", "rng_lost"] {
        assert!(field(&line, name) > Some(0), "{line}");
    }
    assert_eq!(field(&line, "disk_bad"), Some(0), "{line}");
}

#[test]
fn the_x86_guest_says_which_device_is_not_there() {
    let Some((qemu, accelerator)) = find("x86 guest without its device") else { return };
    let lab = Lab::new();
    let options = with_devices(&scratch::make(&lab));
    let guest = Qemu::start_with(&lab, &qemu, "a", accelerator, &options, "rng=0xfeb00000:16");
    let line = guest.serial.wait_line(0, "umem-guest ").text;
    assert_eq!(line, "umem-guest rng at 0x00000000feb00000 is a device of another kind");
}

// Moves with the devices busy are in kvm_devices.rs: QEMU 10's microvm has lost a disk's interrupt in one.

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
