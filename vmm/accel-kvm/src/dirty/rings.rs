//! A ring of page numbers for each vCPU (Linux documentation, "KVM API", KVM_CAP_DIRTY_LOG_RING).
//!
//! Entries are taken out of all rings and noted in a bitmap; then the kernel is told to take them back,
//! which protects their pages. Who does that holds the log's lock from the first entry to the end, be it
//! whoever collects or a vCPU whose ring is full: so no page is read between its entry and its protection.
//!
//! The kernel has a vCPU come out when its ring is nearly full, and does not look whether it is when it adds an
//! entry. On a KVM without hardware help and a busy host, moves by rings have lost pages, a vCPU standing still
//! all the while. What fits that: such a KVM emulates the guest's kernel, adds an entry for each of its stores,
//! and a ring runs over; entries are lost, and the place where the kernel goes on is no longer the one where
//! this process does. It was not seen again since that is looked for, neither as a loss nor as an error, so the
//! cause is not proven. It would show: a ring that is full to the last entry, entries behind a
//! place that has none, or fewer given back than were taken. Then nothing that was collected counts
//! ([`Rings::collect`] fails, and with it the migration), and the ring is put right so that the vCPU goes on.

use super::KVM_PAGE_BYTES;
use crate::host::{Capabilities, KvmError};
use crate::slots::Slots;
use crate::sys::ioctl;
use crate::sys::ring::Ring;
use crate::vm::enable;
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;
use umem_memory::{GuestRam, PageBitmap, PageIndex, PageRange};

/// Most entries of a ring: 1 MiB for each vCPU, 256 MiB of pages between two visits.
const MOST_ENTRIES: u64 = 1 << 16;
/// Fewest: the kernel keeps up to 576 to itself.
const FEWEST_ENTRIES: u64 = 1 << 10;

const RAN_OVER: &str = "a dirty ring of KVM ran over, and writes of the guest were not noted";

#[derive(Debug)]
pub(super) struct Rings {
    entries: u32,
    rings: Vec<Ring>,
    /// What was taken out and not collected.
    noted: PageBitmap,
    /// Whether entries may have been lost since it was switched on.
    ran_over: bool,
}

impl Rings {
    pub(super) fn new(
        vm: &VmFd,
        capabilities: &Capabilities,
        ram: &GuestRam,
    ) -> Result<Self, KvmError> {
        // A quarter of RAM is more than is written between two visits. All are powers of two.
        let wanted = (ram.layout().total_bytes() / KVM_PAGE_BYTES / 4).next_power_of_two();
        let wanted = wanted.clamp(FEWEST_ENTRIES, MOST_ENTRIES) as u32;
        let entries = capabilities.dirty_ring_entries.min(wanted);
        let bytes = u64::from(entries) * size_of::<kvm_bindings::kvm_dirty_gfn>() as u64;
        let acquire = kvm_bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
        let has_acquire = vm.check_extension_raw(acquire.into()) > 0;
        let cap = if has_acquire { acquire } else { kvm_bindings::KVM_CAP_DIRTY_LOG_RING };
        enable(vm, cap, bytes)?;
        let noted = PageBitmap::new(ram.layout().total_pages());
        Ok(Self { entries, rings: Vec::new(), noted, ran_over: false })
    }

    pub(super) fn add(&mut self, vcpu: &VcpuFd) -> io::Result<()> {
        self.rings.push(Ring::new(vcpu, self.entries)?);
        Ok(())
    }

    /// Takes all entries that are there, and protects their pages.
    pub(super) fn harvest(&mut self, slots: &Slots) -> io::Result<()> {
        let layout = slots.ram().layout();
        // RAM is perhaps counted in larger pages.
        let per_page = layout.page_size().bytes() / KVM_PAGE_BYTES;
        let mut taken = 0;
        for ring in &mut self.rings {
            let skipped = ring.skip_gap();
            taken += skipped;
            self.ran_over |= skipped > 0;
            // No more than a ring holds: one that is filled as fast as it is emptied has an end.
            for number in 1..=self.entries {
                let Some((slot, page)) = ring.take() else { break };
                taken += 1;
                self.ran_over |= number == self.entries;
                let block = usize::try_from(slot).ok().and_then(|slot| layout.blocks().get(slot));
                let Some(block) = block else { continue };
                let page = page / per_page;
                if page < block.pages {
                    self.noted.set(PageRange::one(PageIndex(block.first_page.0 + page)));
                }
            }
        }
        while taken > 0 {
            // A signal ends it early.
            match ioctl::reset_dirty_rings(slots.vm()) {
                Ok(0) => {
                    self.ran_over = true;
                    break;
                }
                Ok(count) => taken = taken.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn collect(&mut self, slots: &Slots, into: &PageBitmap) -> io::Result<u64> {
        self.harvest(slots)?;
        if self.ran_over {
            return Err(io::Error::other(RAN_OVER));
        }
        Ok(self.noted.move_into(into))
    }

    /// Empties the rings for nothing.
    pub(super) fn forget(&mut self, slots: &Slots) -> io::Result<()> {
        self.harvest(slots)?;
        self.ran_over = false;
        self.noted.clear(PageRange::new(PageIndex(0), self.noted.pages()));
        Ok(())
    }
}
