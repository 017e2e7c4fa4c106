//! Devices of the boards.
//!
//! Each device has a folder with the same files: `device` (what the guest sees), `config`, `saved`
//! (the form in which its state moves), `tests`. Addresses and interrupt numbers are the board's.
//!
//! Locks are taken in the order device, interrupt controller, vCPU handle; none of them is ever held
//! while a thread waits for a page of guest memory, for the host's disk, or for a terminal. So a
//! vCPU, a monitor or the page service never stands behind a device that waits.

mod acpi_power;
mod bus;
mod i8042;
mod lifecycle;
mod line;
mod output;
mod plic;
mod rtc;
mod sifive_test;
mod uart;
mod virtio;

pub use acpi_power::{AcpiPower, AcpiPowerConfig, PowerRequest};
pub use bus::{Bus, BusError, MmioDevice};
pub use i8042::KeyboardReset;
pub use lifecycle::{Busy, Lifecycle};
pub use line::InterruptLine;
pub use output::OutputPort;
pub use plic::{Plic, PlicConfig, SavedPlic};
pub use rtc::{GoldfishRtc, SavedRtc, WallClock};
pub use sifive_test::{SifiveTest, TestRequest};
pub use uart::{SavedUart, Uart};
pub use virtio::{
    Absent, AllPresent, Announcer, Balloon, BalloonFeatures, Buffers, Chain, ConfigSpace, Disk,
    DiskError, EmptySlot, GivenBack, GuestRange, Link, LinkCounts, PresentPages, Progress,
    QueueError, Requests, SavedQueue, SavedVirtioBalloon, SavedVirtioBlk, SavedVirtioConsole,
    SavedVirtioMmio, SavedVirtioNet, SavedVirtioRng, Tap, TapError, TransportHandle, VirtioBalloon,
    VirtioBlk, VirtioConsole, VirtioDevice, VirtioMmio, VirtioNet, VirtioRng,
};
