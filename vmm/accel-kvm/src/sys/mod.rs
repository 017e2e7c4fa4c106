//! What needs unsafe code beside the memory slots: the page shared with the kernel for each vCPU, its
//! dirty ring, ioctls that the crate kvm-ioctls does not have, and the signal that ends KVM_RUN.
#![allow(unsafe_code)]

pub(crate) mod chips;
pub(crate) mod ioctl;
pub(crate) mod mapping;
pub(crate) mod probe;
pub(crate) mod ring;
pub(crate) mod run_page;
pub(crate) mod signal;
