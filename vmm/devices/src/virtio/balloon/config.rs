//! The balloon's size: what the monitor asks for and what the driver says.

use crate::virtio::device::{ConfigSpace, TransportHandle, read_from};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Offset of the field that the driver writes.
const ACTUAL: u64 = 4;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) target_pages: u32,
    pub(super) actual_pages: u32,
}

/// A balloon's size in pages of 4 KiB. Its methods are for any thread and do not wait.
#[derive(Default)]
pub struct Balloon {
    size: Mutex<Size>,
    transport: Mutex<Option<TransportHandle>>,
    changed: Mutex<Option<Changed>>,
}

/// Hears of the pages that the driver says are in the balloon.
type Changed = Box<dyn Fn(u32) + Send>;

impl std::fmt::Debug for Balloon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Balloon").field(&self.size()).finish()
    }
}

impl Balloon {
    fn lock(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> Size {
        *self.lock()
    }

    pub(super) fn replace(&self, size: Size) {
        *self.lock() = size;
    }

    pub(super) fn connect(&self, transport: TransportHandle) {
        *self.transport.lock().unwrap_or_else(PoisonError::into_inner) = Some(transport);
    }

    /// Asks the driver to have so many pages in the balloon. It does when and as far as it can.
    pub fn set_target(&self, pages: u32) {
        self.lock().target_pages = pages;
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(transport) = transport {
            transport.config_changed();
        }
    }

    /// Says who hears of the driver's word, on the vCPU's thread that writes it: it must not wait.
    pub fn on_change(&self, changed: impl Fn(u32) + Send + 'static) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(changed));
    }

    /// Pages that the driver is asked to have in the balloon.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.size().target_pages
    }

    /// Pages that the driver says are in the balloon. It is the guest's word.
    #[must_use]
    pub fn actual(&self) -> u32 {
        self.size().actual_pages
    }
}

impl ConfigSpace for Balloon {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        let Size { target_pages, actual_pages } = self.size();
        let space = [target_pages.to_le_bytes(), actual_pages.to_le_bytes()].concat();
        read_from(&space, offset, bytes);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, <[u8; 4]>::try_from(bytes)) {
            let pages = u32::from_le_bytes(bytes);
            self.lock().actual_pages = pages;
            if let Some(changed) = &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
                changed(pages);
            }
        }
    }
}
