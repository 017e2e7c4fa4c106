//! The host's pools of huge pages.

use crate::PageSize;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

/// Huge pages of a size that the host has and nobody has, and those that it has at all; `None` when it has
/// no such size.
#[must_use]
pub fn huge_pages(page: PageSize) -> Option<(u64, u64)> {
    let reserved = number(page, "resv_hugepages")?;
    let free = number(page, "free_hugepages")?;
    Some((free.saturating_sub(reserved), number(page, "nr_hugepages")?))
}

/// The folder in which the host's administrator sets up the pool of a size.
#[must_use]
pub fn huge_page_pool(page: PageSize) -> PathBuf {
    PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page.bytes() >> 10))
}

fn number(page: PageSize, name: &str) -> Option<u64> {
    std::fs::read_to_string(huge_page_pool(page).join(name)).ok()?.trim().parse().ok()
}

/// Huge pages that were set aside for as long as this lives. A process that is killed leaves them set aside.
#[derive(Debug)]
pub struct HugePages {
    page: PageSize,
    count: u64,
}

impl HugePages {
    /// Sets pages aside beyond those that are. Needs the right to (root, as a rule).
    ///
    /// # Errors
    /// Without that right, or when the host has not as much memory in one piece; the pool is then as before.
    pub fn set_aside(page: PageSize, count: u64) -> io::Result<Self> {
        let _lock = lock()?;
        let before = number(page, "nr_hugepages");
        let before = before.ok_or_else(|| io::Error::other("this host has no such huge pages"))?;
        resize(page, before + count)?;
        let now = number(page, "nr_hugepages").unwrap_or(before);
        if now < before + count {
            resize(page, before)?;
            return Err(io::Error::other(format!(
                "of {count} huge pages of {} KiB the host can make {} now",
                page.bytes() >> 10,
                now - before.min(now)
            )));
        }
        Ok(Self { page, count })
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let given_back = lock().and_then(|_lock| {
            let now = number(self.page, "nr_hugepages").unwrap_or(0);
            resize(self.page, now.saturating_sub(self.count))
        });
        // Nothing to be done about it here; the pages are there for the next.
        let _ = given_back;
    }
}

fn resize(page: PageSize, count: u64) -> io::Result<()> {
    std::fs::write(huge_page_pool(page).join("nr_hugepages"), count.to_string())
}

/// Keeps processes of this program from each other's sums, as long as it is open.
fn lock() -> io::Result<File> {
    // One a user: another's could not be opened.
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("umem-huge-pages-{user}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}
