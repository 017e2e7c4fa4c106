//! Interrupt controllers (ACPI specification 6.5, section 5.2.12). No overrides: what is announced
//! names pins of the I/O APIC.

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::map::{IO_APIC, LOCAL_APIC};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};

/// The I/O APIC's identifier, as KVM has it after a reset.
const IO_APIC_ID: u8 = 0;

pub(super) fn table(processors: u8) -> MADT {
    let local = LocalInterruptController::Address(LOCAL_APIC as u32);
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for number in 0..processors {
        table.add_structure(ProcessorLocalApic::new(number, number, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(IO_APIC_ID, IO_APIC as u32, 0));
    table
}
