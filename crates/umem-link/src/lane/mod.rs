//! Lanes: connections with a role, and what runs on them.

mod credit;
mod demand;
mod flow;
mod frames;
mod pack;
mod receive;
mod request;
mod send;
mod spin;
mod store;

pub(crate) use credit::{CreditGiver, CreditWindow};
pub(crate) use demand::DemandLane;
pub(crate) use flow::BulkFlow;
pub(crate) use frames::{Frame, FrameReader};
pub(crate) use pack::{BulkPacker, PackCounts};
pub(crate) use pack::{ChunkPacker, Outgoing};
pub(crate) use receive::{Arrivals, LaneState, PageReceiver};
pub(crate) use request::{RequestCounts, RequestLane};
pub(crate) use send::{CHUNK_PAGES, Departures, PageSender, holes, kind_of};
pub(crate) use store::Store;

use std::io;
use umem_fault::FaultError;
use umem_memory::RamError;
use umem_migrate::BadRequest;
use umem_wire::{Cause, WireError};

/// Why a lane has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer closed it, between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer closed it, in the middle of a frame.
    #[error("the connection ended in the middle of a frame")]
    Torn,
    /// Messages come faster than anybody can act on them.
    #[error("the peer has sent {messages} messages that nobody had time to look at")]
    Flood {
        /// How many waited.
        messages: usize,
    },
    /// What came is no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A page did not arrive as it was sent.
    #[error(
        "page {page:#x} was altered on its way (checksum {got:016x} instead of {expected:016x})"
    )]
    Altered {
        /// The page.
        page: u64,
        /// Its checksum here.
        got: u64,
        /// Its checksum as sent.
        expected: u64,
    },
    /// Pages that the guest does not have.
    #[error("the source sends {count} pages from {start:#x} on, which the guest does not have")]
    NoSuchPages {
        /// First page.
        start: u64,
        /// How many.
        count: u64,
    },
    /// Pages that may not come at this moment.
    #[error("the source sends pages from {start:#x} on at the wrong time ({cause:?})")]
    OutOfTurn {
        /// First page.
        start: u64,
        /// As what they are sent.
        cause: Cause,
    },
    /// Pages are packed in a way that this end did not agree to.
    #[error("the source packs pages in a way that was not agreed on ({0})")]
    NotAgreed(&'static str),
    /// A page that comes as its difference from a copy that is not here.
    #[error("page {page:#x} comes as a difference from a copy that is not here")]
    NoCopy {
        /// The page.
        page: u64,
    },
    /// A round ends that was not due.
    #[error("the source ends round {got} where round {expected} is due")]
    Round {
        /// What it says.
        got: u32,
        /// What would be right.
        expected: u32,
    },
    /// RAM cannot be read or written.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A page that the source cannot read, where all have to be sent.
    #[error(
        "page {page:#x} cannot be read (a hardware error): precopy cannot move this guest; \
         postcopy (migrate -p) can, without that page"
    )]
    Unreadable {
        /// The page.
        page: u64,
    },
    /// The peer asks for what is not there.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// A page could not be installed.
    #[error(transparent)]
    Install(#[from] FaultError),
    /// The peer gives back more credit than it was sent bytes.
    #[error("the destination acknowledges {claimed} bytes of {outstanding} that are under way")]
    Credit {
        /// What it says.
        claimed: u64,
        /// What there is.
        outstanding: u64,
    },
}
