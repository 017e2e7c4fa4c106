//! A VM's RAM: its blocks mapped into this process.

use crate::dirty::{BlockMarks, Marks};
use crate::{GuestAddress, PageIndex, PageRange, PageSize, RamBlock, RamLayout};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use vm_memory::{Bytes, GuestRegionMmap};

mod backend;
mod mapping;
mod pages;
mod pool;
pub use backend::{Backend, MemoryKind};
pub use mapping::FrozenRam;
use mapping::Mapping;
pub use pool::{HugePages, huge_page_pool, huge_pages};

#[cfg(test)]
mod tests;

/// Guest memory as the virtio crates want it. Writes through it are noted by
/// [`GuestRam::host_writes`]; those through a pointer taken from it are not.
pub type GuestMemory = vm_memory::GuestMemoryMmap<BlockMarks>;

/// RAM that cannot be had, or not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host's pages are larger than those that RAM is counted in.
    #[error("pages of {bytes} bytes are smaller than this host's of {host} bytes; use {host}")]
    PageSize {
        /// The size asked for.
        bytes: u64,
        /// The host's.
        host: u64,
    },
    /// A block that is no whole number of the host's pages.
    #[error(
        "RAM block {name:?} of {bytes} bytes is no whole number of pages of {page_bytes} bytes; use {suggestion}"
    )]
    HostPage {
        /// Name of the block.
        name: String,
        /// Its size.
        bytes: u64,
        /// Size of the pages that it is made of.
        page_bytes: u64,
        /// The next size that would do.
        suggestion: u64,
    },
    /// Not enough huge pages.
    #[error(
        "RAM block {name:?} needs {needed} huge pages of {page_kib} KiB, of which this host has {free} free \
         (of {total}); set {more} aside with: echo {all} > {pool}/nr_hugepages",
        more = needed.saturating_sub(*free), all = total + needed.saturating_sub(*free)
    )]
    HugePages {
        /// Name of the block.
        name: String,
        /// Pages that it needs.
        needed: u64,
        /// Pages that there are and nobody has.
        free: u64,
        /// Pages that there are.
        total: u64,
        /// Their size, KiB.
        page_kib: u64,
        /// Where the host's administrator sets them aside.
        pool: String,
    },
    /// The kernel gave no memory of this size.
    #[error("cannot map RAM block {name:?} of {bytes} bytes: {reason}")]
    Map {
        /// Name of the block.
        name: String,
        /// Its size.
        bytes: u64,
        /// What the kernel said.
        reason: String,
    },
    /// An access outside RAM.
    #[error("no RAM at {address:#x} for {bytes} bytes")]
    NoRam {
        /// Where it began.
        address: u64,
        /// How long it was to be.
        bytes: usize,
    },
    /// Pages that do not exist.
    #[error("RAM has {total} pages, not {count} from {start}")]
    NoPages {
        /// The first one asked for.
        start: PageIndex,
        /// How many.
        count: u64,
        /// How many there are.
        total: u64,
    },
    /// Pages that do not exist, or not as a run of one block.
    #[error("no RAM block has {count} pages from {start} on")]
    NoRun {
        /// The first one asked for.
        start: PageIndex,
        /// How many.
        count: u64,
    },
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
    /// A system call on RAM failed.
    #[error("cannot {what} RAM: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

struct Inner {
    layout: RamLayout,
    kind: MemoryKind,
    host_page: PageSize,
    memory: GuestMemory,
    /// One a block, in the order of the layout.
    mappings: Vec<Mapping>,
    marks: Arc<Marks>,
}

/// A VM's RAM. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct GuestRam {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRam").field("layout", self.layout()).finish_non_exhaustive()
    }
}

impl GuestRam {
    /// Maps RAM, which reads as zero and holds no host memory until it is written.
    ///
    /// # Errors
    /// When the kernel refuses a mapping of the size.
    pub fn new(layout: RamLayout, backend: &Backend) -> Result<Self, RamError> {
        let (bytes, host) = (layout.page_size().bytes(), rustix::param::page_size() as u64);
        if bytes < host {
            return Err(RamError::PageSize { bytes, host });
        }
        let marks = Marks::new(layout.total_pages(), layout.page_size().shift());
        let mut mappings = Vec::with_capacity(layout.blocks().len());
        let mut regions = Vec::with_capacity(layout.blocks().len());
        let (mut kind, mut host_page) = (MemoryKind::Anonymous, layout.page_size());
        for block in layout.blocks() {
            let failed = |reason: String| RamError::Map {
                name: block.name.clone(),
                bytes: block.bytes(),
                reason,
            };
            let block_marks = BlockMarks::new(marks.clone(), block.first_page);
            (kind, host_page) = backend.kind().map_err(|error| failed(error.to_string()))?;
            check_host_page(block, host_page)?;
            let opened = backend.open(block.bytes()).map_err(|error| failed(error.to_string()))?;
            let mapping = Mapping::new(block, opened, block_marks).map_err(|error| {
                no_huge_pages(block, kind, host_page).unwrap_or_else(|| failed(error.to_string()))
            })?;
            let region = GuestRegionMmap::with_arc(mapping.region(), block.guest_address)
                .ok_or_else(|| failed("it ends behind the address space".into()))?;
            mappings.push(mapping);
            regions.push(region);
        }
        let memory = GuestMemory::from_regions(regions).map_err(|error| RamError::Map {
            name: "all".into(),
            bytes: layout.total_bytes(),
            reason: error.to_string(),
        })?;
        Ok(Self { inner: Arc::new(Inner { layout, kind, host_page, memory, mappings, marks }) })
    }

    /// What the kernel has made it of.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        self.inner.kind
    }

    /// Size of the pages that the host has it in: what the kernel maps, watches and gives back at once. At
    /// least a page of the layout.
    #[must_use]
    pub fn host_page(&self) -> PageSize {
        self.inner.host_page
    }

    /// The pages of the layout that lie in one host page with this one.
    #[must_use]
    pub fn granule_of(&self, page: PageIndex) -> PageRange {
        let shift = self.host_page().shift() - self.layout().page_size().shift();
        PageRange::new(PageIndex(page.0 >> shift << shift), 1 << shift)
    }

    pub(crate) fn marks(&self) -> &Arc<Marks> {
        &self.inner.marks
    }

    /// Which page is where.
    #[must_use]
    pub fn layout(&self) -> &RamLayout {
        &self.inner.layout
    }

    /// RAM as the virtio crates want it.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.inner.memory
    }

    /// Where a page lies in this process; pages of one block follow each other. Valid as long as
    /// RAM lives. The guest may change what is there at any time: no references to it. Who writes
    /// there says so with [`Self::mark_written`], or is a source of dirty tracking itself.
    #[must_use]
    pub fn host_address(&self, page: PageIndex) -> Option<NonNull<u8>> {
        let index = self.layout().index_of(page)?;
        let (block, mapping) =
            (self.layout().blocks().get(index)?, self.inner.mappings.get(index)?);
        mapping.address((page.0 - block.first_page.0) << self.layout().page_size().shift())
    }

    /// Whether its memory lies in a file of its own.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.inner.mappings.iter().all(Mapping::has_file)
    }

    /// Puts pages of one block into the memory's file without mapping them: for pages that arrive.
    ///
    /// # Errors
    /// When there are no such pages, there is no file, or the system is out of memory.
    pub fn put_in_file(&self, range: PageRange, bytes: &[u8]) -> Result<(), RamError> {
        let (mapping, offset) = self.run(range)?;
        mapping
            .put_in_file(offset, bytes)
            .map_err(|source| RamError::System { what: "fill the file of", source })
    }

    /// Has pages of one block in the memory's file, with what they hold there, as zeroes if nothing was:
    /// for pages of which nothing arrived but zeroes.
    ///
    /// # Errors
    /// As [`Self::put_in_file`].
    pub fn touch_in_file(&self, range: PageRange) -> Result<(), RamError> {
        let (mapping, offset) = self.run(range)?;
        mapping
            .touch_in_file(offset)
            .map_err(|source| RamError::System { what: "fill the file of", source })
    }

    /// Takes pages of one block out of this process's map. What they hold stays in the memory's file, and
    /// the next touch maps them again.
    ///
    /// # Errors
    /// When there are no such pages, there is no file, or the kernel refuses.
    pub fn unmap(&self, range: PageRange) -> Result<(), RamError> {
        let (mapping, offset) = self.run(range)?;
        let bytes = range.count << self.layout().page_size().shift();
        mapping
            .unmap(offset, bytes)
            .map_err(|source| RamError::System { what: "unmap a part of", source })
    }

    /// The mapping of pages of one block, and where they begin in it.
    fn run(&self, range: PageRange) -> Result<(&Mapping, u64), RamError> {
        let part = self.layout().index_of(range.start).and_then(|index| {
            Some((self.layout().blocks().get(index)?, self.inner.mappings.get(index)?))
        });
        let (block, mapping) = part
            .filter(|_| self.layout().holds(range))
            .ok_or(RamError::NoRun { start: range.start, count: range.count })?;
        let offset = (range.start.0 - block.first_page.0) << self.layout().page_size().shift();
        Ok((mapping, offset))
    }

    /// Reads RAM as it is at this moment.
    ///
    /// # Errors
    /// When not all of it is RAM.
    pub fn read_at(&self, address: GuestAddress, into: &mut [u8]) -> Result<(), RamError> {
        let bytes = into.len();
        self.memory()
            .read_slice(into, address)
            .map_err(|_| RamError::NoRam { address: address.0, bytes })
    }

    /// Writes RAM.
    ///
    /// # Errors
    /// When not all of it is RAM; a part may then be written.
    pub fn write_at(&self, address: GuestAddress, from: &[u8]) -> Result<(), RamError> {
        self.memory()
            .write_slice(from, address)
            .map_err(|_| RamError::NoRam { address: address.0, bytes: from.len() })
    }

    /// Tells the kernel that transparent huge pages are welcome, where memory can be of such.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn prefer_huge_pages(&self) -> Result<(), RamError> {
        if self.kind() != MemoryKind::Anonymous {
            return Ok(());
        }
        self.each("advise huge pages for", Mapping::huge_pages)
    }

    /// Touches all RAM as if it were written, so that it holds host memory.
    ///
    /// # Errors
    /// When the host has not that much.
    pub fn populate(&self) -> Result<(), RamError> {
        self.each("populate", Mapping::populate)
    }

    /// Has the kernel make one huge page of the small ones under a run of pages; whether it did. The guest
    /// may run. Not while missing pages are watched.
    ///
    /// # Errors
    /// When there are no such pages in one block.
    pub fn collapse(&self, range: PageRange) -> Result<bool, RamError> {
        let (mapping, offset) = self.run(range)?;
        Ok(mapping.collapse(offset, range.count << self.layout().page_size().shift()))
    }

    /// Gives all content back to the host: RAM reads as zero again. With a userfaultfd
    /// registered, all pages are missing again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear(&self) -> Result<(), RamError> {
        let cleared = self.each("clear", Mapping::clear);
        // A part may have been cleared when it fails.
        self.mark_written(PageRange::new(PageIndex(0), self.layout().total_pages()));
        cleared
    }

    /// The pages of a range that may hold something other than zeroes, in order, without touching
    /// any. Pages that were only read may count as either.
    ///
    /// # Errors
    /// When there are no such pages, or the kernel does not tell.
    pub fn populated(&self, range: PageRange) -> Result<Vec<PageRange>, RamError> {
        let layout = self.layout();
        let total = layout.total_pages();
        let Some(end) = range.checked_end().filter(|&end| end <= total) else {
            let PageRange { start, count } = range;
            return Err(RamError::NoPages { start, count, total });
        };
        let shift = layout.page_size().shift();
        let mut runs = Runs::default();
        for (block, mapping) in layout.blocks().iter().zip(&self.inner.mappings) {
            let first = block.first_page.0;
            let from = range.start.0.max(first) - first;
            let to = end.min(first + block.pages).saturating_sub(first);
            if from >= to {
                continue;
            }
            mapping
                .populated(from << shift, to << shift, &mut |start, end| {
                    runs.add(first + (start >> shift), first + ((end - 1) >> shift) + 1);
                })
                .map_err(|source| RamError::System { what: "find what is used of", source })?;
        }
        Ok(runs.done)
    }

    fn each(
        &self,
        what: &'static str,
        act: impl Fn(&Mapping) -> io::Result<()>,
    ) -> Result<(), RamError> {
        self.inner
            .mappings
            .iter()
            .try_for_each(act)
            .map_err(|source| RamError::System { what, source })
    }
}

/// Host pages cannot be shared between blocks, or end in the middle.
fn check_host_page(block: &RamBlock, page: PageSize) -> Result<(), RamError> {
    let (bytes, page_bytes) = (block.bytes(), page.bytes());
    if bytes.is_multiple_of(page_bytes) {
        return Ok(());
    }
    let suggestion = bytes.checked_next_multiple_of(page_bytes).unwrap_or(page_bytes);
    Err(RamError::HostPage { name: block.name.clone(), bytes, page_bytes, suggestion })
}

/// What is to be said when huge pages are what was missing.
fn no_huge_pages(block: &RamBlock, kind: MemoryKind, page: PageSize) -> Option<RamError> {
    let needed = block.bytes() >> page.shift();
    let (free, total) = huge_pages(page).unwrap_or_default();
    (kind == MemoryKind::Huge && free < needed).then(|| RamError::HugePages {
        name: block.name.clone(),
        needed,
        free,
        total,
        page_kib: page.bytes() >> 10,
        pool: huge_page_pool(page).display().to_string(),
    })
}

/// Joins runs of pages that touch or overlap; they come in order.
#[derive(Default)]
struct Runs {
    done: Vec<PageRange>,
}

impl Runs {
    fn add(&mut self, start: u64, end: u64) {
        if let Some(last) = self.done.last_mut() {
            let last_end = last.start.0 + last.count;
            if start <= last_end {
                last.count = end.max(last_end) - last.start.0;
                return;
            }
        }
        self.done.push(PageRange::new(PageIndex(start), end - start));
    }
}
