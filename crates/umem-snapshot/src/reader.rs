//! Reading a snapshot: all but the pages at once, each page when it is wanted.

use crate::error::{Part, SnapshotError};
use crate::header::{self, Geometry, HEADER_BYTES, Header, Section};
use crate::index::Index;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_128;
use umem_memory::{PageIndex, PageRange, PageSize};
use umem_wire::{MachineDescription, PageKind, page_hash};

/// How large a snapshot may be for who opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The guest's memory, in bytes.
    pub ram_bytes: u64,
}

/// A snapshot whose header, description, index and state have been verified. Its pages are verified
/// as they are read. May be used by many threads at once.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    path: PathBuf,
    geometry: Geometry,
    machine: MachineDescription,
    index: Index,
    state: Vec<u8>,
    file_bytes: u64,
}

impl Snapshot {
    /// Opens a file and verifies all of it but its pages.
    ///
    /// # Errors
    /// When it is no snapshot, altered, cut, appended to, contradicts itself, or larger than allowed;
    /// or the system refuses.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, SnapshotError> {
        let failed = |what| move |source| SnapshotError::System { path: path.into(), what, source };
        // A FIFO without a writer must not keep us.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file =
            File::options().read(true).custom_flags(flags).open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        if !metadata.is_file() {
            return Err(failed("use")(io::Error::other("it is no regular file")));
        }
        let opening = Opening { file: &file, path, bytes: metadata.len() };
        let header = opening.header(limits)?;
        let [description, index, state] = header.sections();
        let machine = header::machine(path, header.geometry, &opening.section(description)?)?;
        let index = Index::decode(header.geometry.pages, opening.section(index)?).map_err(
            |(what, value)| SnapshotError::Nonsense {
                path: path.into(),
                part: Part::Index,
                what,
                value: value.to_string(),
            },
        )?;
        let state = opening.section(state)?;
        let (path, geometry, file_bytes) = (path.into(), header.geometry, header.file_bytes());
        Ok(Self { file, path, geometry, machine, index, state, file_bytes })
    }

    /// The machine that the guest needs.
    #[must_use]
    pub fn machine(&self) -> &MachineDescription {
        &self.machine
    }

    /// The state of vCPUs and devices.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The size of a page.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.geometry.page
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.geometry.pages
    }

    /// Pages whose content is in the file; all others repeat one byte.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.index.stored()
    }

    /// Length of the file in bytes, holes among it.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What a page holds, from the verified index; never unreadable. `None` behind the last.
    #[must_use]
    pub fn kind(&self, page: PageIndex) -> Option<PageKind> {
        self.index.kind(page)
    }

    /// Where a page's place in the file begins; `None` behind the last.
    #[must_use]
    pub fn offset(&self, page: PageIndex) -> Option<u64> {
        (page.0 < self.geometry.pages).then(|| self.geometry.offset(page))
    }

    /// Reads adjoining pages with content, as many as `into` has room for, and verifies each.
    ///
    /// # Errors
    /// At the first page that was altered; when the system cannot read them; when one of them has no
    /// content or does not exist. `into` holds nothing to be used then.
    pub fn read(&self, start: PageIndex, into: &mut [u8]) -> Result<(), SnapshotError> {
        let page_len = self.geometry.page.len();
        let (bytes, count) = (into.len(), (into.len() / page_len) as u64);
        let no_pages = || SnapshotError::NoPages { path: self.path.clone(), start, count, bytes };
        let offset = self.offset(start).filter(|_| count > 0 && bytes.is_multiple_of(page_len));
        let offset = offset.ok_or_else(no_pages)?;
        let range = PageRange::new(start, count);
        let hash = |page| match self.kind(page) {
            Some(PageKind::Content(hash)) => Ok((page, hash)),
            _ => Err(no_pages()),
        };
        let expected = range.pages().map(hash).collect::<Result<Vec<_>, _>>()?;
        self.file.read_exact_at(into, offset).map_err(|source| SnapshotError::Access {
            path: self.path.clone(),
            what: "read",
            bytes: bytes as u64,
            offset,
            source,
        })?;
        for ((page, expected), content) in expected.into_iter().zip(into.chunks_exact(page_len)) {
            let got = page_hash(page.0, content);
            if got != expected {
                let (path, offset) = (self.path.clone(), self.geometry.offset(page));
                return Err(SnapshotError::Page { path, page, offset, got, expected });
            }
        }
        Ok(())
    }
}

/// A file of which nothing is known but its length.
struct Opening<'a> {
    file: &'a File,
    path: &'a Path,
    bytes: u64,
}

impl Opening<'_> {
    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.read_exact_at(into, offset).map_err(|source| SnapshotError::Access {
            path: self.path.into(),
            what: "read",
            bytes: into.len() as u64,
            offset,
            source,
        })
    }

    /// The header; everything that it says of lengths holds for this file.
    fn header(&self, limits: Limits) -> Result<Header, SnapshotError> {
        let mut bytes = [0; HEADER_BYTES];
        if self.bytes < HEADER_BYTES as u64 {
            let (path, expected) = (self.path.into(), HEADER_BYTES as u64);
            return Err(SnapshotError::Length { path, bytes: self.bytes, expected });
        }
        self.read(&mut bytes, 0)?;
        let header = Header::decode(self.path, &bytes)?;
        let (ram, limit) = (header.geometry.ram_bytes(), limits.ram_bytes);
        if ram > limit {
            return Err(SnapshotError::Ram { path: self.path.into(), bytes: ram, limit });
        }
        let expected = header.file_bytes();
        if self.bytes != expected {
            let path = self.path.into();
            return Err(SnapshotError::Length { path, bytes: self.bytes, expected });
        }
        Ok(header)
    }

    /// A part whose length the header has bounded, verified.
    fn section(
        &self,
        (part, offset, section): (Part, u64, Section),
    ) -> Result<Vec<u8>, SnapshotError> {
        let Section { bytes, hash: expected } = section;
        let mut content = Vec::new();
        content.try_reserve_exact(bytes as usize).map_err(|error| SnapshotError::System {
            path: self.path.into(),
            what: "have memory for its index or state",
            source: error.into(),
        })?;
        content.resize(bytes as usize, 0);
        self.read(&mut content, offset)?;
        let got = XxHash3_128::oneshot(&content);
        if got != expected {
            let path = self.path.into();
            return Err(SnapshotError::Altered { path, part, offset, bytes, got, expected });
        }
        Ok(content)
    }
}
