//! What a vCPU asks for when it comes out, and the answers that it takes along.
//!
//! KVM completes an access when the vCPU is entered again. A string instruction comes out once with all its
//! elements: the machine gets them one after the other. So does an access whose width no bus has.

use crate::sys::run_page::{MemoryAccess, PortAccess, RunPage};
use accel::{AccessSize, VmEntry, VmExit};
use umem_memory::GuestAddress;

/// Where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// All elements to one port.
    Port(u16),
    /// Bytes one after the other.
    Memory(u64),
}

/// An access that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    place: Place,
    write: bool,
    /// Where its bytes lie in the shared memory.
    offset: usize,
    /// Bytes of all parts.
    bytes: usize,
    /// Bytes of an element, where there are several.
    element: Option<usize>,
    /// Bytes that are done.
    done: usize,
}

/// The width of so many bytes.
fn width(bytes: usize) -> Option<AccessSize> {
    match bytes {
        1 => Some(AccessSize::Byte),
        2 => Some(AccessSize::Half),
        4 => Some(AccessSize::Word),
        8 => Some(AccessSize::Double),
        _ => None,
    }
}

impl Access {
    /// An access to a port; `None` when the kernel says what cannot be.
    pub(crate) fn to_port(access: PortAccess, page: &RunPage) -> Option<Self> {
        let PortAccess { write, size, port, count, offset } = access;
        let element = usize::from(size);
        let bytes = element.checked_mul(usize::try_from(count).ok()?)?;
        let possible = matches!(element, 1 | 2 | 4) && bytes > 0 && page.holds(offset, bytes);
        let place = Place::Port(port);
        possible.then_some(Self { place, write, offset, bytes, element: Some(element), done: 0 })
    }

    /// An access outside RAM.
    pub(crate) fn to_memory(access: MemoryAccess, page: &RunPage) -> Option<Self> {
        let MemoryAccess { write, address, size, offset } = access;
        let bytes = usize::try_from(size).ok()?;
        let possible = (1..=8).contains(&bytes)
            && page.holds(offset, bytes)
            && address.checked_add(u64::from(size)).is_some();
        let place = Place::Memory(address);
        possible.then_some(Self { place, write, offset, bytes, element: None, done: 0 })
    }

    /// The width of the next part; `None` when all are done.
    fn part(&self) -> Option<AccessSize> {
        let left = self.bytes - self.done;
        let bytes = match self.element {
            Some(element) => element.min(left),
            None => 1usize.checked_shl(left.checked_ilog2()?)?,
        };
        width(bytes)
    }

    /// The next part as an exit; `None` when all are done.
    pub(crate) fn exit(&self, page: &RunPage) -> Option<VmExit> {
        let size = self.part()?;
        let value = || page.value(self.offset + self.done, size.bytes());
        Some(match (self.place, self.write) {
            (Place::Port(port), false) => VmExit::PortRead { port, size },
            (Place::Port(port), true) => VmExit::PortWrite { port, size, value: value() },
            (Place::Memory(start), write) => {
                let address = GuestAddress(start + self.done as u64);
                if write {
                    VmExit::MmioWrite { address, size, value: value() }
                } else {
                    VmExit::MmioRead { address, size }
                }
            }
        })
    }

    /// Takes the answer to the last exit, and goes on to the next part.
    pub(crate) fn answer(&mut self, entry: VmEntry, page: &RunPage) {
        let Some(size) = self.part() else { return };
        if !self.write {
            let value = match (entry, self.place) {
                (VmEntry::PortRead(value), Place::Port(_))
                | (VmEntry::MmioRead(value), Place::Memory(_)) => value,
                // Nobody answered: what a bus reads where nothing is.
                _ => u64::MAX,
            };
            page.set_value(self.offset + self.done, size.bytes(), value);
        }
        self.done += size.bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(mut access: Access) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        while let Some(size) = access.part() {
            parts.push((access.done, size.bytes()));
            access.done += size.bytes();
        }
        parts
    }

    fn memory(bytes: usize) -> Access {
        let place = Place::Memory(0x1000);
        Access { place, write: true, offset: 0, bytes, element: None, done: 0 }
    }

    #[test]
    fn an_access_of_a_width_that_no_bus_has_comes_in_parts() {
        assert_eq!(widths(memory(8)), [(0, 8)]);
        assert_eq!(widths(memory(1)), [(0, 1)]);
        assert_eq!(widths(memory(3)), [(0, 2), (2, 1)]);
        assert_eq!(widths(memory(7)), [(0, 4), (4, 2), (6, 1)]);
    }

    #[test]
    fn a_string_comes_by_its_elements() {
        let place = Place::Port(0x60);
        let string = Access { place, write: false, offset: 0, bytes: 6, element: Some(2), done: 0 };
        assert_eq!(widths(string), [(0, 2), (2, 2), (4, 2)]);
    }
}
