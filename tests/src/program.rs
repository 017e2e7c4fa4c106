//! Where the program and the guests are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The program: `UMEM_BIN`, or the release build beside this test's own, which is made if missing.
#[must_use]
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(find);
    &PROGRAM
}

fn find() -> PathBuf {
    if let Some(given) = std::env::var_os("UMEM_BIN") {
        return given.into();
    }
    // target/debug/deps/test
    let own = std::env::current_exe().expect("the test has a path");
    let target = own.ancestors().nth(3).expect("the test is in a target folder");
    let program = target.join("release/umem");
    if !program.exists() {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--package", "umem", "--target-dir"])
            .arg(target)
            .current_dir(root())
            .status()
            .expect("cargo starts");
        assert!(status.success(), "cargo build --release -p umem: {status}");
    }
    program
}

/// The bare-metal guest's image.
#[must_use]
pub fn test_guest() -> PathBuf {
    root().join("guest/test-guest/image/umem-test-guest.elf")
}

/// The bare-metal guest's image for x86-64.
#[must_use]
pub fn test_guest_x86() -> PathBuf {
    root().join("guest/test-guest/image/umem-test-guest-x86_64.elf")
}

/// A file of the Linux guest.
///
/// # Panics
/// When it was not made.
#[must_use]
pub fn linux(name: &str) -> PathBuf {
    let folder = std::env::var_os("UMEM_LINUX");
    let path = folder.map_or_else(|| root().join("guest/out/linux"), PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing: run cargo xtask guest", path.display());
    path
}

/// Kernel arguments with which Linux runs the workload: so many MiB filled, pages written a second.
#[must_use]
pub fn linux_workload(fill_mib: u32, rate: u32, seed: u32) -> String {
    format!("umem.mode=workload umem.fill_mib={fill_mib} umem.rate={rate} umem.seed={seed}")
}
