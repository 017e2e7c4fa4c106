//! What the board's tables say.

/// The values that mean something, as the board's ACPI tables tell them to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcpiPowerConfig {
    /// Sleep type of state S5, three bits: switched off (`\_S5`).
    pub off_type: u8,
    /// What resets the machine (`RESET_VALUE` of the fixed table).
    pub reset_value: u8,
}
