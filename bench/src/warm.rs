//! Memory that the host has really given, before anything is timed.

use anyhow::{Context, Result};

/// More than the destination will touch for the first time.
const BYTES: usize = 1280 << 20;

/// Touches memory and frees it: a host that is a guest itself may have given idle memory back, and the first
/// touch of such memory costs milliseconds that no migration is to blame for.
///
/// # Errors
/// When there is no such memory.
pub fn memory() -> Result<()> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(BYTES).context("no memory to warm")?;
    memory.resize(BYTES, 1);
    std::hint::black_box(&memory);
    Ok(())
}
