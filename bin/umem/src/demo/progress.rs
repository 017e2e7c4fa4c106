//! Progress while the demo runs: one line rewritten on a terminal, lines otherwise.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Time between lines of the same step where they cannot be rewritten.
const LINE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Progress {
    rewrites: bool,
    /// Whether a line waits to be rewritten.
    open: bool,
    step: &'static str,
    last: Option<Instant>,
}

impl Progress {
    /// With `json`, standard output is left alone.
    pub(super) fn new(json: bool) -> Self {
        let rewrites = !json && io::stderr().is_terminal();
        Self { rewrites, open: false, step: "", last: None }
    }

    /// Shows where the demo is.
    pub(super) fn show(&mut self, step: &'static str, detail: &str) {
        let new = self.step != step;
        let mut output = io::stderr().lock();
        // Nobody may be looking; the demo goes on.
        if self.rewrites {
            let end = if new && self.open { "\n" } else { "" };
            let _ = write!(output, "{end}\r{step:<10} {detail}\x1b[K");
            let _ = output.flush();
            self.open = true;
        } else if new || self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            let _ = writeln!(output, "{step:<10} {detail}");
            self.last = Some(Instant::now());
        }
        self.step = step;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open {
            eprintln!();
        }
    }
}
