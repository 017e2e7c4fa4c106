//! What a kernel is told by PVH: Xen's `start_info.h`, version 1, with a list of one module and the
//! memory map behind it.

use crate::load::Told;
use crate::map::START_INFO;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

const VERSION: u32 = 1;
const MODULES: u64 = START_INFO + size_of::<hvm_start_info>() as u64;
const MEMORY_MAP: u64 = MODULES + size_of::<hvm_modlist_entry>() as u64;

/// Start info, modules and memory map, as they lie at [`START_INFO`].
pub(crate) fn bytes(told: &Told<'_>) -> Vec<u8> {
    let module = told.initrd.map(|(paddr, size)| hvm_modlist_entry {
        paddr,
        size,
        ..hvm_modlist_entry::default()
    });
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: module.map_or(0, |_| 1),
        modlist_paddr: module.map_or(0, |_| MODULES),
        cmdline_paddr: told.command_line,
        rsdp_paddr: told.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: told.map.len() as u32,
        ..hvm_start_info::default()
    };
    let mut bytes = info.as_slice().to_vec();
    bytes.extend(module.unwrap_or_default().as_slice());
    for region in told.map {
        let entry = hvm_memmap_table_entry {
            addr: region.start,
            size: region.bytes,
            type_: region.kind as u32,
            reserved: 0,
        };
        bytes.extend(entry.as_slice());
    }
    bytes
}

#[cfg(test)]
mod tests;
