//! Debian's kernel says what it was told. `UMEM_LINUX_X86` names the folder that has it (`cargo xtask
//! guest linux-x86`).
//!
//! Before it says anything a bzImage unpacks itself, which takes a minute where KVM emulates kernels: here the
//! unpacked kernel is entered as a bzImage would be. Both forms as they are have their tests beside those of
//! `umem vm`.

use super::start;
use crate::map::memory_map;
use crate::testing::{GIB, layout, pvh_note, skipped};
use std::path::Path;

const RAM: u64 = 5 * GIB;
/// `earlyprintk` prints before there is any driver.
const COMMAND_LINE: &str = "earlyprintk=serial,ttyS0,115200 nokaslr umem.word=\"told by umem\"";
/// What follows the map.
const BEHIND: &str = "bootconsole [earlyser0] enabled";

fn kernel(test: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("UMEM_LINUX_X86") else {
        skipped(&format!("{test}: UMEM_LINUX_X86 is not set; run it by: cargo xtask test"));
        return None;
    };
    Some(std::fs::read(Path::new(&folder).join("vmlinux")).unwrap())
}

/// What it prints until it has told the map.
fn early_output(test: &str, kernel: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinux");
    std::fs::write(&path, kernel).unwrap();
    let mut machine = start(test, &path, RAM, COMMAND_LINE)?;
    Some(machine.run_until(|output| output.contains(BEHIND)))
}

fn check(output: &str) {
    assert!(output.contains(&format!("Command line: {COMMAND_LINE}")), "{output}");
    let names = ["", "usable", "reserved", "ACPI data"];
    for region in memory_map(&layout(RAM)) {
        let (first, last) = (region.start, region.start + region.bytes - 1);
        let kind = names[region.kind as usize];
        let line = format!("BIOS-e820: [mem {first:#018x}-{last:#018x}] {kind}");
        assert!(output.contains(&line), "no {line} in {output}");
    }
}

#[test]
fn linux_says_what_it_was_told_by_its_own_protocol() {
    let Some(mut kernel) = kernel("Linux by its protocol") else { return };
    // Without the note that there is an entry for PVH.
    let name_and_type = &pvh_note(0)[24..][..16];
    let at = kernel.windows(16).position(|bytes| bytes == name_and_type).unwrap();
    kernel[at + 8] = 0xff;
    if let Some(output) = early_output("Linux by its protocol", &kernel) {
        check(&output);
        // By PVH the kernel itself would add the old PC's hole.
        assert_eq!(output.matches("BIOS-e820: ").count(), memory_map(&layout(RAM)).len());
    }
}
