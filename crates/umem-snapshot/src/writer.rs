//! Writing a snapshot: pages in any order and as often as need be, the rest at the end.

use crate::error::{Part, SnapshotError};
use crate::header::{self, Geometry, Header, MAX_DESCRIPTION_BYTES, Section};
use crate::index::IndexBuilder;
use crate::partial::Partial;
use rustix::fs::FallocateFlags;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use umem_memory::{PageIndex, PageRange, PageSize, repeated_byte};
use umem_wire::{MAX_STATE_BYTES, MachineDescription, PageKind, page_hash};

/// A snapshot that is being written, under a temporary name. Dropped before [`Self::finish`], nothing
/// of it stays, and what lay under its path before is untouched.
#[derive(Debug)]
pub struct SnapshotWriter {
    partial: Partial,
    geometry: Geometry,
    description: Vec<u8>,
    index: IndexBuilder,
}

/// A snapshot that is whole and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Length of the file, holes among it.
    pub bytes: u64,
    /// Pages whose content is in the file; all others repeat one byte.
    pub stored: u64,
}

impl SnapshotWriter {
    /// Begins a snapshot of a machine with so many pages.
    ///
    /// # Errors
    /// When the machine has other memory than these pages, the path is no place for a file, another writer is at it, or the system refuses.
    pub fn create(
        path: &Path,
        machine: &MachineDescription,
        page: PageSize,
        pages: u64,
    ) -> Result<Self, SnapshotError> {
        let no_pages = |bytes| SnapshotError::NoPages {
            path: path.into(),
            start: PageIndex(0),
            count: pages,
            bytes,
        };
        let geometry =
            Geometry::new(page, pages).filter(|_| pages > 0).ok_or_else(|| no_pages(page.len()))?;
        let description = machine.encode();
        bounded(path, Part::Description, &description, MAX_DESCRIPTION_BYTES)?;
        // What cannot be opened again must not be written.
        header::machine(path, geometry, &description)?;
        let partial = Partial::create(path)?;
        Ok(Self { partial, geometry, description, index: IndexBuilder::new(pages) })
    }

    fn checked(&self, range: PageRange, bytes: usize) -> Result<(), SnapshotError> {
        let exist = range.checked_end().is_some_and(|end| end <= self.geometry.pages);
        if exist && range.count > 0 {
            return Ok(());
        }
        let (path, PageRange { start, count }) = (self.partial.path().into(), range);
        Err(SnapshotError::NoPages { path, start, count, bytes })
    }

    /// Writes adjoining pages, again if they were written before. Pages that repeat one byte take no
    /// room. The bytes must not change meanwhile: of a running guest give a copy. Gives the number of
    /// pages that were stored.
    ///
    /// # Errors
    /// When there are no such pages, or the system refuses (the disk is full, say).
    pub fn write(&mut self, start: PageIndex, bytes: &[u8]) -> Result<u64, SnapshotError> {
        let page_len = self.geometry.page.len();
        let range = PageRange::new(start, (bytes.len() / page_len) as u64);
        self.checked(range, bytes.len())?;
        if !bytes.len().is_multiple_of(page_len) {
            let (path, count) = (self.partial.path().into(), range.count);
            return Err(SnapshotError::NoPages { path, start, count, bytes: bytes.len() });
        }
        let kind = |(page, bytes): (PageIndex, &[u8])| match repeated_byte(bytes) {
            Some(byte) => PageKind::Fill(byte),
            None => PageKind::Content(page_hash(page.0, bytes)),
        };
        let kinds: Vec<_> = range.pages().zip(bytes.chunks_exact(page_len)).map(kind).collect();
        let (mut at, mut rest, mut stored) = (start, bytes, 0);
        for run in kinds.chunk_by(|a, b| is_content(*a) == is_content(*b)) {
            let (these, behind) = rest.split_at_checked(run.len() * page_len).unwrap_or_default();
            if run.first().is_some_and(|kind| is_content(*kind)) {
                // Noted only once it is there.
                self.put(these, self.geometry.offset(at))?;
                stored += run.len() as u64;
            }
            for (page, kind) in (at.0..).zip(run) {
                self.note(PageIndex(page), *kind);
            }
            rest = behind;
            at = PageIndex(at.0 + run.len() as u64);
        }
        Ok(stored)
    }

    /// Notes pages that hold nothing but one byte, without their content.
    ///
    /// # Errors
    /// When there are no such pages.
    pub fn fill(&mut self, range: PageRange, byte: u8) -> Result<(), SnapshotError> {
        self.checked(range, 0)?;
        range.pages().for_each(|page| self.note(page, PageKind::Fill(byte)));
        Ok(())
    }

    /// Notes what a page holds, and gives the room back that it does not need any more.
    fn note(&mut self, page: PageIndex, kind: PageKind) {
        let had_content = self.index.set(page, kind);
        if had_content && !is_content(kind) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let (offset, bytes) = (self.geometry.offset(page), self.geometry.page.bytes());
            // Where holes cannot be made, bytes stay that nobody reads.
            let _ = rustix::fs::fallocate(self.partial.file(), flags, offset, bytes);
        }
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), SnapshotError> {
        self.partial.file().write_all_at(bytes, offset).map_err(|source| SnapshotError::Access {
            path: self.partial.path().into(),
            what: "write",
            bytes: bytes.len() as u64,
            offset,
            source,
        })
    }

    fn failed(&self, what: &'static str, source: io::Error) -> SnapshotError {
        SnapshotError::System { path: self.partial.path().into(), what, source }
    }

    /// Pages noted so far that repeat one byte.
    #[must_use]
    pub fn fills(&self) -> u64 {
        self.index.fills()
    }

    /// Brings to disk what was written so far, so that less is left for [`Self::finish`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        let synced = self.partial.file().sync_data();
        synced.map_err(|source| self.failed("bring pages to disk", source))
    }

    /// Writes the rest, brings all to disk and gives the file its name. Whatever lay there before is
    /// replaced at that moment.
    ///
    /// # Errors
    /// When a page was never written, the state is too long, or the system refuses. Nothing is left
    /// then, unless only the name could not be brought to disk: the file is whole in that case.
    pub fn finish(self, state: &[u8]) -> Result<Finished, SnapshotError> {
        let path = self.partial.path();
        if let Some(page) = self.index.unwritten() {
            let (path, pages) = (path.into(), self.geometry.pages);
            return Err(SnapshotError::Unwritten { path, page, pages });
        }
        bounded(path, Part::State, state, MAX_STATE_BYTES)?;
        let (index, stored) = (self.index.encode(), self.index.stored());
        let header = Header {
            geometry: self.geometry,
            description: Section::of(&self.description),
            index: Section::of(&index),
            state: Section::of(state),
        };
        for ((_, offset, _), content) in
            header.sections().into_iter().zip([&*self.description, &*index, state])
        {
            self.put(content, offset)?;
        }
        let file = self.partial.file();
        file.sync_all().map_err(|source| self.failed("bring it to disk", source))?;
        // The header last: without it the file is no snapshot.
        self.put(&header.encode(), 0)?;
        file.sync_all().map_err(|source| self.failed("bring its header to disk", source))?;
        self.partial.publish()?;
        Ok(Finished { bytes: header.file_bytes(), stored })
    }
}

fn is_content(kind: PageKind) -> bool {
    matches!(kind, PageKind::Content(_))
}

fn bounded(path: &Path, part: Part, content: &[u8], limit: u64) -> Result<(), SnapshotError> {
    let bytes = content.len() as u64;
    if bytes > limit {
        return Err(SnapshotError::TooLarge { path: path.into(), part, bytes, limit });
    }
    Ok(())
}
