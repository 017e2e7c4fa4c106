//! QEMU's user-mode emulator, the oracle.

use crate::elf;
use crate::program::{BASE, Image, USER_ENTRY, records};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the emulator is.
///
/// # Panics
/// When it is nowhere: a test without its oracle proves nothing.
pub(crate) fn emulator(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(path);
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    let cached = ["bin", "qemu/bin", "qemu/usr/bin"].map(|folder| cache.join(folder));
    std::env::split_paths(&on_path)
        .chain(cached)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "{name} not found in {variable}, on PATH or under .cache: \
                 the comparison needs QEMU 9 or later"
            )
        })
}

/// The records of `count` programs after a run; `Err` with QEMU's words when it did not end well.
pub(crate) fn run(image: &Image, count: usize) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("programs");
    std::fs::write(&path, elf::executable(BASE, USER_ENTRY, &image.bytes)).unwrap();
    // QEMU refuses, without a word, a file that may not be executed.
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(emulator("UMEM_QEMU_USER", "qemu-riscv64"))
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let expected = records(count).len();
    if output.status.success() && output.stdout.len() == expected {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let length = output.stdout.len();
    Err(format!("{}, {length} bytes of {expected}: {words}", output.status))
}
