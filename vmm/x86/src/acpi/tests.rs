use super::*;
use crate::map::{VIRTIO_MMIO_SLOTS, VirtioSlot};
use crate::testing::{number, skipped};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

fn board(processors: u8, slots: &[u32]) -> Board {
    Board { processors, virtio: slots.iter().filter_map(|&slot| VirtioSlot::new(slot)).collect() }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, its length and checksum verified.
fn table(image: &[u8], address: u64) -> (String, Vec<u8>) {
    let at = (address - 0xe_0000) as usize;
    let bytes = number(image, at + 4, 4) as usize;
    let table = image[at..at + bytes].to_vec();
    let name = String::from_utf8(table[..4].to_vec()).unwrap();
    assert_eq!(sum(&table), 0, "checksum of {name}");
    (name, table)
}

/// All tables by signature, found as a guest finds them.
fn tables(board: &Board) -> BTreeMap<String, Vec<u8>> {
    let image = image(board).unwrap();
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    assert_eq!((image[15], number(&image, 20, 4)), (2, 36));
    let (name, root) = table(&image, number(&image, 24, 8));
    assert_eq!(name, "XSDT");
    let mut found: BTreeMap<_, _> =
        (36..root.len()).step_by(8).map(|at| table(&image, number(&root, at, 8))).collect();
    let dsdt = number(&found["FACP"], 140, 8);
    found.extend([table(&image, dsdt)]);
    found
}

#[test]
fn every_table_is_found_whole() {
    let found = tables(&board(1, &[]));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP"]);
    for (name, table) in found {
        assert_eq!(&table[10..16], b"UMEM  ", "{name}");
    }
}

#[test]
fn processors_and_the_io_apic_are_listed() {
    let madt = &tables(&board(5, &[]))["APIC"];
    assert_eq!(number(madt, 36, 4), 0xfee0_0000);
    let (mut at, mut processors, mut controllers) = (44, Vec::new(), Vec::new());
    while at < madt.len() {
        match (madt[at], madt[at + 1]) {
            (0, 8) => processors.push((madt[at + 2], madt[at + 3], number(madt, at + 4, 4))),
            (1, 12) => controllers.push((number(madt, at + 4, 4), number(madt, at + 8, 4))),
            other => panic!("{other:?}"),
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(processors, [(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]);
    assert_eq!(controllers, [(0xfec0_0000, 0)]);
}

/// Offsets are those of ACPI specification 6.5, table 5.9.
#[test]
fn the_fixed_table_says_how_to_switch_off() {
    let fadt = &tables(&board(1, &[]))["FACP"];
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5));
    let register = |at: usize| {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1], "port of one byte at {at}");
        number(fadt, at + 4, 8)
    };
    assert_eq!((register(116), fadt[128]), (0x602, 1));
    assert_eq!((register(244), register(256)), (0x600, 0x601));
    let (reduced, reset, headless) = (1 << 20, 1 << 10, 1 << 12);
    let (power_button, sleep_button, wbinvd) = (1 << 4, 1 << 5, 1);
    assert_eq!(
        number(fadt, 112, 4),
        reduced | reset | headless | power_button | sleep_button | wbinvd
    );
    let (no_vga, no_cmos_clock) = (1 << 2, 1 << 5);
    assert_eq!(number(fadt, 109, 2), no_vga | no_cmos_clock);
}

#[test]
fn a_board_has_1_to_254_processors() {
    for processors in [0, 255] {
        let line = image(&board(processors, &[])).unwrap_err().to_string();
        assert_eq!(line, format!("a board needs 1 to 254 processors, not {processors}"));
    }
    let all: Vec<u32> = (0..VIRTIO_MMIO_SLOTS).collect();
    assert_eq!(tables(&board(254, &all))["APIC"].len(), 44 + 254 * 8 + 12);
}

/// Tables as `iasl` reads them; `None` where there is none.
fn disassembled(tables: &BTreeMap<String, Vec<u8>>, name: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.dat");
    fs::write(&file, &tables[name]).unwrap();
    let run = Command::new("iasl").arg("-d").arg(&file).current_dir(folder.path()).output();
    let Ok(run) = run else {
        skipped(&format!("{name} by iasl: no iasl; install the package acpica-tools"));
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = fs::read_to_string(folder.path().join("table.dsl")).unwrap();
    // And back again: what it reads has no errors.
    if name == "DSDT" {
        let run =
            Command::new("iasl").arg("table.dsl").current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("0 Errors, 0 Warnings"), "{said}{text}");
    }
    Some(text)
}

/// A line without the spaces and comments that differ between versions.
fn plain(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn iasl_reads_the_devices() {
    let Some(text) = disassembled(&tables(&board(2, &[0, 3])), "DSDT") else { return };
    let text = plain(&text);
    for expected in [
        "Name (_S5, Package (0x04)",
        "Device (COM1) { Name (_HID, EisaId (\"PNP0501\")",
        "IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08, )",
        "Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
        "Device (V000) { Name (_HID, \"LNRO0005\")",
        "Memory32Fixed (ReadWrite, 0xD0000000, 0x00001000, )",
        "{ 0x00000010, }",
        "Device (V003) { Name (_HID, \"LNRO0005\")",
        "Memory32Fixed (ReadWrite, 0xD0003000, 0x00001000, )",
        "{ 0x00000013, }",
        "Name (_CCA, One)",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert_eq!(text.matches("LNRO0005").count(), 2);
}

#[test]
fn iasl_reads_the_data_tables() {
    let tables = tables(&board(2, &[0]));
    let Some(fadt) = disassembled(&tables, "FACP") else { return };
    let fadt = plain(&fadt);
    for expected in [
        "Hardware Reduced (V5) : 1",
        "Reset Register Supported (V2) : 1",
        "VGA Not Present (V4) : 1",
    ] {
        assert!(fadt.contains(expected), "{expected} in {fadt}");
    }
    let madt = plain(&disassembled(&tables, "APIC").unwrap_or_default());
    assert_eq!(madt.matches("Processor Enabled : 1").count(), 2, "{madt}");
}
