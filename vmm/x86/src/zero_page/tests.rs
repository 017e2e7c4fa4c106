//! Offsets are those of Linux documentation, "Zero Page" and "The Linux/x86 Boot Protocol".

use super::*;
use crate::map::{Region, RegionKind};
use crate::testing::number;

const MAP: [Region; 2] = [
    Region { start: 0, bytes: 0xa_0000, kind: RegionKind::Ram },
    Region { start: 0x1_0000_0000, bytes: 0x1234_5000, kind: RegionKind::Reserved },
];

fn page(initrd: Option<(u64, u64)>, header: setup_header) -> Vec<u8> {
    bytes(&Told { map: &MAP, rsdp: 0xe_1230, command_line: 0x2_0000, initrd }, header)
}

#[test]
fn every_field_lies_where_the_kernel_looks_for_it() {
    let header = setup_header {
        setup_sects: 27,
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 0x7f,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x3f_6000,
        ..setup_header::default()
    };
    let page = page(Some((0x7000_0000, 0x12_3456)), header);
    assert_eq!(page.len(), 4096);
    let expected = [
        ("acpi_rsdp_addr", 0x070, 8, 0xe_1230),
        ("ext_ramdisk_image", 0x0c0, 4, 0),
        ("ext_ramdisk_size", 0x0c4, 4, 0),
        ("ext_cmd_line_ptr", 0x0c8, 4, 0),
        ("e820_entries", 0x1e8, 1, 2),
        ("sentinel", 0x1ef, 1, 0),
        ("setup_sects", 0x1f1, 1, 27),
        ("boot_flag", 0x1fe, 2, 0xaa55),
        ("header", 0x202, 4, 0x5372_6448),
        ("version", 0x206, 2, 0x20f),
        ("type_of_loader", 0x210, 1, 0xff),
        ("loadflags", 0x211, 1, 1),
        ("code32_start", 0x214, 4, 0x10_0000),
        ("ramdisk_image", 0x218, 4, 0x7000_0000),
        ("ramdisk_size", 0x21c, 4, 0x12_3456),
        ("cmd_line_ptr", 0x228, 4, 0x2_0000),
        ("initrd_addr_max", 0x22c, 4, 0x7fff_ffff),
        ("kernel_alignment", 0x230, 4, 0x20_0000),
        ("relocatable_kernel", 0x234, 1, 1),
        ("xloadflags", 0x236, 2, 0x7f),
        ("cmdline_size", 0x238, 4, 2047),
        ("setup_data", 0x250, 8, 0),
        ("pref_address", 0x258, 8, 0x100_0000),
        ("init_size", 0x260, 4, 0x3f_6000),
        ("e820_table[0].addr", 0x2d0, 8, 0),
        ("e820_table[0].size", 0x2d8, 8, 0xa_0000),
        ("e820_table[0].type", 0x2e0, 4, 1),
        ("e820_table[1].addr", 0x2e4, 8, 0x1_0000_0000),
        ("e820_table[1].size", 0x2ec, 8, 0x1234_5000),
        ("e820_table[1].type", 0x2f4, 4, 2),
        ("e820_table[2].type", 0x308, 4, 0),
    ];
    let mut rest = page.clone();
    for (field, at, length, value) in expected {
        assert_eq!(number(&page, at, length), value, "{field}");
        rest[at..at + length].fill(0);
    }
    let left: Vec<usize> = (0..rest.len()).filter(|&at| rest[at] != 0).collect();
    assert!(left.is_empty(), "set and not expected: {left:x?}");
}

#[test]
fn what_lies_above_4_gib_is_told_in_two_halves() {
    let page = page(Some((0x1_2345_6000, 0x3_0000_0007)), setup_header::default());
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x0c0, 4)), (0x2345_6000, 1));
    assert_eq!((number(&page, 0x21c, 4), number(&page, 0x0c4, 4)), (7, 3));
}

#[test]
fn without_an_initial_ram_disk_none_is_told() {
    let page = page(None, setup_header::default());
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4)), (0, 0));
}
