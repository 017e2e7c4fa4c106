//! What a guest is told by CPUID.
//!
//! ```text
//!  table.rs     a table of leaves, as KVM takes it and as it moves with the guest
//!  features.rs  feature bits and their names
//!    words.rs     which bit has which name
//!  policy.rs    what of the host's processor a guest gets, and why not the rest
//!  topology.rs  what differs between vCPUs: numbers, and how many there are
//!  needs.rs     what a guest uses of its processor, by name, and whether a host has it
//! ```

mod features;
mod needs;
mod policy;
mod table;
mod topology;
mod words;

pub(crate) use needs::{Processor, admits, needs, same_rate};
pub(crate) use policy::policy;
#[cfg(test)]
pub(crate) use table::Leaf;
pub(crate) use table::{Register, Table};
pub(crate) use topology::for_vcpu;
