//! QEMU's own client of its machine protocol, as a process of its own: `tests/qmp/client.py`.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs the client.
#[derive(Debug)]
pub struct Client {
    python: PathBuf,
}

impl Client {
    /// The client, if `UMEM_QMP_PYTHON` names an interpreter that has it, as `cargo xtask test` sees
    /// to; else a note that `test` was left out.
    #[must_use]
    pub fn find(test: &str) -> Option<Self> {
        given("UMEM_QMP_PYTHON", test).map(|python| Self { python })
    }

    /// Runs one of the client's commands to its end; what it prints. The client bounds its own time.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("qmp/client.py");
        let output = Command::new(&self.python)
            .arg("-B")
            .arg(script)
            .args(arguments)
            .output()
            .expect("the interpreter starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the client failed, {}: {errors}", output.status);
        if output.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&output.stdout).expect("the client prints JSON")
    }
}

/// A path from the environment, or a note that `test` was left out, in `UMEM_SKIP_LOG` too.
///
/// # Panics
/// When the note cannot be written.
#[must_use]
pub fn given(variable: &str, test: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        crate::skipped(&format!("{test}: {variable} is not set; run it by: cargo xtask test"));
    }
    found
}
