//! Debian's kernel for x86-64 under KVM: what it says at its start is what `umem vm` was told.
#![allow(missing_docs)]

use std::path::Path;
use std::time::{Duration, Instant};
use umem_tests::qmp::given;
use umem_tests::{Lab, kvm_or_skip};

/// Where KVM emulates kernels an instruction at a time, unpacking takes more than a minute, and many where all
/// tests run at once.
const LONG: Duration = Duration::from_secs(1800);
/// What follows the memory map.
const BEHIND: &str = "bootconsole [earlyser0] enabled";

/// Starts it, and gives what it prints until it has told its memory map.
fn early_output(kernel: &Path, arguments: &str) -> String {
    let lab = Lab::new();
    let vm = lab
        .vm("a", "-accel kvm -m 4G -smp 2")
        .option(["-kernel".as_ref(), kernel.as_os_str()])
        .option(["-append", arguments])
        .start();
    let end = Instant::now() + LONG;
    loop {
        let text = vm.serial.text_from(0);
        if text.contains(BEHIND) {
            return text;
        }
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tells(test: &str, file: &str) {
    let Some(folder) = given("UMEM_LINUX_X86", test) else { return };
    if !kvm_or_skip(test) {
        return;
    }
    // The console that there is before any driver, and addresses that are the same each time.
    let arguments = "earlyprintk=serial,ttyS0,115200 console=ttyS0 nokaslr umem.word=umem";
    let output = early_output(&folder.join(file), arguments);
    for line in [
        "Linux version 6.1.",
        &format!("Command line: {arguments}"),
        "BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable",
        "BIOS-e820: [mem 0x00000000000e0000-0x00000000000fffff] ACPI data",
        "BIOS-e820: [mem 0x0000000000100000-0x00000000bfffffff] usable",
        "BIOS-e820: [mem 0x00000000fffbc000-0x00000000fffbffff] reserved",
        "BIOS-e820: [mem 0x0000000100000000-0x000000013fffffff] usable",
    ] {
        assert!(output.contains(line), "no {line} in {output}");
    }
}

#[test]
fn debians_bzimage_tells_the_command_line_and_the_memory_map() {
    tells("KVM: Debian's bzImage", "bzImage");
}

#[test]
fn debians_vmlinux_tells_the_command_line_and_the_memory_map() {
    tells("KVM: Debian's vmlinux", "vmlinux");
}
