//! Dirty tracking: which pages were written since they were asked for last.
//!
//! Every kind of writer has a source of its own, which knows how those writers write:
//!
//! | writer | its source |
//! |---|---|
//! | vCPUs | the accelerator's log |
//! | devices, loaders and all else that writes through [`crate::GuestRam`] | [`crate::HostWrites`] |
//! | another process, or the kernel on its behalf | the kernel's write protection |
//!
//! [`DirtyLog`] unites those that are in use for one RAM.
//!
//! # The order of things
//! A source promises, of each of its writers, once [`DirtySource::start`] has returned:
//!
//! - A bit is set *after* the store; or before it, if collecting waits until the store is over.
//! - [`DirtySource::collect`] first takes the bits away and then makes all writers drop what write
//!   permission they have cached, and waits for their acknowledgement.
//!
//! So whoever reads pages after `collect` has returned finds in them every store made before the
//! acknowledgement, and every store made after it sets a bit again, for the next `collect`. What was
//! stored before `start` returned is marked or not: take all pages for dirty then.

mod host;
mod log;
#[cfg(test)]
mod tests;

pub(crate) use host::Marks;
pub use host::{BlockMarks, HostWrites};
pub use log::DirtyLog;

use crate::PageBitmap;
use std::io;

/// Dirty tracking that cannot be had, or failed.
#[derive(Debug, thiserror::Error)]
pub enum DirtyError {
    /// A question before the start, or after the end.
    #[error("dirty tracking ({0}) is off; start it first")]
    Off(&'static str),
    /// A second start.
    #[error("dirty tracking ({0}) is on already; stop it first")]
    On(&'static str),
    /// A bitmap of another RAM.
    #[error("a bitmap of {given} pages for RAM of {pages}; make one of {pages}")]
    Pages {
        /// Pages of RAM.
        pages: u64,
        /// Pages of the bitmap.
        given: u64,
    },
    /// A vCPU that did not drop its write permission in time.
    #[error(
        "vCPU {vcpu} did not acknowledge within {milliseconds} ms; \
         collect again, or stop it first"
    )]
    Vcpu {
        /// Its number.
        vcpu: u32,
        /// How long was waited.
        milliseconds: u128,
    },
    /// This host cannot do it.
    #[error("this kernel has no {what}: {error}; {way_out}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
        /// What to do instead.
        way_out: &'static str,
    },
    /// The kernel refused something.
    #[error("cannot {what} for dirty tracking: {error}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Writers of one kind, and which pages they wrote. See the module for the order it keeps.
pub trait DirtySource: Send + Sync {
    /// Begins to note writes: every store made after it has returned sets its page's bit.
    ///
    /// # Errors
    /// When the host cannot do it, or it was started already. It is off then as before.
    fn start(&self) -> Result<(), DirtyError>;

    /// Moves the bits of the pages written since the last call, or since the start, into a bitmap;
    /// how many were clear there. Bits that are set in it stay set.
    ///
    /// # Errors
    /// When it is off, or a writer does not answer in time. No bit is lost: each is in `into` or
    /// comes with a later call. But until one succeeds, a page's bit may be in `into` already while
    /// a store to it is under way, so read no page before that.
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError>;

    /// Ends it; bits not collected are lost. Does nothing while it is off.
    fn stop(&self);
}

/// Whether a bitmap is one of this RAM.
pub(crate) fn check_pages(pages: u64, into: &PageBitmap) -> Result<(), DirtyError> {
    let given = into.pages();
    if given == pages { Ok(()) } else { Err(DirtyError::Pages { pages, given }) }
}
