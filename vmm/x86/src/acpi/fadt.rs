//! The fixed table (ACPI specification 6.5, section 5.2.9): where the machine is switched off and
//! reset, and what a PC has that is not here.

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::map::{RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// `IAPC_BOOT_ARCH`: no VGA to look for.
const NO_VGA: u16 = 1 << 2;
/// `IAPC_BOOT_ARCH`: no CMOS clock.
const NO_CMOS_RTC: u16 = 1 << 5;

pub(super) fn table(dsdt: u64) -> FADT {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        // There is neither button as fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    // A keyboard controller is not announced: the one there is knows only how to reset.
    table.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    table.reset_reg = port(RESET);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = port(SLEEP_CONTROL);
    table.sleep_status_reg = port(SLEEP_STATUS);
    table.finalize()
}

/// A register of one byte.
fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, number.into())
}
