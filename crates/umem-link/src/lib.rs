//! The data plane: lanes, sockets and the threads that move pages.

pub mod channel;
pub mod socket;
mod status;
mod uri;
mod wake;

pub use status::{DowntimeParts, End, FaultLatency, MigrationStatus, PageCounts};
pub use uri::{Endpoint, UriError};
pub use wake::Wake;
