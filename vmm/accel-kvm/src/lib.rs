//! KVM on x86-64.
//!
//! ```text
//!  host.rs     /dev/kvm, and what it can do
//!  options.rs  what may be chosen of a VM
//!  vm.rs       a VM: memory slots from guest RAM, interrupt controllers and timers in the kernel
//!    slots.rs    tells the kernel where RAM lies
//!    clock.rs    the guest's clock
//!    chips.rs    the state of interrupt controllers and the interval timer
//!    cpuid/      what the guest is told of its processor, and whether another host has that
//!    dirty/      which pages the vCPUs store to
//!  vcpu/       runs a vCPU until it needs something; its time
//!  state/      a vCPU's state: read, saved, restored
//!  sys/        what needs unsafe code, beside slots.rs
//! ```
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod chips;
mod clock;
mod cpuid;
mod dirty;
mod host;
mod options;
mod slots;
mod state;
mod sync;
mod sys;
mod vcpu;
mod vm;

pub use chips::{KvmChips, SavedChips, SavedIoApic, SavedPic, SavedPitChannel};
pub use clock::KvmClock;
pub use host::{Capabilities, Host, KvmError, TscControl};
pub use options::{CpuOptions, DirtyChoice, KvmOptions};
pub use vcpu::KvmVcpu;
pub use vm::KvmVm;
