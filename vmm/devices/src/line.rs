//! Interrupt lines as devices see them.

/// A level-triggered interrupt line.
///
/// Setting a line never waits: devices do it with their own lock held.
pub trait InterruptLine: Send + Sync {
    /// Drives the line. Driving it to the level that it has changes nothing.
    fn set(&self, high: bool);
}

impl<F: Fn(bool) + Send + Sync> InterruptLine for F {
    fn set(&self, high: bool) {
        self(high);
    }
}
