//! Which pages hold something, asked of the kernel without touching them.

use super::Mapping;
use crate::pagemap::{PRESENT, Query, SWAPPED, ZERO_PAGE, scan};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Receives runs of bytes, by their start and end in the block, in order.
type Found<'a> = &'a mut dyn FnMut(u64, u64);

impl Mapping {
    /// Finds what is used between two offsets.
    pub(in crate::ram) fn populated(&self, from: u64, to: u64, found: Found<'_>) -> io::Result<()> {
        if let Some(file) = &self.file {
            return in_file(file, from, to, found);
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
        let mapping =
            Mapping::new(&layout.blocks()[0], Backend::Anonymous, BlockMarks::default()).unwrap();
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
