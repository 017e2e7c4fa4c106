//! Puts everything into RAM and says where to start.

use crate::acpi;
use crate::error::BootError;
use crate::kernel::{self, Entry, Kernel};
use crate::long_mode;
use crate::map::{self, Board};
use crate::place::Placer;
use crate::{start_info, zero_page};
use std::path::Path;
use umem_memory::{GuestAddress, GuestRam};

const PAGE: u64 = 0x1000;

/// What to boot.
#[derive(Debug, Clone, Copy)]
pub struct BootFiles<'a> {
    /// Kernel: a vmlinux or another ELF file with a PVH entry, or a bzImage.
    pub kernel: &'a Path,
    /// Initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// The kernel's arguments.
    pub command_line: &'a str,
}

const KERNEL: &str = "kernel";
const INITRD: &str = "initial RAM disk";

/// Where the first processor starts, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In protected mode without paging (Xen documentation, "x86/HVM direct boot ABI").
    Pvh {
        /// First instruction.
        entry: GuestAddress,
        /// What `ebx` points to.
        start_info: GuestAddress,
    },
    /// In long mode (Linux documentation, "The Linux/x86 Boot Protocol", section "64-bit Boot
    /// Protocol").
    Linux64 {
        /// First instruction.
        entry: GuestAddress,
        /// What `rsi` points to.
        boot_params: GuestAddress,
        /// Descriptors of the segments.
        gdt: GuestAddress,
        /// The root of the page tables, for `cr3`.
        page_table: GuestAddress,
    },
}

/// What both protocols tell of.
pub(crate) struct Told<'a> {
    pub(crate) map: &'a [map::Region],
    pub(crate) rsdp: u64,
    /// With the zero at its end.
    pub(crate) command_line: u64,
    /// First address and length of the initial RAM disk.
    pub(crate) initrd: Option<(u64, u64)>,
}

/// Loads everything into RAM, which reads as zero, and says where to start.
///
/// # Errors
/// See [`BootError`]; RAM may then hold a part.
pub fn load(ram: &GuestRam, files: &BootFiles<'_>, board: &Board) -> Result<Start, BootError> {
    let placer = Placer::new(ram);
    let tables = acpi::image(board)?;
    let file = read(KERNEL, files.kernel)?;
    let kernel = kernel::place(&placer, files.kernel, &file)?;
    let initrd = files.initrd.map(|path| place_initrd(&placer, &kernel, path)).transpose()?;
    place_command_line(&placer, &kernel, files.command_line)?;
    placer.put_low("ACPI tables", map::ACPI_START, &tables)?;
    let told = Told {
        map: &map::memory_map(ram.layout()),
        rsdp: map::ACPI_START,
        command_line: map::COMMAND_LINE,
        initrd,
    };
    match kernel.entry {
        Entry::Pvh(entry) => {
            placer.put_low("start info", map::START_INFO, &start_info::bytes(&told))?;
            Ok(Start::Pvh { entry: GuestAddress(entry), start_info: GuestAddress(map::START_INFO) })
        }
        Entry::Linux64(entry, header) => {
            let zero_page = zero_page::bytes(&told, *header);
            placer.put_low("boot parameters", map::ZERO_PAGE, &zero_page)?;
            placer.put_low("segments", map::GDT, &long_mode::gdt())?;
            let tables = long_mode::page_tables(map::PAGE_TABLES);
            placer.put_low("page tables", map::PAGE_TABLES, &tables)?;
            Ok(Start::Linux64 {
                entry: GuestAddress(entry),
                boot_params: GuestAddress(map::ZERO_PAGE),
                gdt: GuestAddress(map::GDT),
                page_table: GuestAddress(map::PAGE_TABLES),
            })
        }
    }
}

fn cannot_read(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BootError {
    move |source| BootError::Read { what, path: path.into(), source }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BootError> {
    std::fs::read(path).map_err(cannot_read(what, path))
}

/// As high as it may lie. Gives first address and length.
fn place_initrd(
    placer: &Placer<'_>,
    kernel: &Kernel,
    path: &Path,
) -> Result<(u64, u64), BootError> {
    let initrd = read(INITRD, path)?;
    let bytes = initrd.len() as u64;
    let highest = placer.end().min(kernel.initrd_end);
    let limit = if highest < kernel.initrd_end {
        "the end of RAM below 4 GiB; give more with -m, or a smaller one"
    } else {
        "the end of what the kernel can reach; give a smaller one"
    };
    let lowest = kernel.end.next_multiple_of(PAGE);
    let start = highest.checked_sub(bytes).map(|start| start / PAGE * PAGE);
    let start = start.filter(|&start| start >= lowest).ok_or(BootError::NoRoomForInitrd {
        bytes,
        lowest,
        highest,
        limit,
    })?;
    placer.put(INITRD, start, &initrd)?;
    Ok((start, bytes))
}

fn place_command_line(
    placer: &Placer<'_>,
    kernel: &Kernel,
    command_line: &str,
) -> Result<(), BootError> {
    // What lies behind it below 1 MiB is not the kernel's to say.
    let most = kernel.command_line_most.min(map::COMMAND_LINE_ROOM - 1);
    let bytes = command_line.len();
    if bytes > most {
        return Err(BootError::CommandLineLength { bytes, most });
    }
    if let Some(at) = command_line.find('\0') {
        return Err(BootError::CommandLineZero { at });
    }
    let mut text = command_line.as_bytes().to_vec();
    text.push(0);
    placer.put_low("command line", map::COMMAND_LINE, &text)
}

#[cfg(test)]
mod tests;
