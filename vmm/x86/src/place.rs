//! Writes into RAM what fits there.

use crate::error::BootError;
use crate::map;
use umem_memory::{GuestAddress, GuestRam};

/// RAM below the hole: what kernels are started in.
pub(crate) struct Placer<'a> {
    ram: &'a GuestRam,
    end: u64,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(ram: &'a GuestRam) -> Self {
        let low = ram.layout().blocks().first().filter(|block| block.guest_address.0 == 0);
        Self { ram, end: low.map_or(0, |block| block.bytes()) }
    }

    /// End of RAM below the hole.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether something may lie where kernels lie.
    pub(crate) fn check(
        &self,
        what: &'static str,
        address: u64,
        bytes: u64,
    ) -> Result<(), BootError> {
        let end = address.checked_add(bytes);
        if address < map::KERNEL_LOWEST || end.is_none_or(|end| end > self.end) {
            return Err(self.no_room(what, address, bytes));
        }
        Ok(())
    }

    /// Puts something where kernels lie.
    pub(crate) fn put(
        &self,
        what: &'static str,
        address: u64,
        content: &[u8],
    ) -> Result<(), BootError> {
        self.check(what, address, content.len() as u64)?;
        self.put_low(what, address, content)
    }

    /// Puts something below 1 MiB, where the caller knows of enough room.
    pub(crate) fn put_low(
        &self,
        what: &'static str,
        address: u64,
        content: &[u8],
    ) -> Result<(), BootError> {
        self.ram
            .write_at(GuestAddress(address), content)
            .map_err(|_| self.no_room(what, address, content.len() as u64))
    }

    fn no_room(&self, what: &'static str, address: u64, bytes: u64) -> BootError {
        BootError::NoRoom { what, bytes, address, ram_end: self.end }
    }
}
