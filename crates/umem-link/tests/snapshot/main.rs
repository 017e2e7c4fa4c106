//! Snapshots with real memory, the kernel's userfaultfd, and threads that use memory meanwhile.
#![allow(clippy::unwrap_used)]

mod load;
mod save;
mod vms;
