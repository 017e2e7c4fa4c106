//! Linux's bzImage (Linux documentation, "The Linux/x86 Boot Protocol").

use super::{Entry, Kernel, wrong};
use crate::error::BootError;
use crate::place::Placer;
use linux_loader::loader::bootparam::setup_header;
use std::path::Path;
use vm_memory::ByteValued;

/// The setup header in the file.
const HEADER: usize = 0x1f1;
/// The header's length is told here, counted from [`MAGIC_AT`].
const LENGTH: usize = 0x201;
const MAGIC_AT: usize = 0x202;
/// `HdrS`.
pub(super) const MAGIC: u32 = 0x5372_6448;
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// `loadflags`: the kernel belongs at 1 MiB or above.
pub(super) const LOADED_HIGH: u8 = 1;
/// The first version with `xloadflags`.
pub(super) const VERSION_64: u16 = 0x20c;
/// `xloadflags`: there is a 64-bit entry point.
const KERNEL_64: u16 = 1;
/// It lies so far behind the 32-bit one.
const ENTRY_64: u64 = 0x200;
const SECTOR: usize = 512;
/// Sectors of real-mode code when the header says none.
const SETUP_SECTORS: u8 = 4;

pub(super) fn is(file: &[u8]) -> bool {
    file.get(MAGIC_AT..MAGIC_AT + 4) == Some(&MAGIC.to_le_bytes())
}

pub(super) fn place(placer: &Placer<'_>, path: &Path, file: &[u8]) -> Result<Kernel, BootError> {
    let header = header(file).ok_or_else(|| wrong(path, "a bzImage cut short"))?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < VERSION_64 || flags & KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::NoEntry64 { path: path.into(), version });
    }
    let sectors = if header.setup_sects == 0 { SETUP_SECTORS } else { header.setup_sects };
    let setup = (usize::from(sectors) + 1) * SECTOR;
    let kernel =
        file.get(setup..).filter(|kernel| kernel.len() as u64 > ENTRY_64).ok_or_else(|| {
            wrong(path, format!("a bzImage of {} bytes with {setup} of real-mode code", file.len()))
        })?;
    let start = u64::from(header.code32_start);
    placer.put("kernel", start, kernel)?;
    let (runs_at, runs_in) = runs(&header, start);
    placer.check("unpacked kernel", runs_at, runs_in)?;
    Ok(Kernel {
        entry: Entry::Linux64(start + ENTRY_64, Box::new(header)),
        end: (start + kernel.len() as u64).max(runs_at + runs_in),
        command_line_most: header.cmdline_size as usize,
        initrd_end: u64::from(header.initrd_addr_max) + 1,
    })
}

/// The header as far as the file says that it goes, and zeroes.
fn header(file: &[u8]) -> Option<setup_header> {
    let end = MAGIC_AT + usize::from(*file.get(LENGTH)?);
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let told = file.get(HEADER..end.min(HEADER + bytes.len()))?;
    bytes.get_mut(..told.len())?.copy_from_slice(told);
    Some(header)
}

/// Where the kernel unpacks itself to, and how many bytes it needs there before it looks at the
/// memory map (`init_size`).
fn runs(header: &setup_header, start: u64) -> (u64, u64) {
    let preferred = header.pref_address;
    let runs_at = if header.relocatable_kernel == 0 {
        preferred
    } else {
        let alignment = u64::from(header.kernel_alignment).max(1);
        start.next_multiple_of(alignment).max(preferred)
    };
    (runs_at, header.init_size.into())
}
