//! What lies where.
//!
//! ```text
//!          0 .. 0xa_0000       RAM: boot parameters, page tables, command line
//!   0xe_0000 .. 0x10_0000      ACPI tables
//!  0x10_0000 .. 3 GiB          RAM: kernel, initial RAM disk
//!      3 GiB .. 4 GiB          devices
//!      4 GiB ..                RAM
//! ```

use umem_memory::{GuestAddress, RamBlockSpec, RamLayout};

const GIB: u64 = 1 << 30;

/// Where RAM ends below 4 GiB.
pub const HOLE_START: u64 = 3 * GIB;
/// Where RAM goes on.
pub const HOLE_END: u64 = 4 * GIB;

/// First window of the virtio transports.
pub const VIRTIO_MMIO_START: u64 = 0xd000_0000;
/// Bytes of one such window.
pub const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// How many such windows there are.
pub const VIRTIO_MMIO_SLOTS: u32 = 8;
/// Interrupt of the first; the others follow. All lie behind those of ISA, and end with the I/O
/// APIC's pins.
pub const VIRTIO_MMIO_FIRST_GSI: u32 = 16;

/// The I/O APIC that KVM makes.
pub const IO_APIC: u64 = 0xfec0_0000;
/// Its pins.
pub const IO_APIC_PINS: u32 = 24;
/// The local APICs.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// A page table of KVM's (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// A task state segment of KVM's (`KVM_SET_TSS_ADDR`), three pages.
pub const KVM_TSS: u64 = KVM_IDENTITY_MAP + 0x1000;
const KVM_PAGES_END: u64 = KVM_TSS + 3 * 0x1000;

/// First port of the serial port COM1, a 16550 with registers of one byte.
pub const COM1: u16 = 0x3f8;
/// Its ports.
pub const COM1_PORTS: u64 = 8;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;
/// ACPI's sleep control register, one byte.
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI's sleep status register, one byte.
pub const SLEEP_STATUS: u16 = 0x601;
/// The reset register, one byte.
pub const RESET: u16 = 0x602;
/// What resets the machine, written there.
pub const RESET_VALUE: u8 = 1;
/// What switches the machine off as a sleep type in the sleep control register: state S5.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// The keyboard controller's command port, which knows the reset command alone.
pub const KEYBOARD_COMMAND: u16 = 0x64;

/// Segment descriptors for the 64-bit entry.
pub(crate) const GDT: u64 = 0x500;
/// What a kernel is told by PVH.
pub(crate) const START_INFO: u64 = 0x6000;
/// What Linux is told by the 64-bit boot protocol.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Six pages: the first 4 GiB, each address at itself.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes that it may have with the zero at its end.
pub(crate) const COMMAND_LINE_ROOM: usize = 0x1_0000;
/// Behind what RAM has below the old PC's hole.
const LOW_RAM_END: u64 = 0xa_0000;
/// ACPI tables, where those who look for them by themselves look.
pub(crate) const ACPI_START: u64 = 0xe_0000;
/// Where they end at the latest.
pub(crate) const ACPI_END: u64 = 0x10_0000;
/// The lowest address for a kernel.
pub(crate) const KERNEL_LOWEST: u64 = 0x10_0000;

/// The board, as far as the guest has to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Processors; the number of one is the identifier of its local APIC.
    pub processors: u8,
    /// Slots of virtio transports that have a device.
    pub virtio: Vec<VirtioSlot>,
}

/// A slot for a virtio device; slots count from 0 to [`VIRTIO_MMIO_SLOTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtioSlot(u32);

impl VirtioSlot {
    /// The slot of this number; `None` beyond the last.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < VIRTIO_MMIO_SLOTS { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its window of [`VIRTIO_MMIO_BYTES`].
    #[must_use]
    pub fn base(self) -> GuestAddress {
        GuestAddress(VIRTIO_MMIO_START + u64::from(self.0) * VIRTIO_MMIO_BYTES)
    }

    /// Its interrupt: the number of a pin of the I/O APIC.
    #[must_use]
    pub const fn gsi(self) -> u32 {
        VIRTIO_MMIO_FIRST_GSI + self.0
    }
}

/// RAM of this many bytes, around the hole.
#[must_use]
pub fn ram_blocks(bytes: u64) -> Vec<RamBlockSpec> {
    let block = |name: &str, address, bytes| RamBlockSpec {
        name: name.to_owned(),
        guest_address: GuestAddress(address),
        bytes,
    };
    let low = bytes.min(HOLE_START);
    let mut blocks = vec![block("ram-low", 0, low)];
    if bytes > low {
        blocks.push(block("ram-high", HOLE_END, bytes - low));
    }
    blocks
}

/// What a region of memory is, by the numbers that both boot protocols have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RegionKind {
    /// For the guest to use.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// A region of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its first address.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: RegionKind,
}

/// The memory map that the guest is told (x86 firmware's "e820" map), sorted by address. Windows of
/// devices are not in it: drivers claim them.
#[must_use]
pub fn memory_map(ram: &RamLayout) -> Vec<Region> {
    let region = |start, end: u64, kind| Region { start, bytes: end.saturating_sub(start), kind };
    let mut map = Vec::new();
    for block in ram.blocks() {
        let (start, end) = (block.guest_address.0, block.guest_address.0 + block.bytes());
        if start >= HOLE_END {
            map.push(region(start, end, RegionKind::Ram));
            continue;
        }
        map.push(region(start, end.min(LOW_RAM_END), RegionKind::Ram));
        map.push(region(ACPI_START, end.min(ACPI_END), RegionKind::Acpi));
        map.push(region(KERNEL_LOWEST, end, RegionKind::Ram));
    }
    map.push(region(KVM_IDENTITY_MAP, KVM_PAGES_END, RegionKind::Reserved));
    map.retain(|region| region.bytes > 0);
    map.sort_by_key(|region| region.start);
    map
}

#[cfg(test)]
mod tests;
