//! The file under its temporary name, until it is whole.
//!
//! It lies beside the file to be, as `.NAME.partial`, so that a rename within one folder makes it that
//! file. Whoever writes it holds a lock on it; one that nobody holds was left by a crash and is replaced.
//! Only the holder of a file's lock removes or renames its name, so nobody removes another's.

use crate::error::SnapshotError;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How often a file that vanishes under our hands is made anew.
const ATTEMPTS: u32 = 16;

/// A file that gets its name once it is whole; dropped before, it is removed.
#[derive(Debug)]
pub(crate) struct Partial {
    /// As the caller gave it, for messages.
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    partial: OsString,
    file: File,
    /// It has its own name, or none any more.
    done: bool,
}

/// What came of looking for the partial file's name.
enum Found {
    Ours(File),
    Busy,
    Again,
}

impl Partial {
    /// An empty file, readable by this user alone.
    pub(crate) fn create(path: &Path) -> Result<Self, SnapshotError> {
        let wrong = |why| SnapshotError::Path { path: path.into(), why };
        let failed = |what, error: Errno| SnapshotError::System {
            path: path.into(),
            what,
            source: error.into(),
        };
        let name = path.file_name().ok_or_else(|| wrong("it has no file name"))?.to_owned();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(|error| failed("open its folder", error))?;
        match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {}
                FileType::Symlink => {
                    return Err(wrong("it is a symbolic link; give the path of the file itself"));
                }
                _ => return Err(wrong("something other than a file is there")),
            },
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("look at it", error)),
        }
        let mut partial = OsString::from(".");
        partial.push(&name);
        partial.push(".partial");
        for _ in 0..ATTEMPTS {
            match find(&folder, &partial).map_err(|error| failed("make its partial file", error))? {
                Found::Ours(file) => {
                    let path = path.into();
                    return Ok(Self { path, folder, name, partial, file, done: false });
                }
                Found::Busy => break,
                Found::Again => {}
            }
        }
        Err(SnapshotError::Busy { path: path.into(), partial: partial.into() })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file to be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file, which is whole and on disk, its name.
    pub(crate) fn publish(mut self) -> Result<(), SnapshotError> {
        let failed = |path: &Path, what, error: Errno| SnapshotError::System {
            path: path.into(),
            what,
            source: error.into(),
        };
        rustix::fs::renameat(&self.folder, &self.partial, &self.folder, &self.name)
            .map_err(|error| failed(&self.path, "give the finished file its name", error))?;
        self.done = true;
        rustix::fs::fsync(&self.folder).map_err(|error| {
            failed(&self.path, "bring the name of the finished file to disk", error)
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // Without a name it takes no room once it is closed; a failure leaves it to be replaced.
            let _ = rustix::fs::unlinkat(&self.folder, &self.partial, AtFlags::empty());
        }
    }
}

/// Makes the file, or replaces one that nobody holds.
fn find(folder: &OwnedFd, name: &OsString) -> Result<Found, Errno> {
    let common = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(
        folder,
        name,
        common | OFlags::CREATE | OFlags::EXCL,
        Mode::RUSR | Mode::WUSR,
    );
    let file = match made {
        Ok(file) => File::from(file),
        Err(Errno::EXIST) => return replace(folder, name, common),
        Err(error) => return Err(error),
    };
    // Between the two steps another may have taken it for one that a crash left.
    match lock(&file)? {
        true if names(folder, name, &file)? => Ok(Found::Ours(file)),
        _ => Ok(Found::Again),
    }
}

fn replace(folder: &OwnedFd, name: &OsString, flags: OFlags) -> Result<Found, Errno> {
    let old = match rustix::fs::openat(folder, name, flags | OFlags::NONBLOCK, Mode::empty()) {
        Ok(old) => File::from(old),
        Err(Errno::NOENT) => return Ok(Found::Again),
        Err(error) => return Err(error),
    };
    if !lock(&old)? {
        return Ok(Found::Busy);
    }
    if names(folder, name, &old)? {
        rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
    }
    Ok(Found::Again)
}

/// Whether the file is ours from now on.
fn lock(file: &File) -> Result<bool, Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a name is still this file's.
fn names(folder: &OwnedFd, name: &OsString, file: &File) -> Result<bool, Errno> {
    let ours = rustix::fs::fstat(file)?;
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
