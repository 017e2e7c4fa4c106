//! Puts a kernel, its initial RAM disk and the device tree into RAM.
//!
//! Kernels are ELF files or Linux `Image` files (Linux documentation, "Boot image header in RISC-V
//! Linux").

use super::fdt::{TreeConfig, device_tree};
use super::layout;
use crate::board::BootFiles;
use object::Endianness;
use object::elf::{EM_RISCV, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use std::path::{Path, PathBuf};
use umem_memory::{GuestAddress, GuestRam};

const IMAGE_MAGIC_OFFSET: usize = 56;
const IMAGE_MAGIC: [u8; 4] = *b"RSC\x05";
const MIB: u64 = 1 << 20;

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel is in no known format.
    #[error(
        "{0}: neither a riscv64 ELF file nor a riscv Linux Image; give an uncompressed kernel for riscv64"
    )]
    Format(PathBuf),
    /// The kernel is for another architecture.
    #[error(
        "{path}: an ELF file for machine {machine}, but accel=tcg runs riscv64 (machine {EM_RISCV}); use accel=kvm for the host's own architecture"
    )]
    Architecture {
        /// Its path.
        path: PathBuf,
        /// ELF machine number.
        machine: u16,
    },
    /// Something does not fit into RAM.
    #[error("{what} of {bytes} bytes does not fit at {address:#x} into RAM of {ram} bytes from {base:#x}; give more with -m", base = layout::RAM_BASE)]
    NoRoom {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// Where it was to go.
        address: u64,
        /// Size of RAM.
        ram: u64,
    },
    /// The device tree cannot be written.
    #[error("cannot describe the machine to the guest")]
    Tree(#[from] vm_fdt::Error),
}

/// Where the boot hart starts and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    /// First instruction.
    pub pc: u64,
    /// Address of the device tree, for `a1`.
    pub device_tree: u64,
}

/// Loads everything and says where to start.
///
/// # Errors
/// See [`LoadError`]; RAM may then hold a part.
pub(crate) fn load(
    ram: &GuestRam,
    files: &BootFiles<'_>,
    mut tree: TreeConfig<'_>,
) -> Result<EntryPoint, LoadError> {
    let placer = Placer { ram, bytes: tree.memory_bytes };
    let kernel = read("kernel", files.kernel)?;
    let (pc, kernel_end) = place_kernel(&placer, files.kernel, &kernel)?;
    let mut low = kernel_end;
    if let Some(path) = files.initrd {
        let initrd = read("initial RAM disk", path)?;
        // Where QEMU puts it: half of RAM behind the kernel, at most 512 MiB behind it.
        let start = round_up(low + (tree.memory_bytes / 2).min(512 * MIB), 2 * MIB);
        let room = layout::RAM_BASE + tree.memory_bytes;
        let length = initrd.len() as u64;
        let start = if start + length + 4 * MIB <= room { start } else { round_up(low, 2 * MIB) };
        placer.put("initial RAM disk", start, &initrd)?;
        tree.initrd = Some((start, start + length));
        low = start + length;
    }
    let blob = device_tree(&tree)?;
    let address = round_up(low, 2 * MIB);
    placer.put("device tree", address, &blob)?;
    Ok(EntryPoint { pc, device_tree: address })
}

struct Placer<'a> {
    ram: &'a GuestRam,
    bytes: u64,
}

impl Placer<'_> {
    fn put(&self, what: &'static str, address: u64, content: &[u8]) -> Result<(), LoadError> {
        self.check(what, address, content.len() as u64)?;
        self.ram
            .write_at(GuestAddress(address), content)
            .map_err(|_| self.no_room(what, address, content.len() as u64))
    }

    fn check(&self, what: &'static str, address: u64, bytes: u64) -> Result<(), LoadError> {
        let end = address.checked_add(bytes);
        if address < layout::RAM_BASE || end.is_none_or(|end| end > layout::RAM_BASE + self.bytes) {
            return Err(self.no_room(what, address, bytes));
        }
        Ok(())
    }

    fn no_room(&self, what: &'static str, address: u64, bytes: u64) -> LoadError {
        LoadError::NoRoom { what, bytes, address, ram: self.bytes }
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { what, path: path.into(), source })
}

/// Returns the entry point and the address behind the kernel.
fn place_kernel(placer: &Placer<'_>, path: &Path, file: &[u8]) -> Result<(u64, u64), LoadError> {
    let unknown = || LoadError::Format(path.into());
    if let Ok(header) = FileHeader64::<Endianness>::parse(file) {
        let endian = header.endian().map_err(|_| unknown())?;
        if header.e_machine(endian) != EM_RISCV || !header.is_little_endian() {
            let machine = header.e_machine(endian);
            return Err(LoadError::Architecture { path: path.into(), machine: machine.0 });
        }
        return place_elf(placer, header, endian, file)
            .map_err(|error| error.unwrap_or_else(unknown));
    }
    let magic = file.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4).ok_or_else(unknown)?;
    if magic != IMAGE_MAGIC {
        return Err(unknown());
    }
    let field = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?))
    };
    let (offset, bytes) = field(8).zip(field(16)).ok_or_else(unknown)?;
    let offset = if offset == 0 { layout::KERNEL_OFFSET } else { offset };
    let bytes = bytes.max(file.len() as u64);
    let start = layout::RAM_BASE.checked_add(offset).ok_or_else(unknown)?;
    placer.check("kernel", start, bytes)?;
    placer.put("kernel", start, file)?;
    Ok((start, start + bytes))
}

/// `Err(None)` when the file contradicts itself.
fn place_elf(
    placer: &Placer<'_>,
    header: &FileHeader64<Endianness>,
    endian: Endianness,
    file: &[u8],
) -> Result<(u64, u64), Option<LoadError>> {
    let mut end = layout::RAM_BASE;
    for segment in header.program_headers(endian, file).map_err(|_| None)? {
        if segment.p_type(endian) != PT_LOAD {
            continue;
        }
        let content = segment.data(endian, file).map_err(|()| None)?;
        let (start, bytes) = (segment.p_paddr(endian), segment.p_memsz(endian));
        // RAM is fresh (at the start and after a reset), so the rest of the segment (.bss) needs no writing.
        placer.check("kernel segment", start, bytes)?;
        placer.put("kernel segment", start, content)?;
        end = end.max(start + bytes);
    }
    Ok((header.e_entry(endian), end))
}

fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}
