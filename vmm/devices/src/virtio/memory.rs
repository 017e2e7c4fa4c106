//! Guest memory as devices reach it.

use umem_memory::GuestAddress;

/// Guest RAM in the form that virtio-queue works on.
pub(crate) type Ram = umem_memory::GuestMemory;

/// A range of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// First address.
    pub address: GuestAddress,
    /// Length in bytes.
    pub bytes: u64,
}

/// Why pages cannot be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The wait for them was interrupted; they may come yet.
    Interrupted,
    /// One of them cannot be read at the source: it never comes.
    Unreadable,
}

/// Guest memory of which pages may not have arrived yet.
///
/// A device's worker asks before it touches memory, and before every system call on it: a
/// userfaultfd for user mode alone answers those with EFAULT, and a wait inside the kernel could not
/// be interrupted. Each device has an object of its own.
pub trait PresentPages: Send + Sync {
    /// Makes all pages of the ranges present; they stay so. Asks for all that are missing at once.
    /// The ranges are known to be RAM; some may be empty.
    ///
    /// # Errors
    /// When a page does not come.
    fn hold(&self, ranges: &[GuestRange]) -> Result<(), Absent>;

    /// While on, waits in [`PresentPages::hold`] end at once, those under way too. A call with all
    /// pages present succeeds all the same.
    fn interrupt(&self, on: bool);
}

/// Guest memory that is all here.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllPresent;

impl PresentPages for AllPresent {
    fn hold(&self, _ranges: &[GuestRange]) -> Result<(), Absent> {
        Ok(())
    }

    fn interrupt(&self, _on: bool) {}
}
