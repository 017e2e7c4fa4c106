//! What Linux is told by its 64-bit boot protocol (Linux documentation, "The Linux/x86 Boot
//! Protocol" and "Zero Page").

use crate::load::Told;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

/// A loader that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// The zero page: `header` as the kernel's file has it, and what the loader adds.
pub(crate) fn bytes(told: &Told<'_>, header: setup_header) -> Vec<u8> {
    let mut page = boot_params { hdr: header, ..boot_params::default() };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.acpi_rsdp_addr = told.rsdp;
    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(told.command_line);
    if let Some((start, bytes)) = told.initrd {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = halves(start);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = halves(bytes);
    }
    let mut table = page.e820_table;
    for (entry, region) in table.iter_mut().zip(told.map) {
        *entry =
            boot_e820_entry { addr: region.start, size: region.bytes, r#type: region.kind as u32 };
        page.e820_entries += 1;
    }
    page.e820_table = table;
    page.as_slice().to_vec()
}

/// The low and the high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    ((value & u64::from(u32::MAX)) as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests;
