//! The fault plane: page-state table, userfaultfd, installing pages.

mod interrupt;
mod parking;
mod stats;
mod sync;
mod table;
pub mod uffd;

pub use interrupt::Interrupt;
pub use stats::{FaultCause, FaultStats};
pub use table::{Claim, PageCounts, PageState, PageTable, Waited};
