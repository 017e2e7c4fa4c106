//! The data plane with real memory, the kernel's userfaultfd and real sockets.
#![allow(clippy::unwrap_used)]

mod cuts;
mod peers;
mod proxy;
mod vms;
mod whole;
mod world;
mod wrong;
