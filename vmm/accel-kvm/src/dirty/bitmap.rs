//! A bitmap for each slot, which the kernel keeps (Linux documentation, "KVM API", KVM_GET_DIRTY_LOG,
//! KVM_CLEAR_DIRTY_LOG, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
//!
//! By hand: the bits are copied, and then those that were copied are taken away and their pages
//! protected, a part of a slot at a time, so that vCPUs are not kept out for long. A store between the two
//! sets no new bit, and needs none: it is over before the page is read. A kernel that can have all bits set
//! at the start protects nothing then; the first part-wise taking does it.
//!
//! Older kernels copy, take away and protect in one go.

use super::KVM_PAGE_BYTES;
use crate::host::{Capabilities, KvmError};
use crate::slots::Slots;
use crate::sys::ioctl;
use crate::vm::enable;
use kvm_ioctls::VmFd;
use std::io;
use umem_memory::{PageBitmap, PageIndex, PageRange};

const PROTECT_BY_HAND: u64 = 1;
const ALL_SET_AT_START: u64 = 2;

/// Pages of a part: a multiple of 64, 256 MiB.
const PART_PAGES: usize = 1 << 16;
const PART_WORDS: usize = PART_PAGES / 64;

#[derive(Debug)]
pub(super) struct Bitmap {
    by_hand: bool,
    all_set_at_start: bool,
}

impl Bitmap {
    pub(super) fn new(vm: &VmFd, capabilities: &Capabilities) -> Result<Self, KvmError> {
        let (by_hand, all_set_at_start) = capabilities.manual_protect;
        let all_set_at_start = by_hand && all_set_at_start;
        if by_hand {
            let flags = PROTECT_BY_HAND | if all_set_at_start { ALL_SET_AT_START } else { 0 };
            enable(vm, kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags)?;
        }
        Ok(Self { by_hand, all_set_at_start })
    }

    /// Logging has begun.
    pub(super) fn begin(&self, slots: &Slots) -> io::Result<()> {
        if !self.all_set_at_start {
            return Ok(());
        }
        for (slot, block) in slots.blocks() {
            let pages = block.bytes() / KVM_PAGE_BYTES;
            let all = vec![u64::MAX; PART_WORDS];
            for first in (0..pages).step_by(PART_PAGES) {
                let part = (pages - first).min(PART_PAGES as u64) as u32;
                ioctl::clear_dirty_log(slots.vm(), slot, first, part, &all)?;
            }
        }
        Ok(())
    }

    pub(super) fn collect(&self, slots: &Slots, into: &PageBitmap) -> io::Result<u64> {
        // RAM is perhaps counted in larger pages.
        let per_page = slots.ram().layout().page_size().bytes() / KVM_PAGE_BYTES;
        let mut added = 0;
        for (slot, block) in slots.blocks() {
            let bytes = usize::try_from(block.bytes()).map_err(io::Error::other)?;
            let pages = block.bytes() / KVM_PAGE_BYTES;
            let log = slots.vm().get_dirty_log(slot, bytes)?;
            for (number, words) in (0u64..).zip(log.chunks(PART_WORDS)) {
                let first = number * PART_PAGES as u64;
                let mut found = false;
                for (at, &word) in (0u64..).zip(words) {
                    let mut left = word;
                    while left != 0 {
                        let bit = first + at * 64 + u64::from(left.trailing_zeros());
                        left &= left - 1;
                        let page = PageIndex(block.first_page.0 + bit / per_page);
                        added += into.set(PageRange::one(page));
                        found = true;
                    }
                }
                if found && self.by_hand {
                    let part = (pages - first).min(PART_PAGES as u64) as u32;
                    ioctl::clear_dirty_log(slots.vm(), slot, first, part, words)?;
                }
            }
        }
        Ok(added)
    }
}
