//! Giving back to the host what this process has freed: a process whose guest has left may wait long for
//! the next, and the C library keeps what it freed.
#![allow(unsafe_code)]

/// Gives it back, where the C library can.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and is safe beside other threads (malloc_trim(3), MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
