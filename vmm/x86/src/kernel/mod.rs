//! Which kind of kernel a file is, and its bytes.

mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use crate::error::BootError;
use crate::place::Placer;
use linux_loader::loader::bootparam::setup_header;
use std::path::Path;

/// What Linux takes as command line when its header does not say, without the zero at its end.
const COMMAND_LINE_MOST: usize = 2047;
/// Where an initial RAM disk must end for a Linux that does not say: as its bzImages for x86-64 say.
const INITRD_END: u64 = 0x8000_0000;

/// What a kernel's first line of bytes says of what has compressed it.
const COMPRESSIONS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO", "lzop"),
];
/// Where the boot headers of riscv and arm64 have their magic.
const IMAGE_MAGIC: usize = 56;

/// A kernel that is in RAM.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) entry: Entry,
    /// Behind what it occupies, and what it will before it knows the memory map.
    pub(crate) end: u64,
    /// What it takes as command line, without the zero at its end.
    pub(crate) command_line_most: usize,
    /// Where an initial RAM disk must end.
    pub(crate) initrd_end: u64,
}

/// How it is entered.
#[derive(Debug)]
pub(crate) enum Entry {
    /// In protected mode, at this address.
    Pvh(u64),
    /// In long mode, at this address, with a header to go into the zero page.
    Linux64(u64, Box<setup_header>),
}

/// Puts a kernel into RAM.
pub(crate) fn place(placer: &Placer<'_>, path: &Path, file: &[u8]) -> Result<Kernel, BootError> {
    if file.starts_with(b"\x7fELF") {
        return elf::place(placer, path, file);
    }
    if bzimage::is(file) {
        return bzimage::place(placer, path, file);
    }
    let image = match file.get(IMAGE_MAGIC..IMAGE_MAGIC + 4) {
        Some(b"RSC\x05") => Some("riscv"),
        Some(b"ARM\x64") => Some("arm64"),
        _ => None,
    };
    if let Some(architecture) = image {
        return Err(BootError::Image { path: path.into(), architecture });
    }
    match COMPRESSIONS.iter().find(|(magic, _)| file.starts_with(magic)) {
        Some(&(_, with)) => Err(BootError::Compressed { path: path.into(), with }),
        None => Err(wrong(path, format!("{} bytes of neither ELF nor Linux", file.len()))),
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> BootError {
    BootError::Format { path: path.into(), reason: reason.into() }
}
