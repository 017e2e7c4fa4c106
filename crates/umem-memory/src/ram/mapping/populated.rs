//! Which pages hold something, asked of the kernel without touching them.

use super::Mapping;
use crate::pagemap::{PRESENT, Query, SWAPPED, ZERO_PAGE, scan};
use crate::ram::MemoryKind;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Receives runs of bytes, by their start and end in the block, in order.
type Found<'a> = &'a mut dyn FnMut(u64, u64);

impl Mapping {
    /// Finds what is used between two offsets.
    pub(in crate::ram) fn populated(&self, from: u64, to: u64, found: Found<'_>) -> io::Result<()> {
        match (&self.file, self.kind) {
            (Some(file), MemoryKind::Shared) => return in_file(file, from, to, found),
            (Some(file), MemoryKind::Huge) => return self.in_huge_pages(file, from, to, found),
            // What a disk's file system calls a hole may be about to be written.
            (_, MemoryKind::Disk) => {
                found(from, to);
                return Ok(());
            }
            _ => {}
        }
        let base = self.region.as_ptr().addr() as u64;
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut report = |start: u64, end: u64| found(start - base, end - base);
        match scan(&pagemap, base + from, base + to, USED, &mut report) {
            // A kernel before 6.7.
            Err(Errno::NOTTY | Errno::INVAL) => {
                entries(&pagemap, base + from, base + to, &mut report)
            }
            result => Ok(result?),
        }
    }
}

impl Mapping {
    /// A file of huge pages does not tell its holes. Its pages came in through one of our two mappings, which
    /// both tell; if they know of fewer than the file has, all of it counts as used.
    fn in_huge_pages(&self, file: &File, from: u64, to: u64, found: Found<'_>) -> io::Result<()> {
        let page = self.host_page.bytes();
        let mut used = BTreeSet::new();
        let pagemap = File::open("/proc/self/pagemap")?;
        let alias = self.alias.as_ref().map(|alias| alias.as_ptr().addr() as u64);
        for base in [Some(self.region.as_ptr().addr() as u64), alias].into_iter().flatten() {
            let mut report = |start: u64, end: u64| {
                used.extend((start - base) / page..(end - base).div_ceil(page));
            };
            let end = base + self.region.size() as u64;
            match scan(&pagemap, base, end, USED, &mut report) {
                // A kernel before 6.7.
                Err(Errno::NOTTY | Errno::INVAL) => entries(&pagemap, base, end, &mut report)?,
                result => result?,
            }
        }
        /// Bytes that `st_blocks` counts.
        const BLOCK: u64 = 512;
        if (used.len() as u64) < file.metadata()?.blocks() * BLOCK / page {
            found(from, to);
            return Ok(());
        }
        for (start, end) in used.into_iter().map(|at| (at * page, (at + 1) * page)) {
            let (start, end) = (start.max(from), end.min(to));
            if start < end {
                found(start, end);
            }
        }
        Ok(())
    }
}

/// A file of shared memory has pages that this process does not map: its holes tell.
fn in_file(file: &File, from: u64, to: u64, found: Found<'_>) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < to => start.max(at),
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(to);
        if end <= start {
            // A hole made meanwhile: go on behind the page.
            at = start + rustix::param::page_size() as u64;
            continue;
        }
        found(start, end);
        at = end;
    }
    Ok(())
}

/// Pages in use; the kernel's page of zeroes is none.
const USED: Query = Query { flags: 0, none_of: ZERO_PAGE, any_of: PRESENT | SWAPPED };

/// Reads the map of pages, an entry of 8 bytes a page.
fn entries(pagemap: &File, from: u64, to: u64, found: Found<'_>) -> io::Result<()> {
    /// Present, swapped, of a file.
    const USED: u64 = 1 << 63 | 1 << 62 | 1 << 61;
    const ENTRY: usize = 8;
    let page = rustix::param::page_size() as u64;
    let mut buffer = [0; 512 * ENTRY];
    let mut at = from;
    while at < to {
        let pages = ((to - at) / page).clamp(1, 512);
        let wanted = buffer.get_mut(..pages as usize * ENTRY).unwrap_or_default();
        pagemap.read_exact_at(wanted, at / page * ENTRY as u64)?;
        for entry in wanted.chunks_exact(ENTRY) {
            let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
            if entry & USED != 0 {
                found(at, at + page);
            }
            at += page;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::BlockMarks;
    use crate::{Backend, GuestAddress, PageSize, RamBlockSpec, RamLayout};

    #[test]
    fn both_ways_of_asking_say_the_same() {
        let spec =
            RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0), bytes: 8 << 20 };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        let opened = Backend::Anonymous.open(8 << 20).unwrap();
        let mapping = Mapping::new(&layout.blocks()[0], opened, BlockMarks::default()).unwrap();
        let page = rustix::param::page_size() as u64;
        mapping.advise(rustix::mm::Advice::LinuxNoHugepage).unwrap();
        for index in [0, 1, 5, 700, 701, 2047] {
            let at = mapping.address(index * page).unwrap();
            // SAFETY: a byte of the mapping, which nobody else uses.
            unsafe { at.write(1) };
        }
        let base = mapping.region.as_ptr().addr() as u64;
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let end = base + (8 << 20);
        entries(&pagemap, base, end, &mut |start, end| {
            assert_eq!(end - start, page);
            one.push((start - base) / page);
        })
        .unwrap();
        assert_eq!(one, [0, 1, 5, 700, 701, 2047]);
        let by_scan = scan(&pagemap, base, end, USED, &mut |start, end| {
            two.extend((start - base) / page..(end - base) / page);
        });
        if by_scan != Err(Errno::NOTTY) {
            assert_eq!((by_scan, two), (Ok(()), one));
        }
    }
}
