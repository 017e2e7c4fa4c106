//! The kernel's map of a process's pages, asked with `PAGEMAP_SCAN` (Linux 6.7; Documentation/
//! admin-guide/mm/pagemap.rst).
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use std::ffi::c_void;
use std::fs::File;

/// The page was written since it was write-protected, or was not write-protected.
pub const WRITTEN: u64 = 1 << 1;
/// The page is in memory.
pub const PRESENT: u64 = 1 << 3;
/// Swapped out, or a mark such as "poisoned", which must not pass for zeroes either.
pub const SWAPPED: u64 = 1 << 4;
/// The page is the kernel's one page of zeroes.
pub const ZERO_PAGE: u64 = 1 << 5;

/// Write-protect the pages that are found, each at the moment it is found.
pub const PROTECT_FOUND: u64 = 1;
/// Fail unless the memory is registered with a userfaultfd that has `WP_ASYNC`.
pub const CHECK_ASYNC: u64 = 2;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<Region>() == 24 && size_of::<Arguments>() == 96);

/// Gives the number of regions found.
struct Call<'a>(&'a mut Arguments);

// SAFETY: the opcode is `_IOWR('f', 16, struct pm_scan_arg)` and the pointer is to one; the
// kernel writes `walk_end` in it and no more regions than `vec_len` to `vec`, which `scan` sets.
unsafe impl Ioctl for Call<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        rustix::ioctl::opcode::read_write::<Arguments>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        usize::try_from(out).map_err(|_| Errno::INVAL)
    }
}

/// Which pages are looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query {
    /// [`PROTECT_FOUND`], [`CHECK_ASYNC`].
    pub flags: u64,
    /// Categories that a page must have none of.
    pub none_of: u64,
    /// Categories of which a page must have one at least.
    pub any_of: u64,
}

/// Finds pages between two addresses of the process whose `/proc/PID/pagemap` it is, in order, as
/// runs with start and end. What was found before an error was reported.
///
/// # Errors
/// `ENOTTY` or `EINVAL` where the kernel has no such call.
pub fn scan(
    pagemap: &File,
    mut from: u64,
    to: u64,
    query: Query,
    found: &mut dyn FnMut(u64, u64),
) -> rustix::io::Result<()> {
    let mut regions = [Region::default(); 512];
    while from < to {
        let mut arguments = Arguments {
            size: size_of::<Arguments>() as u64,
            flags: query.flags,
            start: from,
            end: to,
            vec: regions.as_mut_ptr().addr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: query.none_of,
            category_mask: query.none_of,
            category_anyof_mask: query.any_of,
            return_mask: query.any_of,
            ..Arguments::default()
        };
        // SAFETY: `vec` and `vec_len` are those of `regions`, which outlives the call.
        let count = match unsafe { rustix::ioctl::ioctl(pagemap, Call(&mut arguments)) } {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        for region in regions.iter().take(count) {
            found(region.start, region.end);
        }
        if arguments.walk_end <= from {
            return Err(Errno::INVAL);
        }
        from = arguments.walk_end;
    }
    Ok(())
}
