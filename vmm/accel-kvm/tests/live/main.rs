//! On the real `/dev/kvm`. Guests are of two kinds: a few bytes in real mode, and a kernel of a few
//! instructions with programs in user mode, where a KVM without hardware help runs at full speed too.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used)]

mod chips;
mod code;
mod cpu;
mod dirty;
mod exits;
mod guest;
mod host;
mod kick;
mod pages;
mod state;
mod time;
