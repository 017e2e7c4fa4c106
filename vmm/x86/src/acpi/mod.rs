//! ACPI tables (ACPI specification 6.5, chapter 5): hardware-reduced, for there is no fixed hardware
//! beside the registers that end a run.

mod dsdt;
mod fadt;
mod madt;

use crate::error::BootError;
use crate::map::{ACPI_END, ACPI_START, Board};
use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

/// Who has made the tables.
const OEM: [u8; 6] = *b"UMEM  ";
const OEM_TABLE: [u8; 8] = *b"UMEMKVM ";
const OEM_REVISION: u32 = 1;
/// Tables begin at multiples of it.
const ALIGNMENT: u64 = 16;
/// The most processors: one more is the address of all.
const MOST_PROCESSORS: u8 = 254;

/// All tables as they lie at [`ACPI_START`], the root pointer first.
///
/// # Errors
/// When the board has no processor, or more than have a number.
pub(crate) fn image(board: &Board) -> Result<Vec<u8>, BootError> {
    let processors = board.processors;
    if !(1..=MOST_PROCESSORS).contains(&processors) {
        return Err(BootError::Processors { processors, most: MOST_PROCESSORS });
    }
    let mut image = Image { bytes: vec![0; Rsdp::len()] };
    let dsdt = image.add(&dsdt::bytes(&board.virtio));
    let fadt = image.add(&encoded(&fadt::table(dsdt)));
    let madt = image.add(&encoded(&madt::table(processors)));
    let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = image.add(&encoded(&root));
    let pointer = encoded(&Rsdp::new(OEM, root));
    let mut bytes = image.bytes;
    bytes.splice(..pointer.len(), pointer);
    let room = ACPI_END - ACPI_START;
    if bytes.len() as u64 > room {
        return Err(BootError::Table { what: "ACPI tables", bytes: bytes.len(), room });
    }
    Ok(bytes)
}

fn encoded(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Adds a table; its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let at = (self.bytes.len() as u64).next_multiple_of(ALIGNMENT);
        self.bytes.resize(at as usize, 0);
        self.bytes.extend(table);
        ACPI_START + at
    }
}

#[cfg(test)]
mod tests;
