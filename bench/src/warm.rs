//! Memory that the host has really given, before anything is timed.

use anyhow::{Context as _, Result};

/// Of memory that is free, the share that is left alone.
const LEFT: u64 = 8;

/// Touches so many bytes and frees them: a host that is a guest itself may have given idle memory back, and the
/// first touch of such memory costs milliseconds that no migration is to blame for. Of what is free, an eighth is
/// left alone. Returns the bytes touched.
///
/// # Errors
/// When there is no such memory.
pub fn memory(bytes: u64) -> Result<u64> {
    let free = crate::host::available_bytes().unwrap_or(bytes);
    let bytes = bytes.min(free - free / LEFT);
    let mut memory: Vec<u8> = Vec::new();
    let length = usize::try_from(bytes).context("more memory than addresses")?;
    memory.try_reserve_exact(length).context("no memory to warm")?;
    memory.resize(length, 1);
    std::hint::black_box(&memory);
    Ok(bytes)
}
