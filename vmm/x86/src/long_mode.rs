//! Segments and page tables for the 64-bit entry (Intel SDM volume 3, sections "Segment
//! Descriptors" and "4-Level Paging").

use kvm_bindings::kvm_segment;

/// Selectors that Linux asks for: `__BOOT_CS` and `__BOOT_DS`.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
pub(crate) const DATA_SELECTOR: u16 = 0x18;
pub(crate) const TASK_SELECTOR: u16 = 0x20;
/// Bytes of the descriptors; that of the task takes two places.
pub(crate) const GDT_BYTES: usize = 6 * 8;

const CODE_ACCESSED: u8 = 0xb;
const DATA_ACCESSED: u8 = 0x3;
const TASK_BUSY: u8 = 0xb;
const LOCAL_TABLE: u8 = 2;
/// The smallest that a task state segment may have.
const TASK_LIMIT: u32 = 0x67;

const PAGE: usize = 0x1000;
const ENTRIES: usize = PAGE / 8;
const LARGE_PAGE: u64 = 2 << 20;
/// What one table of large pages maps.
const TABLE_SPAN: u64 = LARGE_PAGE * ENTRIES as u64;
/// What is mapped: all that lies below 4 GiB.
const MAPPED: u64 = 4 << 30;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// A segment of everything.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

/// Code of 64 bits, or of 32.
pub(crate) fn code(long: bool) -> kvm_segment {
    kvm_segment { l: long.into(), db: (!long).into(), ..flat(CODE_SELECTOR, CODE_ACCESSED) }
}

/// Data.
pub(crate) fn data() -> kvm_segment {
    kvm_segment { db: 1, ..flat(DATA_SELECTOR, DATA_ACCESSED) }
}

/// The task that a processor must have. Its state is never looked at.
pub(crate) fn task() -> kvm_segment {
    kvm_segment {
        limit: TASK_LIMIT,
        selector: TASK_SELECTOR,
        type_: TASK_BUSY,
        present: 1,
        ..kvm_segment::default()
    }
}

/// What a processor has after a reset as table of local descriptors.
pub(crate) fn no_local_descriptors() -> kvm_segment {
    kvm_segment { limit: 0xffff, type_: LOCAL_TABLE, present: 1, ..kvm_segment::default() }
}

/// A segment's descriptor; of the task's, the first half. All bases are 0.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 { segment.limit >> 12 } else { segment.limit };
    let bit = |value: u8, at: u32| u64::from(value) << at;
    u64::from(limit & 0xffff)
        | bit(segment.type_, 40)
        | bit(segment.s, 44)
        | bit(segment.present, 47)
        | u64::from(limit >> 16) << 48
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
}

/// The table of descriptors.
pub(crate) fn gdt() -> [u8; GDT_BYTES] {
    let mut table = [0; GDT_BYTES];
    for segment in [code(true), data(), task()] {
        let at = usize::from(segment.selector);
        table[at..at + 8].copy_from_slice(&descriptor(&segment).to_le_bytes());
    }
    table
}

/// Page tables, to lie at `at`, that map all below 4 GiB to itself in pages of 2 MiB.
pub(crate) fn page_tables(at: u64) -> Vec<u8> {
    let page = |number: u64| at + number * PAGE as u64;
    let directories = MAPPED / TABLE_SPAN;
    let mut entries = vec![0; 2 * ENTRIES];
    entries[0] = page(1) | PRESENT | WRITABLE;
    for number in 0..directories {
        entries[ENTRIES + number as usize] = page(2 + number) | PRESENT | WRITABLE;
    }
    let large_pages = (0..MAPPED).step_by(LARGE_PAGE as usize);
    entries.extend(large_pages.map(|address| address | PRESENT | WRITABLE | LARGE));
    entries.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
