//! The way to a client, shared by those who answer it and those who tell it events.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// A client's output. A client that does not read in time is cut off, so that nobody waits for it
/// twice.
pub(crate) struct Outlet {
    writer: Mutex<Option<Box<dyn Write + Send>>>,
    cut: Box<dyn Fn() + Send + Sync>,
}

impl Outlet {
    /// `cut` ends the client's input too.
    pub(crate) fn new(writer: Box<dyn Write + Send>, cut: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { writer: Mutex::new(Some(writer)), cut }
    }

    /// Sends all of `bytes`, or cuts the client off.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = slot.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let sent = writer.write_all(bytes).and_then(|()| writer.flush());
        if sent.is_err() {
            *slot = None;
            (self.cut)();
        }
        sent
    }
}
