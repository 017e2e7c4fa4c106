//! ELF kernels: Linux's vmlinux, and others that are entered by PVH.
//!
//! One with Xen's note `PHYS32_ENTRY` is entered by it (Xen documentation, "x86/HVM direct boot
//! ABI"); any other is taken for a Linux whose entry point is that of the 64-bit boot protocol.

use super::{COMMAND_LINE_MOST, Entry, INITRD_END, Kernel, wrong};
use crate::error::BootError;
use crate::place::Placer;
use linux_loader::loader::bootparam::setup_header;
use object::Endianness;
use object::elf::{EM_X86_64, FileHeader64, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;
use std::path::Path;

/// `e_machine` lies here in ELF files of both widths.
const MACHINE: Range<usize> = 18..20;
/// `e_ident[EI_DATA]`, 2 of big-endian files.
const DATA: usize = 5;
const DATA_BIG: u8 = 2;
const XEN: &[u8] = b"Xen";
const XEN_PHYS32_ENTRY: u32 = 18;
/// What Linux is built with, when its header does not say.
const ALIGNMENT: u32 = 0x100_0000;

type Header = FileHeader64<Endianness>;
type Segment = ProgramHeader64<Endianness>;

pub(super) fn place(placer: &Placer<'_>, path: &Path, file: &[u8]) -> Result<Kernel, BootError> {
    check_machine(path, file)?;
    let damaged = |error: object::Error| wrong(path, format!("damaged ELF file: {error}"));
    let header = Header::parse(file).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let segments = header.program_headers(endian, file).map_err(damaged)?;
    let loaded = place_segments(placer, path, endian, segments, file)?;
    let kernel = |entry, address: u64| {
        if !loaded.iter().any(|segment| segment.contains(&address)) {
            return Err(wrong(path, format!("entry point {address:#x} outside all segments")));
        }
        let end = loaded.iter().map(|segment| segment.end).max().unwrap_or(0);
        let (command_line_most, initrd_end) = (COMMAND_LINE_MOST, INITRD_END);
        Ok(Kernel { entry, end, command_line_most, initrd_end })
    };
    match pvh_entry(endian, segments, file) {
        Some(entry) => kernel(Entry::Pvh(entry), entry),
        None => {
            let entry = header.e_entry(endian);
            kernel(Entry::Linux64(entry, Box::new(header_of_vmlinux())), entry)
        }
    }
}

fn check_machine(path: &Path, file: &[u8]) -> Result<(), BootError> {
    let machine = file.get(MACHINE).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
    let machine = machine.ok_or_else(|| wrong(path, "an ELF file without a whole header"))?;
    let big = file.get(DATA) == Some(&DATA_BIG);
    let machine = if big { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    if machine != EM_X86_64.0 {
        return Err(BootError::Machine { path: path.into(), machine });
    }
    if big {
        return Err(wrong(path, "an ELF file of big-endian numbers"));
    }
    Ok(())
}

/// Gives where they lie.
fn place_segments(
    placer: &Placer<'_>,
    path: &Path,
    endian: Endianness,
    segments: &[Segment],
    file: &[u8],
) -> Result<Vec<Range<u64>>, BootError> {
    let mut loaded = Vec::new();
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let content = segment.data(endian, file).map_err(|()| {
            let (offset, bytes) = (segment.p_offset(endian), segment.p_filesz(endian));
            wrong(path, format!("{bytes} bytes at {offset:#x} of a file of {}", file.len()))
        })?;
        let (start, bytes) = (segment.p_paddr(endian), segment.p_memsz(endian));
        if content.len() as u64 > bytes {
            let content = content.len();
            return Err(wrong(path, format!("a segment of {bytes} bytes with {content} in it")));
        }
        if bytes == 0 {
            continue;
        }
        // RAM is fresh (at the start and after a reset), so the rest (.bss) needs no writing.
        placer.check("kernel segment", start, bytes)?;
        placer.put("kernel segment", start, content)?;
        loaded.push(start..start + bytes);
    }
    Ok(loaded)
}

fn pvh_entry(endian: Endianness, segments: &[Segment], file: &[u8]) -> Option<u64> {
    for segment in segments {
        let Ok(Some(mut notes)) = segment.notes(endian, file) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() != XEN || note.n_type(endian).0 != XEN_PHYS32_ENTRY {
                continue;
            }
            // Linux has 8 bytes on x86-64; addresses have 32 bits either way.
            let low = note.desc().get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            return low.map(|bytes| u32::from_le_bytes(bytes).into());
        }
    }
    None
}

/// What a bzImage of this Linux would have in its header, as far as the kernel looks there.
fn header_of_vmlinux() -> setup_header {
    setup_header {
        boot_flag: super::bzimage::BOOT_FLAG,
        header: super::bzimage::MAGIC,
        version: super::bzimage::VERSION_64,
        loadflags: super::bzimage::LOADED_HIGH,
        kernel_alignment: ALIGNMENT,
        cmdline_size: COMMAND_LINE_MOST as u32,
        initrd_addr_max: (INITRD_END - 1) as u32,
        ..setup_header::default()
    }
}
