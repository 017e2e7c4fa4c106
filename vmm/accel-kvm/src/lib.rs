//! KVM on x86-64.
//!
//! ```text
//!  host.rs    /dev/kvm, and what it can do
//!  vm.rs      a VM: memory slots from guest RAM, interrupt controllers and timers in the kernel
//!    slots.rs   tells the kernel where RAM lies
//!    dirty.rs   which pages the vCPUs store to
//!  vcpu.rs    runs a vCPU until it needs something
//! ```
//! No machine uses it yet: state is neither saved nor restored here.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod dirty;
mod host;
mod slots;
mod vcpu;
mod vm;

pub use dirty::KvmWrites;
pub use host::{Capabilities, Host, KvmError};
pub use vcpu::{KvmExit, KvmVcpu};
pub use vm::KvmVm;
