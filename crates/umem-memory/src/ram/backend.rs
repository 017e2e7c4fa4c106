//! What RAM is made of.

use crate::PageSize;
use rustix::fs::{MemfdFlags, OFlags, StatFs};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What RAM is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Private anonymous memory.
    Anonymous,
    /// Shared memory without a name, which other processes can be given.
    Memfd,
    /// The same of huge pages (hugetlb), which the host must have set aside.
    HugeMemfd(PageSize),
    /// A file: one without a name where this is a folder, else this one, which is made if it is missing.
    /// On hugetlbfs it is of huge pages. What it held is lost.
    File(PathBuf),
}

/// What the kernel makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Anonymous memory.
    Anonymous,
    /// Shared memory: a memfd, or a file on tmpfs.
    Shared,
    /// Huge pages: a memfd, or a file on hugetlbfs.
    Huge,
    /// A file on a disk.
    Disk,
}

impl MemoryKind {
    /// Whether missing pages of it can be waited for (userfaultfd).
    #[must_use]
    pub const fn can_be_watched(self) -> bool {
        !matches!(self, Self::Disk)
    }
}

impl std::fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Shared => "shared memory",
            Self::Huge => "hugetlb",
            Self::Disk => "a file on a disk",
        })
    }
}

/// `f_type` of file systems (linux/magic.h).
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// The file that a block of RAM lies in, if any, and what it is.
pub(super) struct Opened {
    pub(super) file: Option<File>,
    pub(super) kind: MemoryKind,
    pub(super) host_page: PageSize,
}

fn small_page() -> PageSize {
    PageSize::from_bytes(rustix::param::page_size() as u64).unwrap_or(PageSize::SMALL)
}

impl Backend {
    /// What it will be; where it is a file, as the file system says that the path is on.
    ///
    /// # Errors
    /// When the path is on no file system that there is.
    pub fn kind(&self) -> io::Result<(MemoryKind, PageSize)> {
        Ok(match self {
            Self::Anonymous => (MemoryKind::Anonymous, small_page()),
            Self::Memfd => (MemoryKind::Shared, small_page()),
            Self::HugeMemfd(page) => (MemoryKind::Huge, *page),
            Self::File(path) => {
                let missing = !path.exists();
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                let place = if missing { parent.unwrap_or(Path::new(".")) } else { path };
                of_file_system(&rustix::fs::statfs(place)?)
            }
        })
    }

    /// Opens the file of a block of `bytes`.
    pub(super) fn open(&self, bytes: u64) -> io::Result<Opened> {
        let (kind, host_page) = self.kind()?;
        let file = match self {
            Self::Anonymous => None,
            Self::Memfd => Some(memfd(MemfdFlags::empty())?),
            Self::HugeMemfd(page) => {
                // The size's logarithm, where the kernel looks for it (linux/memfd.h).
                let size = MemfdFlags::from_bits_retain(page.shift() << 26);
                Some(memfd(MemfdFlags::HUGETLB | size)?)
            }
            Self::File(path) => Some(open(path)?),
        };
        if let Some(file) = &file {
            // What it held is lost, also where it had this size.
            if file.metadata()?.len() > 0 {
                file.set_len(0)?;
            }
            file.set_len(bytes)?;
        }
        Ok(Opened { file, kind, host_page })
    }
}

fn memfd(flags: MemfdFlags) -> io::Result<File> {
    Ok(rustix::fs::memfd_create("umem-ram", flags | MemfdFlags::CLOEXEC)?.into())
}

/// A file of that name, or one without a name in a folder.
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::Mode;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    if !path.is_dir() {
        return Ok(rustix::fs::open(path, flags | OFlags::CREATE, mode)?.into());
    }
    Ok(rustix::fs::open(path, flags | OFlags::TMPFILE, mode)?.into())
}

fn of_file_system(system: &StatFs) -> (MemoryKind, PageSize) {
    // Bits of 32, which some architectures extend by their sign.
    match system.f_type as u64 & 0xffff_ffff {
        TMPFS => (MemoryKind::Shared, small_page()),
        HUGETLBFS => {
            let page = u64::try_from(system.f_bsize).ok().and_then(PageSize::from_bytes);
            (MemoryKind::Huge, page.unwrap_or(PageSize::HUGE_2M))
        }
        _ => (MemoryKind::Disk, small_page()),
    }
}
