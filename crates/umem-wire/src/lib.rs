//! The migration protocol's frames: encode and decode, nothing else.
//!
//! docs/protocol.md is normative; the tables there and the types here go together. All numbers are
//! little-endian. No value decoded here has been believed: lengths are bounded before memory is
//! taken for them, and what a peer says about pages is checked against the layout by the engine.

mod control;
mod description;
mod frame;
mod packed;
mod pages;
mod preface;
mod reader;
mod request;

pub use control::{
    DISCARD_PIECE_BYTES, MAX_STATE_BYTES, Mode, Ownership, STATE_PIECE_BYTES, Text, ToDestination,
    ToSource,
};
pub use description::{Block, MAX_BLOCKS, MAX_DEVICES, MachineDescription};
pub use frame::{FRAME_HEAD_BYTES, FrameHead, MAX_CONTROL_BODY};
pub use packed::{Codec, MOST_PERCENT, PackedHead, Packer, Unpacker, exclusive_or};
pub use pages::{
    Cause, MAX_CHUNK_PAGES, PageKind, PageOf, PagesBuilder, PagesFrame, PagesHead, RunFrame,
    decode_credit, digest_term, discard_term, encode_credit, encode_round_end, page_hash,
};
pub use preface::{
    Features, PREFACE_BYTES, Preface, REPLY_BYTES, Reply, Role, Secret, SessionId, VERSION, Verdict,
};
pub use request::{DemandFrame, MAX_REMOVE_RUNS, MAX_REQUEST_PAGES, encode_remove, encode_request};

/// Bytes that are no frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body ends too early, or goes on behind its end.
    #[error("frame of kind {kind} has {bytes} bytes, which does not fit its content")]
    Length {
        /// Kind of frame.
        kind: u8,
        /// Bytes of its body.
        bytes: usize,
    },
    /// A length beyond what the protocol allows.
    #[error("frame of kind {kind} claims {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// Kind of frame.
        kind: u8,
        /// What it claims.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A field with a value that has no meaning.
    #[error("{field} has the value {value}, which has no meaning")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// Packed content that is broken, or stands for something else.
    #[error("{packed} packed bytes do not unpack to the {expected} bytes of their pages")]
    Unpack {
        /// Bytes that came.
        packed: usize,
        /// Bytes that the pages have.
        expected: usize,
    },
    /// The peer does not speak this protocol.
    #[error("the peer does not speak the migration protocol (its first bytes are {first:02x?})")]
    Magic {
        /// What came instead.
        first: [u8; 8],
    },
    /// No version in common.
    #[error("the peer speaks protocol versions {min} to {max}, this end only {VERSION}")]
    Version {
        /// Lowest that the peer speaks.
        min: u16,
        /// Highest that the peer speaks.
        max: u16,
    },
}
