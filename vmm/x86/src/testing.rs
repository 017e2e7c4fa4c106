//! What several tests need: RAM, and kernels made by hand.

use crate::map::ram_blocks;
use std::io::Write;
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamLayout};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Adds a line to the list of what was skipped.
pub(crate) fn skipped(what: &str) {
    let line = format!("x86-boot {what}");
    eprintln!("skipped: {line}");
    if let Some(path) = std::env::var_os("UMEM_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(log, "{line}").unwrap();
    }
}

pub(crate) fn layout(bytes: u64) -> RamLayout {
    RamLayout::new(PageSize::SMALL, ram_blocks(bytes)).unwrap()
}

pub(crate) fn ram(bytes: u64) -> GuestRam {
    GuestRam::new(layout(bytes), &Backend::Anonymous).unwrap()
}

pub(crate) fn ram_at(ram: &GuestRam, address: u64, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    ram.read_at(GuestAddress(address), &mut read).unwrap();
    read
}

/// A little-endian number of `bytes` bytes.
pub(crate) fn number(from: &[u8], at: usize, bytes: usize) -> u64 {
    from[at..at + bytes].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

pub(crate) fn put(into: &mut [u8], at: usize, bytes: usize, value: u64) {
    into[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

/// An ELF file for x86-64 with one segment of `content` at `start`, `memory` bytes long there.
pub(crate) fn elf(
    entry: u64,
    start: u64,
    content: &[u8],
    memory: u64,
    note: Option<&[u8]>,
) -> Vec<u8> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let offset = HEADER + 2 * SEGMENT;
    let mut file = vec![0; offset];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    put(&mut file, 16, 2, 2); // executable
    put(&mut file, 18, 2, 62);
    put(&mut file, 20, 4, 1);
    put(&mut file, 24, 8, entry);
    put(&mut file, 32, 8, HEADER as u64);
    put(&mut file, 52, 2, HEADER as u64);
    put(&mut file, 54, 2, SEGMENT as u64);
    put(&mut file, 56, 2, 1 + u64::from(note.is_some()));
    let mut segment = |at: usize, type_: u64, offset: usize, length: usize, memory: u64| {
        put(&mut file, at, 4, type_);
        put(&mut file, at + 8, 8, offset as u64);
        put(&mut file, at + 24, 8, start);
        put(&mut file, at + 32, 8, length as u64);
        put(&mut file, at + 40, 8, memory);
        put(&mut file, at + 48, 8, 4);
    };
    segment(HEADER, 1, offset, content.len(), memory);
    if let Some(note) = note {
        let at = offset + content.len();
        segment(HEADER + SEGMENT, 4, at, note.len(), note.len() as u64);
    }
    file.extend(content);
    file.extend(note.unwrap_or_default());
    file
}

/// Xen's note of a 32-bit entry point, behind one of another name.
pub(crate) fn pvh_note(entry: u64) -> Vec<u8> {
    let mut note = Vec::new();
    for (name, value) in [(b"Yen\0", 7), (b"Xen\0", entry)] {
        for word in [4u32, 8, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(name);
        note.extend(value.to_le_bytes());
    }
    note
}

/// A bzImage of two sectors of real-mode code and `kernel`, as Debian's are otherwise.
pub(crate) fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 3 * 512];
    put(&mut file, 0x1f1, 1, 2);
    put(&mut file, 0x1fe, 2, 0xaa55);
    put(&mut file, 0x200, 2, 0x6aeb);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    put(&mut file, 0x206, 2, 0x20f);
    put(&mut file, 0x211, 1, 1);
    put(&mut file, 0x214, 4, 0x10_0000);
    put(&mut file, 0x22c, 4, 0x7fff_ffff);
    put(&mut file, 0x230, 4, 0x20_0000);
    put(&mut file, 0x234, 1, 1);
    put(&mut file, 0x236, 2, 0x7f);
    put(&mut file, 0x238, 4, 2047);
    put(&mut file, 0x258, 8, 0x100_0000);
    put(&mut file, 0x260, 4, 0x40_0000);
    // Behind the header's end: not to be taken for a part of it.
    file[0x26c..0x280].fill(0xee);
    file.extend(kernel);
    file
}
