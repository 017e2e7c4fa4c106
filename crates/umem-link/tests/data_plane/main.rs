//! The data plane with real memory, the kernel's userfaultfd and real sockets.
#![allow(clippy::unwrap_used)]

mod caller;
mod cuts;
mod packed;
mod peers;
mod proxy;
mod rounds;
mod vms;
mod whole;
mod world;
mod wrong;
