//! One test's folder and its log.

use crate::vm::Builder;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything: far beyond what a slow host needs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `probe` has something, and fails with `what` otherwise.
///
/// # Panics
/// When nothing comes.
pub fn until<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain for {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What was said and when; shown when the test fails.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    pub(crate) fn add(&self, who: &str, text: impl Display) {
        let at = self.start.elapsed().as_secs_f64();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.to_string().lines() {
            lines.push(format!("{at:9.4} {who}: {line}"));
        }
    }
}

/// A folder for one test, which ends with it.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
    log: Log,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// A fresh one, open to other users: VMs may run as one.
    ///
    /// # Panics
    /// When there is no room for a folder.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).expect("the folder is ours");
        let log = Log { start: Instant::now(), lines: Arc::default() };
        Self { folder, log }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a line into the log that is shown on failure.
    pub fn note(&self, text: impl Display) {
        self.log.add("test", text);
    }

    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }

    /// A VM with these options, separated by blanks, still to be started.
    #[must_use]
    pub fn vm(&self, name: &str, options: &str) -> Builder {
        Builder::new(self.folder(), self.log.clone(), name, options)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
            // Heartbeats are many and say little.
            for line in lines.iter() {
                eprintln!("{line}");
            }
        }
    }
}

/// Tells, at the end of the whole run, of something that cannot be tested here.
///
/// # Panics
/// When the file for it cannot be written.
pub fn skipped(line: &str) {
    use std::io::Write as _;
    eprintln!("skipped: {line}");
    if let Some(log) = std::env::var_os("UMEM_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
        let mut file = log.expect("the log of skipped tests");
        writeln!(file, "{line}").expect("room in the log");
    }
}
