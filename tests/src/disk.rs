//! Disks with a file system, made and checked on the host.

use crate::lab::skipped;
use std::path::Path;
use std::process::{Command, Output};

/// Size of a disk.
const BYTES: u64 = 64 << 20;

fn tool(name: &str, arguments: &[&str], image: &Path) -> std::io::Result<Output> {
    // Where they are is in root's path alone, as a rule.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Command::new(name).env("PATH", path).args(arguments).arg(image).output()
}

/// Makes an image with an ext4 on it; whether this host has the tool, which is told if it has not.
///
/// # Panics
/// When there is no room, or the tool fails.
#[must_use]
pub fn make(image: &Path) -> bool {
    std::fs::File::create(image).and_then(|file| file.set_len(BYTES)).expect("room");
    match tool("mke2fs", &["-q", "-t", "ext4", "-F"], image) {
        Ok(made) => assert!(made.status.success(), "{made:?}"),
        Err(error) => {
            skipped(&format!("file system of a guest that moves: mke2fs (e2fsprogs): {error}"));
            return false;
        }
    }
    true
}

/// Checks the file system of a guest that has ended.
///
/// # Panics
/// When it is not whole.
pub fn check(image: &Path) {
    let checked = tool("e2fsck", &["-f", "-n"], image).expect("e2fsck is where mke2fs is");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
