//! Offsets are those of Xen's `xen/include/public/arch-x86/hvm/start_info.h`.

use super::*;
use crate::map::{COMMAND_LINE, Region, RegionKind, ZERO_PAGE};
use crate::testing::number;

const MAP: [Region; 2] = [
    Region { start: 0, bytes: 0xa_0000, kind: RegionKind::Ram },
    Region { start: 0xe_0000, bytes: 0x2_0000, kind: RegionKind::Acpi },
];

fn info(initrd: Option<(u64, u64)>) -> Vec<u8> {
    bytes(&Told { map: &MAP, rsdp: 0xe_1230, command_line: COMMAND_LINE, initrd })
}

#[test]
fn every_field_lies_where_the_kernel_looks_for_it() {
    let info = info(Some((0x7000_0000, 0x12_3456)));
    let expected = [
        ("magic", 0, 4, 0x336e_c578),
        ("version", 4, 4, 1),
        ("flags", 8, 4, 0),
        ("nr_modules", 12, 4, 1),
        ("cmdline_paddr", 24, 8, 0x2_0000),
        ("rsdp_paddr", 32, 8, 0xe_1230),
        ("memmap_entries", 48, 4, 2),
        ("reserved", 52, 4, 0),
    ];
    for (field, at, length, value) in expected {
        assert_eq!(number(&info, at, length), value, "{field}");
    }
    let module = (number(&info, 16, 8) - START_INFO) as usize;
    assert!(module >= 56 && module.is_multiple_of(8), "{module}");
    assert_eq!(number(&info, module, 8), 0x7000_0000);
    assert_eq!(number(&info, module + 8, 8), 0x12_3456);
    assert_eq!((number(&info, module + 16, 8), number(&info, module + 24, 8)), (0, 0));
    let map = (number(&info, 40, 8) - START_INFO) as usize;
    assert!(map >= module + 32 && map.is_multiple_of(8), "{map}");
    for (at, region) in [(map, MAP[0]), (map + 24, MAP[1])] {
        assert_eq!(number(&info, at, 8), region.start);
        assert_eq!(number(&info, at + 8, 8), region.bytes);
        assert_eq!(number(&info, at + 16, 8), region.kind as u64);
    }
    assert_eq!(info.len(), map + 48);
}

#[test]
fn without_an_initial_ram_disk_there_is_no_module() {
    let info = info(None);
    assert_eq!((number(&info, 12, 4), number(&info, 16, 8)), (0, 0));
}

#[test]
fn the_longest_map_fits_before_what_follows() {
    let room = (ZERO_PAGE - MEMORY_MAP) / size_of::<hvm_memmap_table_entry>() as u64;
    assert!(room > 100, "{room} entries");
}
