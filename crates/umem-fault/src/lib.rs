//! The fault plane: page-state table, userfaultfd, installing pages.

mod install;
mod interrupt;
mod outstanding;
mod parking;
mod plane;
mod reader;
mod regions;
mod stats;
mod sync;
mod table;
#[cfg(test)]
mod tests;
pub mod uffd;

pub use interrupt::Interrupt;
pub use plane::{Content, FaultError, FaultPlane, Installed, PageRequester};
pub use regions::ForeignRegion;
pub use stats::{FaultCause, FaultStats};
pub use table::{Arrival, Claim, PageCounts, PageState, PageTable, Waited};
