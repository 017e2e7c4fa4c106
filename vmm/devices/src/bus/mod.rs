//! The bus: which device answers at which guest physical address, or at which port.

use accel::AccessSize;
use std::sync::{Arc, Mutex, PoisonError};
use umem_memory::GuestAddress;

/// Most addresses without a device that are logged; a guest can touch any number of them.
const MOST_LOGGED: usize = 32;

/// A device with registers in guest physical memory, or in ports.
///
/// Registers are read and written by vCPU threads while the device's own threads work: state sits
/// behind the device's lock, and no lock that an access needs is held across a wait.
pub trait MmioDevice: Send + Sync {
    /// Reads `size` bytes at `offset` from the start of the device's window.
    fn read(&self, offset: u64, size: AccessSize) -> u64;

    /// Writes the low `size` bytes of `value` at `offset`.
    fn write(&self, offset: u64, size: AccessSize, value: u64);
}

/// A window that cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No bytes, or beyond the end of the address space.
    #[error("{name} cannot be mapped at {base:#x} with {bytes} bytes")]
    Window {
        /// Name of the device.
        name: String,
        /// Start of the window.
        base: u64,
        /// Length of the window.
        bytes: u64,
    },
    /// Two windows share addresses.
    #[error("{name} at {base:#x} overlaps {other}")]
    Overlap {
        /// Name of the device.
        name: String,
        /// Start of its window.
        base: u64,
        /// The device that is there already.
        other: String,
    },
}

struct Mapping {
    name: String,
    base: u64,
    /// Last address, inclusive.
    last: u64,
    device: Arc<dyn MmioDevice>,
}

/// What addresses are, and what is there without a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Space {
    /// Guest physical memory.
    #[default]
    Memory,
    /// Ports of x86.
    Ports,
}

/// Windows and their devices. Made once; then only read, by all vCPUs at once.
#[derive(Default)]
pub struct Bus {
    space: Space,
    /// Sorted by base.
    mappings: Vec<Mapping>,
    logged: Mutex<Vec<u64>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let windows = self.mappings.iter().map(|at| (&at.name, at.base..=at.last));
        f.debug_map().entries(windows).finish()
    }
}

impl Bus {
    /// A bus without devices, in guest physical memory. Where none is, 0 is read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A bus without devices, in the ports of x86: addresses are their numbers. Where none is, all ones
    /// are read, as a PC's bus has it.
    #[must_use]
    pub fn of_ports() -> Self {
        Self { space: Space::Ports, ..Self::default() }
    }

    /// Puts a device at the `bytes` addresses from `base`.
    ///
    /// # Errors
    /// When the window is empty, does not fit, or overlaps another.
    pub fn map(
        &mut self,
        name: &str,
        base: GuestAddress,
        bytes: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), BusError> {
        let (name, base) = (name.to_owned(), base.0);
        let Some(last) = bytes.checked_sub(1).and_then(|length| base.checked_add(length)) else {
            return Err(BusError::Window { name, base, bytes });
        };
        let at = self.mappings.partition_point(|other| other.base <= base);
        let before = at.checked_sub(1).and_then(|at| self.mappings.get(at));
        let overlapped = before
            .filter(|other| other.last >= base)
            .or_else(|| self.mappings.get(at).filter(|other| other.base <= last));
        if let Some(other) = overlapped {
            return Err(BusError::Overlap { name, base, other: other.name.clone() });
        }
        self.mappings.insert(at, Mapping { name, base, last, device });
        Ok(())
    }

    /// A load. What is read where no device is, is the bus's.
    pub fn read(&self, address: GuestAddress, size: AccessSize) -> u64 {
        match self.find(address.0, size) {
            Some((device, offset)) => device.read(offset, size),
            None => {
                self.log_unmapped("load from", address.0, size);
                match self.space {
                    Space::Memory => 0,
                    Space::Ports => u64::MAX >> (64 - 8 * size.bytes()),
                }
            }
        }
    }

    /// A store. Where no device is, it does nothing.
    pub fn write(&self, address: GuestAddress, size: AccessSize, value: u64) {
        match self.find(address.0, size) {
            Some((device, offset)) => device.write(offset, size, value),
            None => self.log_unmapped("store to", address.0, size),
        }
    }

    fn find(&self, address: u64, size: AccessSize) -> Option<(&dyn MmioDevice, u64)> {
        let at = self.mappings.partition_point(|mapping| mapping.base <= address);
        let mapping = self.mappings.get(at.checked_sub(1)?)?;
        let last = address.checked_add(size.bytes() as u64 - 1)?;
        (last <= mapping.last).then(|| (&*mapping.device, address - mapping.base))
    }

    fn log_unmapped(&self, what: &str, address: u64, size: AccessSize) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_LOGGED && !logged.contains(&address) {
            logged.push(address);
            // Guests look for devices in ports; in memory they are told of them.
            let (level, space) = match self.space {
                Space::Memory => (log::Level::Warn, ""),
                Space::Ports => (log::Level::Debug, "port "),
            };
            let bytes = size.bytes();
            log::log!(level, "{what} {space}{address:#x} ({bytes} bytes), where no device is");
        }
    }
}

#[cfg(test)]
mod tests;
