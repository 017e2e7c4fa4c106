//! What can go wrong with a snapshot file.

use std::fmt;
use std::io;
use std::path::PathBuf;
use umem_memory::PageIndex;

/// A part of the file that is verified when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The first 4096 bytes.
    Header,
    /// The machine that the guest needs.
    Description,
    /// What each page holds.
    Index,
    /// The devices and vCPUs.
    State,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Description => "description of the machine",
            Self::Index => "index of pages",
            Self::State => "device state",
        })
    }
}

/// A snapshot that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refuses.
    #[error("{}: cannot {what}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses bytes at some place.
    #[error("{}: cannot {what} {bytes} bytes at offset {offset:#x}: {source}", path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// Read or write.
        what: &'static str,
        /// How many bytes.
        bytes: u64,
        /// Where in the file.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A path that no snapshot can be written to.
    #[error("{}: no snapshot can be written there: {why}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another writer is at the same file.
    #[error(
        "{}: another snapshot is being written there (it holds {partial:?}); wait for it, or use \
         another name", path.display()
    )]
    Busy {
        /// The file to be.
        path: PathBuf,
        /// The file that is locked.
        partial: PathBuf,
    },
    /// Pages that the writer was never told about.
    #[error("{}: {page} of {pages} was never written; the snapshot is given up", path.display())]
    Unwritten {
        /// The file to be.
        path: PathBuf,
        /// The first such page.
        page: PageIndex,
        /// Pages that there are.
        pages: u64,
    },
    /// Something larger than a snapshot may hold.
    #[error(
        "{}: the {part} has {bytes} bytes; a snapshot holds at most {limit}", path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large.
        part: Part,
        /// Its size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A file of another kind.
    #[error(
        "{}: this is no whole snapshot (its first bytes are {first:02x?}); \
         give a file that `migrate file:PATH` has completed", path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// What it begins with.
        first: [u8; 8],
    },
    /// A format that this program does not know.
    #[error(
        "{}: the snapshot has format version {version}, this program reads version {known}; \
         use the program that wrote it", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version known here.
        known: u32,
    },
    /// A part that is not as it was written.
    #[error(
        "{}: the {part} ({bytes} bytes at offset {offset:#x}) was altered: checksum {got:032x} \
         instead of {expected:032x}; use another copy of the file", path.display()
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// The part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// Checksum of what is there.
        got: u128,
        /// Checksum of what was written.
        expected: u128,
    },
    /// A file that is too short or too long.
    #[error(
        "{}: the file has {bytes} bytes, the snapshot {expected}; it was cut or appended to, use \
         another copy", path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that it must have.
        expected: u64,
    },
    /// A guest that does not fit.
    #[error(
        "{}: the snapshot's guest has {bytes} bytes of memory, at most {limit} fit here; \
         use -m {}", path.display(), mebibytes(*bytes)
    )]
    Ram {
        /// The file.
        path: PathBuf,
        /// The guest's memory, in bytes.
        bytes: u64,
        /// What fits, in bytes.
        limit: u64,
    },
    /// A field that contradicts another, or has no meaning.
    #[error(
        "{}: in the {part}, {what}: {value}; it was written by a faulty program", path.display()
    )]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// Where the field is.
        part: Part,
        /// What is wrong.
        what: &'static str,
        /// What it says.
        value: String,
    },
    /// A page that is not as it was written.
    #[error(
        "{}: {page} (offset {offset:#x}) was altered: checksum {got:016x} instead of \
         {expected:016x}; put its bytes back from another copy of the file", path.display()
    )]
    Page {
        /// The file.
        path: PathBuf,
        /// The page.
        page: PageIndex,
        /// Where it lies in the file.
        offset: u64,
        /// Checksum of what is there.
        got: u64,
        /// Checksum of what was written.
        expected: u64,
    },
    /// Pages that do not exist, or not as one run of content, or room of another size.
    #[error("{}: no {count} pages of content from {start} for {bytes} bytes", path.display())]
    NoPages {
        /// The file.
        path: PathBuf,
        /// The first page.
        start: PageIndex,
        /// How many.
        count: u64,
        /// Room for them, or what they are to hold.
        bytes: usize,
    },
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
