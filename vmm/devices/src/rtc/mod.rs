//! Goldfish real-time clock.

mod device;
mod saved;
#[cfg(test)]
mod tests;

pub use device::{GoldfishRtc, WallClock};
pub use saved::SavedRtc;
