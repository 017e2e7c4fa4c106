//! Memory that the host has really given, before anything is timed.

use anyhow::{Context as _, Result};

/// Of memory that is free, the share that is left alone.
const LEFT: u64 = 8;

/// Memory that was touched. When this is dropped it is free, and warm for a second or two.
pub struct Warm(Vec<u8>);

impl Warm {
    /// Bytes touched.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Touches so many bytes: a host that is a guest itself may have given idle memory back, and the first touch of
/// such memory costs milliseconds that no migration is to blame for. Of what is free, an eighth is left alone.
/// Who times something next keeps the memory until then: what has been free for two seconds is given back
/// (free page reporting).
///
/// # Errors
/// When there is no such memory.
pub fn hold(bytes: u64) -> Result<Warm> {
    let free = crate::host::available_bytes().unwrap_or(bytes);
    let bytes = bytes.min(free - free / LEFT);
    let mut memory: Vec<u8> = Vec::new();
    let length = usize::try_from(bytes).context("more memory than addresses")?;
    memory.try_reserve_exact(length).context("no memory to warm")?;
    memory.resize(length, 1);
    std::hint::black_box(&memory);
    Ok(Warm(memory))
}

/// The same, and frees it at once. Returns the bytes touched.
///
/// # Errors
/// When there is no such memory.
pub fn memory(bytes: u64) -> Result<u64> {
    hold(bytes).map(|warm| warm.bytes())
}
