//! A request's buffers: a descriptor chain, read once and checked (specification, section 2.7).

use super::memory::{GuestRange, PresentPages, Ram};
use super::requests::QueueError;
use umem_memory::GuestAddress;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, GuestMemory, Permissions, VolatileSlice};

const DESCRIPTOR_BYTES: u64 = size_of::<Descriptor>() as u64;

/// Most bytes of a chain.
const MOST_BYTES: u64 = 1 << 32;

/// A slice of guest memory with its dirty bitmap.
pub(crate) type RamSlice<'a> = VolatileSlice<'a, BS<'a, <Ram as GuestMemory>::Bitmap>>;

/// Memory of the guest for one request, in pieces. All of it is RAM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffers {
    ranges: Vec<GuestRange>,
    bytes: u64,
}

impl Buffers {
    fn push(&mut self, range: GuestRange) {
        self.bytes += range.bytes;
        self.ranges.push(range);
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The pieces.
    #[must_use]
    pub fn ranges(&self) -> &[GuestRange] {
        &self.ranges
    }

    /// Takes up to `bytes` bytes off the front.
    #[must_use]
    pub fn take_front(&mut self, bytes: u64) -> Self {
        let mut front = Self::default();
        let mut left = bytes;
        let mut rest = Self::default();
        for range in self.ranges.drain(..) {
            let taken = left.min(range.bytes);
            left -= taken;
            if taken > 0 {
                front.push(GuestRange { address: range.address, bytes: taken });
            }
            if taken < range.bytes {
                // The whole range is RAM, so its addresses do not wrap.
                let address = GuestAddress(range.address.0 + taken);
                rest.push(GuestRange { address, bytes: range.bytes - taken });
            }
        }
        *self = rest;
        front
    }

    /// Takes the last `bytes` bytes off; `None`, and nothing is taken, when there are fewer.
    #[must_use]
    pub fn take_back(&mut self, bytes: u64) -> Option<Self> {
        let front = self.take_front(self.bytes.checked_sub(bytes)?);
        Some(std::mem::replace(self, front))
    }

    /// The host's memory behind the buffers.
    pub(crate) fn slices<'a>(&self, ram: &'a Ram) -> Result<Vec<RamSlice<'a>>, QueueError> {
        let mut slices = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let bytes = usize::try_from(range.bytes).map_err(|_| not_ram(*range))?;
            let found = ram.get_slices(range.address, bytes, Permissions::ReadWrite);
            for slice in found.map_err(|_| not_ram(*range))? {
                slices.push(slice.map_err(|_| not_ram(*range))?);
            }
        }
        Ok(slices)
    }

    /// Reads from the front; how many bytes there were.
    ///
    /// # Errors
    /// When guest memory refuses it.
    pub(crate) fn read(&self, ram: &Ram, bytes: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for slice in self.slices(ram)? {
            let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
            done += slice.copy_to(rest);
        }
        Ok(done)
    }

    /// Writes to the front; how many bytes fitted.
    ///
    /// # Errors
    /// When guest memory refuses it.
    pub(crate) fn write(&self, ram: &Ram, bytes: &[u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for slice in self.slices(ram)? {
            let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) else { break };
            let count = rest.len().min(slice.len());
            slice.copy_from(rest);
            done += count;
        }
        Ok(done)
    }
}

fn not_ram(range: GuestRange) -> QueueError {
    QueueError::broken(format!("{} bytes at {:#x} are not RAM", range.bytes, range.address.0))
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Number of its first descriptor, by which it is completed.
    pub head: u16,
    /// What the driver has written for the device.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
}

/// The table that a chain's descriptors are read from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// Where it lies.
    pub(super) address: GuestAddress,
    /// Number of descriptors.
    pub(super) entries: u16,
    /// Whether a descriptor may refer to a table of its own.
    pub(super) may_refer: bool,
}

impl Table {
    fn descriptor(&self, ram: &Ram, index: u16) -> Result<Descriptor, QueueError> {
        if index >= self.entries {
            let text = format!("descriptor {index} of a table of {}", self.entries);
            return Err(QueueError::broken(text));
        }
        let offset = u64::from(index) * DESCRIPTOR_BYTES;
        let at = self.address.0.checked_add(offset).map(GuestAddress);
        at.and_then(|at| ram.read_obj(at).ok()).ok_or_else(|| {
            QueueError::broken(format!("descriptor {index} at {:#x} is not RAM", self.address.0))
        })
    }

    /// The table that an indirect descriptor refers to, made present.
    fn referred(
        self,
        descriptor: Descriptor,
        longest: u16,
        ram: &Ram,
        present: &dyn PresentPages,
    ) -> Result<Self, QueueError> {
        let bytes = u64::from(descriptor.len());
        let entries = u16::try_from(bytes / DESCRIPTOR_BYTES).unwrap_or(u16::MAX);
        let whole = bytes.is_multiple_of(DESCRIPTOR_BYTES) && bytes > 0;
        if !self.may_refer || descriptor.has_next() || !whole || entries > longest {
            let text = format!("indirect descriptor of {bytes} bytes where none may be");
            return Err(QueueError::broken(text));
        }
        let range = checked_range(ram, descriptor)?;
        present.hold(&[range])?;
        Ok(Self { address: range.address, entries, may_refer: false })
    }
}

fn checked_range(ram: &Ram, descriptor: Descriptor) -> Result<GuestRange, QueueError> {
    let range = GuestRange { address: descriptor.addr(), bytes: u64::from(descriptor.len()) };
    let bytes = usize::try_from(range.bytes).map_err(|_| not_ram(range))?;
    let is_ram = ram.check_range(range.address, bytes, Permissions::ReadWrite);
    if is_ram { Ok(range) } else { Err(not_ram(range)) }
}

impl Chain {
    /// Reads the chain that begins at `head` in the queue's table. A chain is at most as long as the
    /// queue (section 2.7.5.3.1), so one that goes round is found. Its buffers need not be present.
    pub(super) fn read(
        ram: &Ram,
        present: &dyn PresentPages,
        queue: Table,
        head: u16,
    ) -> Result<Self, QueueError> {
        let (longest, mut table, mut index) = (queue.entries, queue, head);
        let mut chain = Self { head, readable: Buffers::default(), writable: Buffers::default() };
        let mut length = 0;
        loop {
            let descriptor = table.descriptor(ram, index)?;
            if descriptor.refers_to_indirect_table() {
                table = table.referred(descriptor, longest, ram, present)?;
                index = 0;
                continue;
            }
            length += 1;
            if length > longest {
                let text = format!("chain at {head} is longer than its queue of {longest}");
                return Err(QueueError::broken(text));
            }
            chain.add(ram, descriptor)?;
            let bytes = chain.readable.bytes + chain.writable.bytes;
            // Section 2.7.5.2. It also bounds what one request can ask for.
            if bytes > MOST_BYTES {
                let text = format!("chain at {head} has {bytes} bytes, {MOST_BYTES} at most");
                return Err(QueueError::broken(text));
            }
            if !descriptor.has_next() {
                break;
            }
            index = descriptor.next();
        }
        Ok(chain)
    }

    /// Makes its buffers present.
    pub(super) fn hold(&self, present: &dyn PresentPages) -> Result<(), QueueError> {
        Ok(present.hold(&[self.readable.ranges.as_slice(), &self.writable.ranges].concat())?)
    }

    fn add(&mut self, ram: &Ram, descriptor: Descriptor) -> Result<(), QueueError> {
        let range = checked_range(ram, descriptor)?;
        if descriptor.is_write_only() {
            self.writable.push(range);
            return Ok(());
        }
        if !self.writable.ranges.is_empty() {
            let text = format!("chain at {} goes on readable after a writable buffer", self.head);
            return Err(QueueError::broken(text));
        }
        self.readable.push(range);
        Ok(())
    }
}
