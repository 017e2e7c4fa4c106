//! The host's side of the guest's serial port.

use std::io::{Read, Write};

/// Where the serial port's output goes and its input comes from.
///
/// The writer may block (a pipe nobody reads); it is called from a thread of its own. An input that
/// ends (EOF) just ends: the guest goes on.
pub struct ConsoleBackend {
    /// Output of the guest.
    pub output: Box<dyn Write + Send>,
    /// Input to the guest.
    pub input: Option<Box<dyn Read + Send>>,
}

impl ConsoleBackend {
    /// Output is dropped, there is no input.
    #[must_use]
    pub fn null() -> Self {
        Self { output: Box::new(std::io::sink()), input: None }
    }
}

impl std::fmt::Debug for ConsoleBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleBackend").field("input", &self.input.is_some()).finish()
    }
}
