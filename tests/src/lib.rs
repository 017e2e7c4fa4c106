//! What tests with real processes and sockets share: VMs as processes of their own, their serial
//! ports and monitors, and connections that count or break.
//!
//! Every wait has a deadline; past it the test ends with what was seen until then. No time that is
//! measured here decides whether a test passes.

pub mod disk;
mod lab;
pub mod matrix;
mod monitor;
pub mod moving;
pub mod network;
mod program;
mod proxy;
mod qemu;
pub mod qmp;
pub mod scratch;
mod serial;
mod shell;
mod vm;

pub use lab::{Lab, PATIENCE, skipped, until};
pub use monitor::{Qmp, Text};
pub use program::{linux, linux_workload, program, test_guest, test_guest_x86};
pub use proxy::{Cut, Proxy, Recorded, Role};
pub use qemu::{Accelerator, Qemu, kvm_or_skip, kvm_works};
pub use serial::{Beat, Line, Serial};
pub use shell::Shell;
pub use vm::{Builder, Vm, field, may_mount};
