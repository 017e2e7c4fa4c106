//! Giving back to the host what this process has freed: a process whose guest has left may wait long for
//! the next, and the C library keeps what it freed.
#![allow(unsafe_code)]

/// Bytes from which on a block of memory is its own mapping, which goes when it is freed.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 128 << 10;

/// To be called once at the start of a process that runs VMs, before its threads. Without it the C library
/// takes large blocks from its heap once one was freed, and what a migration needed stays there in pieces.
pub fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and sets a number of the C library's (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives it back, where the C library can.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and is safe beside other threads (malloc_trim(3), MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
