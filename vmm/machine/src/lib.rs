//! Boards, VM lifecycle, and the glue to the migration engine.

mod config;
mod control;

pub use config::{AcceleratorKind, DriveConfig, FaultPath, Incoming, VmConfig};
pub use control::{
    BlockStatus, ControlError, CpuStatus, MemoryStatus, MigrateRequest, Owner, RunState, VmControl,
    VmEvent, VmStatus,
};
