//! The accelerator's part of dirty tracking: which pages the vCPUs store to.
//!
//! The kernel's log is a bitmap for each slot. Getting it takes the bits away, protects those pages
//! from stores and makes every vCPU drop what it has cached of them, before it returns (Linux
//! documentation, "KVM API", 4.8): the order that a [`DirtySource`] promises. What the process
//! itself stores is not in there.

use crate::host::KvmError;
use crate::slots::Slots;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umem_memory::{DirtyError, DirtySource, PageBitmap, PageIndex, PageRange};

const NAME: &str = "stores of KVM's vCPUs";

/// The stores of the vCPUs of one VM.
#[derive(Debug)]
pub struct KvmWrites {
    slots: Arc<Slots>,
    on: Mutex<bool>,
}

fn failed(what: &'static str, error: KvmError) -> DirtyError {
    DirtyError::System { what, error: io::Error::other(error) }
}

impl KvmWrites {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self { slots, on: Mutex::new(false) }
    }

    fn on(&self) -> MutexGuard<'_, bool> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        // A kernel that goes on logging costs time; no page is lost by it.
        let _ = self.slots.log_writes(false);
    }
}

impl DirtySource for KvmWrites {
    fn start(&self) -> Result<(), DirtyError> {
        let mut on = self.on();
        if *on {
            return Err(DirtyError::On(NAME));
        }
        self.slots.log_writes(true).map_err(|error| {
            self.end();
            failed("have KVM log stores", error)
        })?;
        *on = true;
        Ok(())
    }

    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        let on = self.on();
        if !*on {
            return Err(DirtyError::Off(NAME));
        }
        let (pages, given) = (self.slots.ram().layout().total_pages(), into.pages());
        if pages != given {
            return Err(DirtyError::Pages { pages, given });
        }
        let mut added = 0;
        // KVM counts in its own pages of 4 KiB, RAM perhaps in larger ones.
        let per_page = self.slots.ram().layout().page_size().bytes() / KVM_PAGE_BYTES;
        for (slot, block) in self.slots.blocks() {
            let bytes = usize::try_from(block.bytes()).map_err(|_| DirtyError::System {
                what: "count the bytes of a block",
                error: io::ErrorKind::InvalidInput.into(),
            })?;
            let log = self.slots.vm().get_dirty_log(slot, bytes).map_err(|error| {
                DirtyError::System { what: "get KVM's log", error: error.into() }
            })?;
            for (number, word) in (0u64..).zip(log) {
                let mut left = word;
                while left != 0 {
                    let bit = number * 64 + u64::from(left.trailing_zeros());
                    left &= left - 1;
                    let page = PageIndex(block.first_page.0 + bit / per_page);
                    added += into.set(PageRange::one(page));
                }
            }
        }
        Ok(added)
    }

    fn stop(&self) {
        if std::mem::take(&mut *self.on()) {
            self.end();
        }
    }
}

/// The page in which KVM logs on x86-64, whatever RAM is counted in.
const KVM_PAGE_BYTES: u64 = 1 << 12;

impl Drop for KvmWrites {
    fn drop(&mut self) {
        self.stop();
    }
}
