//! The fault plane: page-state table, userfaultfd, installing pages, and taking them away again before
//! the guest runs; writes that the kernel notes.

mod error;
mod granules;
mod install;
mod interrupt;
mod kept;
mod outstanding;
mod parking;
mod placement;
mod plane;
mod promptly;
mod reader;
mod regions;
mod state;
mod stats;
mod sync;
mod table;
#[cfg(test)]
mod tests;
pub mod uffd;
mod writes;

pub use error::FaultError;
pub use interrupt::Interrupt;
pub use placement::Placement;
pub use plane::{Content, FaultPlane, Installed, PageRequester};
pub use promptly::run_promptly;
pub use regions::ForeignRegion;
pub use state::{Arrival, Claim, PageCounts, PageState, Waited, Withdrawal};
pub use stats::{FaultCause, FaultStats};
pub use table::PageTable;
pub use writes::MappingWrites;
