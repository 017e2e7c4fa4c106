//! Where things lie in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Downloads and unpacked packages; safe to delete.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}

/// Guests that are built and not in the repository; safe to delete.
pub(crate) fn guest_out() -> PathBuf {
    root().join("guest/out")
}

/// The riscv64 Linux guest among them.
pub(crate) fn linux_out() -> PathBuf {
    guest_out().join("linux")
}

/// Kernels for x86-64 that are fetched; safe to delete.
pub(crate) fn linux_x86_out() -> PathBuf {
    root().join("guest/out/linux-x86")
}

/// Where cargo builds to: as cargo itself says, since the environment may move it.
pub(crate) fn target() -> Result<PathBuf> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let json = run::output(run::command(run::cargo(), arguments).current_dir(root()))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&json).context("cannot read cargo metadata")?;
    let folder = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(folder))
}
