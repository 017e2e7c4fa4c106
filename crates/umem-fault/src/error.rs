//! What can go wrong.

use crate::uffd::OpenError;
use std::io;
use umem_memory::{MemoryKind, PageIndex, PageRange, RamError};

/// What goes wrong with a fault plane.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// There is no userfaultfd to be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// RAM could not be emptied.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Regions that do not make up a VM's memory.
    #[error("these regions are no VM's memory: {0}")]
    Regions(&'static str),
    /// Pages cannot be placed as asked for.
    #[error("pages cannot be placed through a file: {0}; leave -postcopy-flags out")]
    Placement(&'static str),
    /// Memory whose missing pages nobody can wait for.
    #[error(
        "memory in {0} cannot receive pages while its guest runs; use memory-backend-ram or -memfd, or a file on \
         tmpfs or hugetlbfs"
    )]
    Kind(MemoryKind),
    /// The kernel does not watch this memory.
    #[error("cannot watch {bytes} bytes of memory for missing pages: {error}")]
    Register {
        /// How much.
        bytes: u64,
        /// What the kernel said.
        error: io::Error,
    },
    /// Pages that do not exist, or not as one run.
    #[error("there is no run of {count} pages from {start}", count = .0.count, start = .0.start)]
    NoPages(PageRange),
    /// Bytes that are not those of the pages.
    #[error("{pages} pages have {expected} bytes, not {bytes}")]
    Length {
        /// How many pages.
        pages: u64,
        /// Their size.
        expected: u64,
        /// How many bytes there are.
        bytes: usize,
    },
    /// A page was there before it was put there: something touched memory behind the table, and
    /// what the guest sees is not what was sent.
    #[error("{page} was there before it was installed; guest memory is corrupt")]
    Corrupt {
        /// The page.
        page: PageIndex,
    },
    /// The kernel did not install a page.
    #[error("cannot install {page}: {error}")]
    Install {
        /// The page.
        page: PageIndex,
        /// What the kernel said.
        error: io::Error,
    },
    /// A page cannot be taken away while it is put in place.
    #[error("{page} is being installed and cannot be taken away")]
    Busy {
        /// The page.
        page: PageIndex,
    },
    /// Pages of another process.
    #[error("memory of another process cannot be taken away from it")]
    Foreign,
    /// A bitmap of another RAM.
    #[error("a bitmap of {given} pages for RAM of {pages}; make one of {pages}")]
    Bitmap {
        /// Pages of RAM.
        pages: u64,
        /// Pages of the bitmap.
        given: u64,
    },
    /// Pages have not arrived yet.
    #[error("{0} pages have not arrived")]
    Missing(u64),
    /// The plane was closed or released.
    #[error("the fault plane is closed")]
    Closed,
}
