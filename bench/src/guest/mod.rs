//! A guest as it is heard from outside: its lines, its heartbeats, and what they tell of a move.

mod beats;
mod console;
mod images;
mod protocol;

pub use beats::{AFTER, BEFORE, Beat, Beats, Window};
pub use console::{Assembler, Chunk, Heard, Port};
pub use images::{TEST_GUEST, TEST_GUEST_X86};
pub use protocol::{GuestLine, Processors, Verdict, parse};

/// Which VM of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The one that the guest leaves.
    Source,
    /// The one that it goes to.
    Destination,
}

impl End {
    /// Its name in messages and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}
