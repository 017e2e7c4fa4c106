//! Guests on the real `/dev/kvm`, started as this crate says, with a serial port and nothing else.

mod linux;
mod machine;

use crate::load::{BootFiles, load};
use crate::map::{Board, VirtioSlot};
use crate::testing::{MIB, bzimage, elf, ram};
use machine::Machine;
use std::path::Path;

const TEST_GUEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/test-guest/image/umem-test-guest-x86_64.elf");
const PROCESSORS: u8 = 2;

fn start(test: &str, kernel: &Path, ram_bytes: u64, command_line: &str) -> Option<Machine> {
    let kvm = machine::kvm(test)?;
    let ram = ram(ram_bytes);
    let files = BootFiles { kernel, initrd: None, command_line };
    let board = Board { processors: PROCESSORS, virtio: VirtioSlot::new(0).into_iter().collect() };
    let start = load(&ram, &files, &board).unwrap();
    Some(Machine::new(&kvm, ram, PROCESSORS, &start))
}

/// It finds memory, processors and its arguments by PVH and ACPI, and turns off by what ACPI says.
#[test]
fn the_test_guest_finds_the_board() {
    let arguments = "seed=7 fill=20 rate=0 beat_us=100000";
    let Some(mut machine) = start("test guest", Path::new(TEST_GUEST), 64 * MIB, arguments) else {
        return;
    };
    machine.run_until(|output| output.contains("ready "));
    machine.input.extend(b"vq");
    let output = machine.run_until(|_| false);
    let words = |start: &str| -> Vec<String> {
        let line = output.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        line.split(' ').map(str::to_owned).collect()
    };
    let first = words("umem-guest 1 ");
    assert!(first.contains(&"seed=7".to_owned()), "{output}");
    assert!(first.contains(&format!("workers={PROCESSORS}")), "{output}");
    assert_eq!(words("verdict ").get(1).map(String::as_str), Some("ok"), "{output}");
    assert!(output.contains("bye"), "{output}");
    assert!(machine.turned_off, "{output}");
}

/// Prints the first bytes of what the boot parameters point to, loading its segments anew between.
const LINUX: &[u8] = &[
    0x48, 0x8b, 0x46, 0x70, // mov rax, [rsi + 0x70] (acpi_rsdp_addr)
    0x8b, 0x00, // mov eax, [rax]
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xef, // out dx, eax
    0xb8, 0x18, 0x00, 0x00, 0x00, // mov eax, 0x18
    0x8e, 0xd8, // mov ds, eax
    0x8e, 0xd0, // mov ss, eax
    0xbc, 0x00, 0x80, 0x01, 0x00, // mov esp, 0x18000
    0x6a, 0x10, // push 0x10
    0x48, 0x8d, 0x05, 0x03, 0x00, 0x00, 0x00, // lea rax, [behind retfq]
    0x50, // push rax
    0x48, 0xcb, // retfq
    0x8b, 0x8e, 0x28, 0x02, 0x00, 0x00, // mov ecx, [rsi + 0x228] (cmd_line_ptr)
    0x8b, 0x01, // mov eax, [rcx]
    0xef, // out dx, eax
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, // mov al, 0x34
    0xee, // out dx, al
    0xf4, // hlt
];

#[test]
fn code_that_is_entered_as_linux_finds_its_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let vmlinux = elf(0x20_0000, 0x20_0000, LINUX, 4096, None);
    let packed = bzimage(&[&[0xf4; 0x200], LINUX].concat());
    for (name, file) in [("vmlinux", vmlinux), ("bzImage", packed)] {
        let path = folder.path().join(name);
        std::fs::write(&path, file).unwrap();
        let Some(mut machine) = start(name, &path, 64 * MIB, "quiet") else { return };
        let output = machine.run_until(|_| false);
        assert_eq!((output.as_str(), machine.turned_off), ("RSD quie", true), "{name}");
    }
}
