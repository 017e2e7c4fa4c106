//! What a guest for x86-64 finds when it starts.
//!
//! ```text
//!  map.rs         what lies where: RAM, the hole below 4 GiB, ports, what firmware would leave below 1 MiB
//!  load.rs        puts everything into RAM and says where to start
//!    kernel/        which kind of kernel a file is, and its bytes: vmlinux (ELF), bzImage
//!    place.rs       writes into RAM what fits there
//!    zero_page.rs   what Linux is told by the 64-bit boot protocol
//!    start_info.rs  what a kernel is told by PVH
//!    long_mode.rs   segments and page tables for the 64-bit entry
//!    acpi/          tables: processors, interrupts, devices, how to switch off
//!  registers.rs   the first vCPU's registers at the start
//!  announce.rs    devices for kernels that read no ACPI tables
//! ```
//! There is no firmware: kernels are entered directly. There is neither a CMOS clock nor a video
//! adapter, and the tables say so; Linux takes its wall clock from KVM (`kvm-wallclock`).
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod acpi;
mod announce;
mod error;
mod kernel;
#[cfg(test)]
mod live;
mod load;
mod long_mode;
pub mod map;
mod place;
mod registers;
mod start_info;
#[cfg(test)]
mod testing;
mod zero_page;

pub use announce::virtio_mmio_arguments;
pub use error::BootError;
pub use load::{BootFiles, Start, load};
pub use map::{Board, VirtioSlot};
pub use registers::{registers, special_registers};
