//! Whether this host has the memory that an incoming guest needs.
//!
//! Asked before anything is sent, because a postcopy destination that runs out of memory loses the
//! guest. Sources: `/proc/meminfo` (`MemAvailable`) and the cgroup v2 limits of this process.

use std::path::{Path, PathBuf};

/// Memory that must stay free beside the guest's RAM, bytes: buffers, tables, page tables.
const MARGIN: u64 = 64 << 20;

/// Memory is short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest needs {needed_mib} MiB of memory here, but only {available_mib} MiB are available ({limit}); if it \
     uses less than that, start this end with a memory backend of reserve=off"
)]
pub(crate) struct ShortOfMemory {
    /// RAM and margin, MiB.
    pub needed_mib: u64,
    /// What may be taken, MiB.
    pub available_mib: u64,
    /// What sets the limit.
    pub limit: String,
}

/// Checks that `bytes` of guest RAM can be backed.
///
/// # Errors
/// When they cannot. Where the system tells nothing, nothing is refused.
pub(crate) fn admit(bytes: u64) -> Result<(), ShortOfMemory> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut limits = Vec::new();
    limits.extend(available(&text).map(|free| (free, "MemAvailable in /proc/meminfo".to_owned())));
    limits.extend(cgroup_free());
    check(bytes, limits)
}

fn check(bytes: u64, limits: impl IntoIterator<Item = (u64, String)>) -> Result<(), ShortOfMemory> {
    let needed = bytes.saturating_add(MARGIN);
    match limits.into_iter().min_by_key(|(free, _)| *free) {
        Some((free, limit)) if free < needed => {
            Err(ShortOfMemory { needed_mib: needed >> 20, available_mib: free >> 20, limit })
        }
        _ => Ok(()),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What each cgroup above this process still allows, in bytes.
fn cgroup_free() -> Vec<(u64, String)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let root = Path::new("/sys/fs/cgroup");
    let mut group: PathBuf = root.join(path);
    let mut limits = Vec::new();
    while group.starts_with(root) {
        if let Some(free) = group_free(&group) {
            limits.push((free, format!("memory.max of {}", group.display())));
        }
        if !group.pop() {
            break;
        }
    }
    limits
}

fn group_free(group: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_decides_and_is_named() {
        let limits = [(8 << 30, "host".to_owned()), (1 << 30, "group".to_owned())];
        let error = check(1 << 30, limits.clone()).unwrap_err();
        assert_eq!((error.needed_mib, error.available_mib), (1088, 1024));
        assert_eq!(error.limit, "group");
        assert!(check(512 << 20, limits).is_ok());
        assert!(check(u64::MAX, [(5, "x".to_owned())]).is_err());
        assert!(check(1, []).is_ok());
    }

    #[test]
    fn meminfo_is_understood_and_nonsense_is_not() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemAvailable: many kB\n"), None);
        assert_eq!(available(""), None);
    }

    #[test]
    fn this_host_tells_something() {
        assert!(admit(u64::MAX >> 8).is_err());
    }
}
