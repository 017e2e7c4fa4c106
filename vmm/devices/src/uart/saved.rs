//! A UART's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a UART, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedUart {
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// FIFO control register: FIFO enable and receive trigger.
    pub fifo_control: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Changed modem inputs, the low half of the modem status register.
    pub modem_changes: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// Whether "transmitter empty" was not yet taken notice of.
    pub transmit_pending: bool,
    /// Bytes received and not read by the guest, the oldest first.
    #[serde(with = "umem_state::bytes")]
    pub input: Vec<u8>,
    /// Bytes written by the guest and not yet given to the host, the oldest first.
    #[serde(with = "umem_state::bytes")]
    pub output: Vec<u8>,
}
