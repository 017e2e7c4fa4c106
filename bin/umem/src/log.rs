//! Warnings of all crates, as lines on standard error. `UMEM_LOG=debug` shows more.

use ::log::{LevelFilter, Log, Metadata, Record};
use std::io::Write as _;

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_ascii_lowercase();
        // Nobody may be reading any more; that is no reason to stop.
        let _ = writeln!(std::io::stderr().lock(), "umem: {level}: {}", record.args());
    }

    fn flush(&self) {}
}

/// Called once, first.
pub(crate) fn init() {
    let asked = std::env::var("UMEM_LOG").ok().and_then(|level| level.parse().ok());
    if ::log::set_logger(&Lines).is_ok() {
        ::log::set_max_level(asked.unwrap_or(LevelFilter::Warn));
    }
}
