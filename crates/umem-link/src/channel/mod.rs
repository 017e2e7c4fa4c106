//! A connection with two halves that threads own, and a handle that ends both from anywhere.

mod memory;
mod mux;
mod pipe;
mod socket;

pub use memory::{Faults, pair};
pub use mux::{MuxChannels, split};
pub use socket::from_socket;

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use umem_migrate::PathFacts;

/// Bytes that went through a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

impl ByteCounts {
    /// Both ways together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}

impl std::ops::AddAssign for ByteCounts {
    fn add_assign(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

/// What can be done to a connection while threads are inside its halves.
pub trait ChannelControl: Send + Sync {
    /// Ends both directions, now and for ever. Whoever reads gets the end of the stream or an error,
    /// whoever writes an error; also when they are blocked at this moment.
    fn shutdown(&self);
    /// Bytes on the wire so far: as the kernel counted them where it does (TCP), else ours.
    fn counts(&self) -> ByteCounts;
    /// The other end's address, for people.
    fn peer(&self) -> String;
    /// What can be polled to learn whether the reader has something to give; `None` where only reading
    /// tells.
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// What is known of the network between the peers; `None` where nothing is.
    fn path(&self) -> Option<PathFacts> {
        None
    }
    /// No more than so many bytes, about, are to be sent and not acknowledged from now on.
    fn limit_under_way(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Whether the peer could be reached by connecting again.
    fn can_reconnect(&self) -> bool {
        true
    }
}

/// A connection.
pub struct Channel {
    /// What comes in.
    pub reader: Box<dyn Read + Send>,
    /// What goes out.
    pub writer: Box<dyn Write + Send>,
    /// Handle for everybody else.
    pub control: Arc<dyn ChannelControl>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.control.peer()).finish_non_exhaustive()
    }
}

/// Writes all of several buffers, in as few calls as the writer allows, without joining them.
///
/// # Errors
/// The writer's; `WriteZero` when it takes nothing.
pub fn write_all_vectored(
    writer: &mut dyn Write,
    mut buffers: &mut [std::io::IoSlice<'_>],
) -> std::io::Result<()> {
    use std::io::{ErrorKind, IoSlice};
    // Empty buffers first, so that a zero below means what it says.
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        match writer.write_vectored(buffers) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut buffers, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
