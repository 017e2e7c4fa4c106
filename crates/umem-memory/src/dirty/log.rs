//! Several sources as one.

use super::{DirtyError, DirtySource, check_pages};
use crate::PageBitmap;
use std::sync::Arc;

/// All sources of one RAM. It is a source itself, with the same promise.
pub struct DirtyLog {
    pages: u64,
    sources: Vec<Arc<dyn DirtySource>>,
}

impl std::fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pages, sources } = self;
        write!(f, "DirtyLog {{ pages: {pages}, sources: {} }}", sources.len())
    }
}

impl DirtyLog {
    /// The sources of a RAM of so many pages. With a writer that none of them knows, its writes are
    /// lost: the caller knows who writes.
    #[must_use]
    pub fn new(pages: u64, sources: Vec<Arc<dyn DirtySource>>) -> Self {
        Self { pages, sources }
    }

    /// Number of pages, which bitmaps for [`DirtySource::collect`] must have.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

impl DirtySource for DirtyLog {
    /// Starts all, or none.
    fn start(&self) -> Result<(), DirtyError> {
        for (index, source) in self.sources.iter().enumerate() {
            if let Err(error) = source.start() {
                self.sources.iter().take(index).for_each(|started| started.stop());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Collects from one after the other: a page is read after the last has answered, and a store
    /// that came between two answers has set a bit again in its source.
    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        check_pages(self.pages, into)?;
        self.sources.iter().try_fold(0, |sum, source| Ok(sum + source.collect(into)?))
    }

    fn stop(&self) {
        self.sources.iter().for_each(|source| source.stop());
    }
}
