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
pub fn emulator(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(path);
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/bin");
    std::env::split_paths(&on_path)
        .chain([cache])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "{name} not found in {variable}, on PATH or in .cache/bin: \
                 `cargo xtask deps` fetches it"
            )
        })
}

/// The records of `count` programs after a run; `Err` with QEMU's words when it did not end well.
pub fn run(image: &Image, count: usize) -> Result<Vec<u8>, String> {
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
