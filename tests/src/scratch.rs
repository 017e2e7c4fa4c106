//! A disk that the bare-metal guest works on, and what the guest says of it and of its other device.

use crate::lab::{Lab, until};
use crate::vm::field;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Size of the disk: small enough for the guest to come by most of it.
const BYTES: u64 = 4 << 20;
/// Of so many sectors one is altered.
const ALTERED: u64 = 16;
const SECTOR: u64 = 512;

/// Requests that the guest has seen done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests {
    /// Of the disk.
    pub disk: u64,
    /// Of the source of random numbers.
    pub rng: u64,
}

/// Makes an empty disk in the test's folder.
///
/// # Panics
/// When there is no room.
#[must_use]
pub fn make(lab: &Lab) -> PathBuf {
    let path = lab.path("disk");
    File::create(&path).and_then(|file| file.set_len(BYTES)).expect("room for a disk");
    path
}

/// Alters a byte of each sixteenth sector behind the guest's back: it has not written all of them.
///
/// # Panics
/// When the disk is not there.
pub fn alter(disk: &Path) {
    let file = File::options().read(true).write(true).open(disk).expect("the disk is there");
    for at in (0..BYTES).step_by(usize::try_from(ALTERED * SECTOR).expect("a small number")) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("the disk is as large");
        file.write_all_at(&[byte[0] ^ 1], at).expect("the disk can be written");
    }
}

/// What a verdict says of the devices, which must all be well.
///
/// # Panics
/// When anything is not well.
#[must_use]
pub fn requests(verdict: &str) -> Requests {
    assert!(verdict.starts_with("verdict ok "), "{verdict}");
    for name in ["disk_bad", "disk_lost", "rng_bad", "rng_lost"] {
        assert_eq!(field(verdict, name), Some(0), "{verdict}");
    }
    let count = |name| field(verdict, name).expect("a count");
    Requests { disk: count("disk_requests"), rng: count("rng_requests") }
}

/// Has the guest say its verdict until both devices have done more than they had; what they have done then.
///
/// # Panics
/// When they do not, or anything is not well.
pub fn go_on(before: Requests, verdict: impl Fn() -> String) -> Requests {
    until("requests of both devices", || {
        let now = requests(&verdict());
        (now.disk > before.disk + 100 && now.rng > before.rng + 2).then_some(now)
    })
}

/// Of a verdict that is bad for the disk's content and nothing else: how many sectors.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn bad_sectors(verdict: &str) -> u64 {
    assert!(verdict.starts_with("verdict bad "), "{verdict}");
    for name in ["bad_pages", "state_bad", "rings_lost", "disk_lost", "rng_bad", "rng_lost"] {
        assert_eq!(field(verdict, name), Some(0), "{verdict}");
    }
    let bad = field(verdict, "disk_bad").expect("a count");
    assert!((1..=BYTES / SECTOR / ALTERED).contains(&bad), "{verdict}");
    bad
}
