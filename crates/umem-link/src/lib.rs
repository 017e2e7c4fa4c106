//! The data plane: lanes, sockets and the threads that move pages.

mod status;
pub use status::{DowntimeParts, End, FaultLatency, MigrationStatus, PageCounts};
