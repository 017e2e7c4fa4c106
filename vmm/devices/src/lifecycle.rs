//! What the machine does with every device beside letting the guest use it.

use std::time::Instant;

/// A device did not come to rest in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device} did not come to rest in time: {reason}")]
pub struct Busy {
    /// Name of the device.
    pub device: String,
    /// What it still does.
    pub reason: String,
}

/// Stopping, going on, and starting anew.
///
/// A device runs once it is made. Between [`Lifecycle::quiesce`] and [`Lifecycle::resume`] it takes
/// no request and no input, completes nothing and changes no interrupt line by itself; its state can
/// then be saved. Restoring a state makes a device quiescent, so that a guest that has arrived does
/// nothing before it may run.
pub trait Lifecycle: Send + Sync {
    /// Completes what was submitted and comes to rest. Quiescing twice is quiescing once.
    ///
    /// # Errors
    /// When something submitted is not complete at the deadline. The device takes nothing new all
    /// the same; `resume` lets it go on.
    fn quiesce(&self, deadline: Instant) -> Result<(), Busy>;

    /// Goes on.
    fn resume(&self);

    /// Puts the device into the state in which it was made, as the board's reset line does. The
    /// device is quiescent and stays so.
    fn reset(&self);
}
