//! The migration engine: who may run the guest, and which page goes next.
//!
//! The state machines have no sockets, threads or clock: events and the time come in, actions come
//! out. `umem-link` carries them out; the tests carry them out in virtual time, with loss and delay.
//! Page bytes never pass through here.

mod destination;
mod digest;
pub mod packing;
mod plan;
pub mod policy;
pub mod queueing;
mod source;
mod streams;

pub use destination::{Destination, DestinationAction, DestinationEvent, DestinationState};
pub use digest::Tally;
pub use packing::{Compression, Differences, Packing};
pub use plan::{BadRequest, Prefault, SendPlan, Wanted};
pub use policy::{AutoConverge, Rounds, Strategy, Switch};
pub use queueing::{Budget, PathFacts, Queueing};
pub use source::{
    Operator, RoundReport, RoundsView, Source, SourceAction, SourceEvent, SourceState,
};

/// Time on a monotonic clock of the caller's, from any origin.
pub type Now = std::time::Duration;
