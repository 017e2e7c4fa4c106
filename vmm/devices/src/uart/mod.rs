//! 16550A UART.

mod device;
mod registers;
mod saved;
#[cfg(test)]
mod tests;

pub use device::Uart;
pub use saved::SavedUart;
