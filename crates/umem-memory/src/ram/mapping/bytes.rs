//! Copying pages of a guest that may run: word by word, each atomically, so that what the guest
//! writes meanwhile is seen or not, and nothing else happens.

use super::Mapping;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();
/// Bytes copied by one turn of the loop: enough for the loads to overlap.
const TURN: usize = 8 * WORD;

/// The words of some bytes of a mapping of so many bytes.
fn words(base: *mut u8, size: usize, offset: u64, bytes: usize) -> Option<*const AtomicU64> {
    let start = usize::try_from(offset).ok()?;
    let inside = start.checked_add(bytes)? <= size;
    let whole = start.is_multiple_of(TURN) && bytes.is_multiple_of(TURN);
    let words = base.wrapping_add(start).cast::<AtomicU64>();
    (inside && whole).then_some(words.cast_const())
}

/// Copies bytes into a mapping of this block; whether they are all in it.
pub(super) fn copy_in(base: *mut u8, size: usize, offset: u64, from: &[u8]) -> bool {
    let Some(words) = words(base, size, offset, from.len()) else { return false };
    for (turn, bytes) in from.chunks_exact(TURN).enumerate() {
        for (at, word) in bytes.as_chunks::<WORD>().0.iter().enumerate() {
            // SAFETY: as in `Mapping::copy_out`; both mappings live as long as the block.
            let cell = unsafe { &*words.wrapping_add(turn * (TURN / WORD) + at) };
            cell.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }
    true
}

/// Sets bytes of a mapping of this block to zero; whether they are all in it.
pub(super) fn zero(base: *mut u8, size: usize, offset: u64, bytes: usize) -> bool {
    let Some(words) = words(base, size, offset, bytes) else { return false };
    for at in 0..bytes / WORD {
        // SAFETY: as in `copy_in`.
        let cell = unsafe { &*words.wrapping_add(at) };
        cell.store(0, Ordering::Relaxed);
    }
    true
}

/// Has the kernel give the huge page at an offset memory, whatever it holds; whether there is one.
pub(super) fn touch(base: *mut u8, size: usize, offset: u64) -> bool {
    let Some(words) = words(base, size, offset, TURN) else { return false };
    // A read is enough, as huge pages have no shared page of zeroes; but it must be made.
    // SAFETY: as in `copy_in`.
    let _ = unsafe { words.cast::<u64>().read_volatile() };
    true
}

impl Mapping {
    /// The words of some bytes; `None` when not all of them are in this block. Pages begin and end at
    /// turns, and so must the bytes.
    fn words(&self, offset: u64, bytes: usize) -> Option<*const AtomicU64> {
        words(self.region.as_ptr(), self.region.size(), offset, bytes)
    }

    /// Copies bytes out; whether they are all in this block.
    pub(in crate::ram) fn copy_out(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(words) = self.words(offset, into.len()) else { return false };
        for (turn, bytes) in into.chunks_exact_mut(TURN).enumerate() {
            let mut copied = [[0; WORD]; TURN / WORD];
            for (at, word) in copied.iter_mut().enumerate() {
                // SAFETY: inside the mapping, which lives as long as `self`, and aligned; all accesses
                // to RAM are atomic, volatile or the kernel's.
                let cell = unsafe { &*words.wrapping_add(turn * (TURN / WORD) + at) };
                *word = cell.load(Ordering::Relaxed).to_ne_bytes();
            }
            bytes.copy_from_slice(copied.as_flattened());
        }
        true
    }

    /// Copies bytes in; whether they are all in this block.
    pub(in crate::ram) fn copy_in(&self, offset: u64, from: &[u8]) -> bool {
        copy_in(self.region.as_ptr(), self.region.size(), offset, from)
    }

    /// Sets bytes to one value; whether they are all in this block.
    pub(in crate::ram) fn fill(&self, offset: u64, bytes: usize, byte: u8) -> bool {
        let Some(words) = self.words(offset, bytes) else { return false };
        let value = u64::from_ne_bytes([byte; WORD]);
        for at in 0..bytes / WORD {
            // SAFETY: as in `copy_out`.
            let cell = unsafe { &*words.wrapping_add(at) };
            cell.store(value, Ordering::Relaxed);
        }
        true
    }
}
