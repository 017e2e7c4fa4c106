//! The `virt` board: where everything is.
//!
//! Addresses and interrupt numbers are those of QEMU's `virt` machine (QEMU documentation, "virt
//! Generic Virtual Platform", and its device tree), so that the same kernel and initial RAM disk
//! boot on both. There is no M-mode: the VMM itself is the SBI, so there is no CLINT either.

use super::power::Power;
use crate::board::Window;

/// A device with a register window and one interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Registers.
    pub window: Window,
    /// PLIC source number.
    pub interrupt: u32,
}

/// The test device that powers off and resets.
pub(crate) const TEST: Window = Window { base: 0x10_0000, bytes: 0x1000 };
/// Real-time clock.
pub(crate) const RTC: Slot =
    Slot { window: Window { base: 0x10_1000, bytes: 0x1000 }, interrupt: 11 };
/// Interrupt controller.
pub(crate) const PLIC: Window = Window { base: 0x0c00_0000, bytes: 0x60_0000 };
/// Interrupt sources of the PLIC: 1 to this number.
pub(crate) const PLIC_SOURCES: u32 = 63;
/// Serial port.
pub(crate) const UART: Slot =
    Slot { window: Window { base: 0x1000_0000, bytes: 0x100 }, interrupt: 10 };
/// Input clock of the serial port, hertz.
pub(crate) const UART_CLOCK: u32 = 3_686_400;
/// Number of virtio-mmio slots.
pub(crate) const VIRTIO_SLOTS: u32 = 8;
/// Start of RAM.
pub(crate) const RAM_BASE: u64 = 0x8000_0000;
/// Name of the RAM block.
pub(crate) const RAM_NAME: &str = "ram";
/// Offset into RAM at which a kernel `Image` is loaded.
pub(crate) const KERNEL_OFFSET: u64 = 0x20_0000;
/// Name of the board, as both ends of a migration compare it.
pub(crate) const NAME: &str = "virt riscv64";
/// Largest RAM that a board can have, bytes: what fits below the end of a 39-bit address space.
pub(crate) const MAX_RAM: u64 = 256 << 30;
/// Largest number of harts. QEMU's board has room for 512; what limits this one is that each is a
/// thread here.
pub(crate) const MAX_HARTS: u32 = 64;
/// The hart that boots; it starts the others.
const BOOT_HART: u32 = 0;

/// Whether a hart is on at power-on.
#[must_use]
pub(crate) const fn power_on(hart: u32) -> Power {
    if hart == BOOT_HART { Power::Started } else { Power::Stopped }
}

/// The virtio-mmio slot of this number.
#[must_use]
pub(crate) const fn virtio(slot: u32) -> Slot {
    Slot {
        window: Window { base: 0x1000_1000 + slot as u64 * 0x1000, bytes: 0x1000 },
        interrupt: 1 + slot,
    }
}
