//! Threads on cores.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The first two cores that this process may use.
///
/// # Errors
/// When there is one only, or the system does not say.
pub(crate) fn pair() -> Result<[usize; 2]> {
    let allowed = of(None)?;
    let two = allowed.first_chunk().copied();
    two.context("threads on two cores need two that this process may use")
}

/// The cores that a thread may use; this one's without a number.
pub(crate) fn of(thread: Option<Pid>) -> Result<Vec<usize>> {
    let may = sched_getaffinity(thread).context("cannot tell which processors may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| may.is_set(*core)).collect())
}

/// Puts a thread on a core; this one without a number.
pub(crate) fn pin(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(thread, &only).with_context(|| format!("cannot use core {core} alone"))
}
