//! SiFive's test device: the guest switches the board off or resets it.

mod device;
#[cfg(test)]
mod tests;

pub use device::{SifiveTest, TestRequest};
