//! Boards, VM lifecycle, and the glue to the migration engine.
//!
//! [`VmHandle`] is a VM as everybody else holds it. Behind it one thread, the driver, changes the
//! VM's state; vCPUs, devices and the migration's threads each do their own work and hand it what
//! needs deciding.

mod admission;
mod announce;
mod board;
mod collapse;
mod config;
mod console;
mod control;
mod core;
mod driver;
mod events;
mod exit;
mod frozen;
mod gate;
mod given_back;
mod handle;
mod hardware;
mod heap;
mod incoming;
mod lifecycle;
mod memory;
mod migration;
mod outgoing;
mod requests;
mod reset;
mod sessions;
mod shared;
mod snapshot;
mod throttle;
mod tracking;
mod vcpu;
mod vm;

pub use config::{
    AcceleratorKind, BalloonConfig, CpuConfig, DriveConfig, FaultPath, Incoming, NetworkConfig,
    TapSource, VmConfig,
};
pub use console::ConsoleBackend;
pub use control::{
    BalloonStatus, BlockStatus, ControlError, CpuStatus, MemoryStatus, MigrateMode, MigrateRequest,
    MigrationCapabilities, MigrationParameters, NetworkStatus, OnOffAuto, Owner, PageCompression,
    PostcopySwitch, RunState, VmControl, VmEvent, VmStatus,
};
pub use exit::ExitReason;
pub use handle::VmHandle;
pub use heap::give_large_blocks_back;
pub use umem_memory::{Backend, HugePages, PageSize, huge_page_pool, huge_pages};
pub use vm::VmError;
