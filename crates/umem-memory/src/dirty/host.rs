//! What this process itself writes to RAM: devices, loaders, whoever has a [`GuestRam`].
//!
//! Marks are set after the store, whether the page is marked already or not: to look first could
//! read an old mark, one that is being collected, before the store can be seen elsewhere.
//!
//! While nobody tracks, a write costs one relaxed load behind it and no barrier. So the start has to
//! have a barrier for both sides: it switches tracking on and then has the kernel run a barrier on
//! every thread of the process (`membarrier`). A store that found tracking off came before that
//! barrier, and can be seen by whoever reads pages after it.

use super::{DirtyError, DirtySource, check_pages};
use crate::{GuestRam, PageBitmap, PageIndex, PageRange};
use rustix::thread::{MembarrierCommand, membarrier};
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

const NAME: &str = "writes of the VMM";

/// The marks of one RAM.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    on: AtomicBool,
    /// Made at the first start.
    written: OnceLock<PageBitmap>,
    pages: u64,
    page_shift: u32,
    /// Held by whoever starts, collects or stops.
    control: Mutex<()>,
}

impl Marks {
    pub(crate) fn new(pages: u64, page_shift: u32) -> Arc<Self> {
        Arc::new(Self { pages, page_shift, ..Self::default() })
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether marks are wanted, to be asked after the store.
    #[inline]
    fn is_on(&self) -> bool {
        // The processor's part of this order is the start's barrier.
        compiler_fence(Ordering::SeqCst);
        self.on.load(Ordering::Relaxed)
    }

    /// Marks pages that have been written.
    #[inline]
    pub(crate) fn mark(&self, range: PageRange) {
        if self.is_on() {
            self.set(range);
        }
    }

    #[cold]
    fn set(&self, range: PageRange) {
        if let Some(written) = self.written.get() {
            written.set(range);
        }
    }
}

/// The marks of one block of RAM, in the form that vm-memory sets them.
#[derive(Debug, Default)]
pub struct BlockMarks {
    marks: Arc<Marks>,
    first_page: u64,
}

impl BlockMarks {
    pub(crate) fn new(marks: Arc<Marks>, first_page: PageIndex) -> Self {
        Self { marks, first_page: first_page.0 }
    }

    /// The pages of some bytes of the block.
    fn range(&self, offset: usize, bytes: usize) -> PageRange {
        let shift = self.marks.page_shift;
        let first = offset as u64 >> shift;
        let last = (offset as u64).saturating_add(bytes as u64).saturating_sub(1) >> shift;
        let count = if bytes == 0 { 0 } else { last - first + 1 };
        PageRange::new(PageIndex(self.first_page + first), count)
    }
}

impl<'a> WithBitmapSlice<'a> for BlockMarks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for BlockMarks {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.marks.is_on() {
            self.marks.set(self.range(offset, len));
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = self.range(offset, 1).start;
        self.marks.written.get().is_some_and(|written| written.test(page))
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for BlockMarks {
    /// Marks that are never on: memory that is no [`GuestRam`] has no dirty tracking.
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

/// The pages that this process writes through [`GuestRam`] and [`crate::GuestMemory`]. Who writes
/// through an address of its own says so with [`GuestRam::mark_written`].
#[derive(Debug, Clone)]
pub struct HostWrites {
    marks: Arc<Marks>,
}

impl HostWrites {
    pub(crate) fn new(marks: Arc<Marks>) -> Self {
        Self { marks }
    }
}

impl GuestRam {
    /// The source of dirty tracking for what this process writes to this RAM. All are one.
    #[must_use]
    pub fn host_writes(&self) -> HostWrites {
        HostWrites::new(self.marks().clone())
    }

    /// Marks pages that were written through an address of the caller's. To be called after the
    /// write, whether it was marked before or not. Costs a relaxed load while nobody tracks.
    #[inline]
    pub fn mark_written(&self, range: PageRange) {
        self.marks().mark(range);
    }
}

/// A barrier on every thread of this process.
fn barrier() -> Result<(), DirtyError> {
    use MembarrierCommand::{Global, PrivateExpedited, RegisterPrivateExpedited};
    let expedited =
        membarrier(RegisterPrivateExpedited).and_then(|()| membarrier(PrivateExpedited));
    expedited.or_else(|_| membarrier(Global)).map_err(|error| DirtyError::Unsupported {
        what: "membarrier",
        error: error.into(),
        way_out: "use one with CONFIG_MEMBARRIER, or move by postcopy",
    })
}

impl DirtySource for HostWrites {
    fn start(&self) -> Result<(), DirtyError> {
        let marks = &*self.marks;
        let _control = marks.control();
        if marks.on.load(Ordering::Relaxed) {
            return Err(DirtyError::On(NAME));
        }
        let all = PageRange::new(PageIndex(0), marks.pages);
        marks.written.get_or_init(|| PageBitmap::new(marks.pages)).clear(all);
        marks.on.store(true, Ordering::SeqCst);
        barrier().inspect_err(|_| marks.on.store(false, Ordering::SeqCst))
    }

    /// No writer keeps a permission here: each sets its mark after each write.
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        let marks = &*self.marks;
        let _control = marks.control();
        check_pages(marks.pages, into)?;
        match marks.written.get() {
            Some(written) if marks.on.load(Ordering::Relaxed) => Ok(written.move_into(into)),
            _ => Err(DirtyError::Off(NAME)),
        }
    }

    fn stop(&self) {
        let _control = self.marks.control();
        self.marks.on.store(false, Ordering::SeqCst);
    }
}
