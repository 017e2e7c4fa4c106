use super::*;
use crate::testing::number;

const AT: u64 = 0x9000;

/// Walks four levels as the processor does; the physical address, if it is mapped for writing.
fn walk(tables: &[u8], address: u64) -> Option<u64> {
    let mut table = AT;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let index = (address >> shift & 0x1ff) as usize;
        let entry = number(tables, (table - AT) as usize + 8 * index, 8);
        if entry & 3 != 3 {
            return None;
        }
        let base = entry & 0x000f_ffff_ffff_f000;
        if level == 0 || (level < 3 && entry & 0x80 != 0) {
            let offset = (1 << shift) - 1;
            assert_eq!(base & offset, 0, "large page at {base:#x}");
            return Some(base | address & offset);
        }
        table = base;
    }
    None
}

#[test]
fn all_below_4_gib_is_mapped_to_itself_and_nothing_else_is() {
    let tables = page_tables(AT);
    assert_eq!(tables.len(), 6 * 4096);
    for address in (0..4 << 30).step_by(1 << 20).flat_map(|at| [at, at + 0xf_ffff]) {
        assert_eq!(walk(&tables, address), Some(address), "{address:#x}");
    }
    for address in [4 << 30, 5 << 30, 512 << 30, u64::MAX >> 16] {
        assert_eq!(walk(&tables, address), None, "{address:#x}");
    }
}

#[test]
fn the_tables_lie_apart_from_what_is_around_them() {
    use crate::map::{COMMAND_LINE, GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};
    assert!(GDT + GDT_BYTES as u64 <= START_INFO);
    const { assert!(ZERO_PAGE + 4096 <= PAGE_TABLES) };
    assert!(PAGE_TABLES + page_tables(PAGE_TABLES).len() as u64 <= COMMAND_LINE);
}

#[test]
fn descriptors_say_what_the_segment_registers_hold() {
    let gdt = gdt();
    assert_eq!(number(&gdt, 0, 8), 0);
    assert_eq!(number(&gdt, 8, 8), 0);
    // Present, ring 0, execute and read, accessed; 64 bits; 4 GiB.
    assert_eq!(number(&gdt, 0x10, 8), 0x00af_9b00_0000_ffff);
    // Present, ring 0, read and write, accessed; 32 bits; 4 GiB.
    assert_eq!(number(&gdt, 0x18, 8), 0x00cf_9300_0000_ffff);
    // Present, busy task of 0x68 bytes.
    assert_eq!(number(&gdt, 0x20, 8), 0x0000_8b00_0000_0067);
    assert_eq!(number(&gdt, 0x28, 8), 0);
}

#[test]
fn code_of_32_bits_differs_in_its_width_alone() {
    assert_eq!(descriptor(&code(false)), 0x00cf_9b00_0000_ffff);
}
