//! Where things lie in the repository.

use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Downloads and unpacked packages; safe to delete.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}

/// Guests that are built and not in the repository; safe to delete.
pub(crate) fn linux_out() -> PathBuf {
    root().join("guest/out/linux")
}
