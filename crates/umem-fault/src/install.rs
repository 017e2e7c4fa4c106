//! Putting pages in place: table first, then the kernel, then the table again.

use crate::error::FaultError;
use crate::plane::{FaultPlane, Installed};
use crate::state::Arrival;
use crate::uffd::{Partial, Userfaultfd};
use rustix::io::Errno;
use umem_memory::{PageIndex, PageRange};

/// Pages that go to the kernel in one call at most: others may wait for one of them.
const LONGEST_RUN: u64 = 256;

/// Pages that this thread won the right to install, as one run.
struct Run<'a> {
    plane: &'a FaultPlane,
    uffd: &'a Userfaultfd,
    arrival: Arrival,
    /// Hears of each run of pages once they are in place.
    placed: &'a dyn Fn(PageRange),
}

impl Run<'_> {
    /// Has the kernel install a run, and says in the table what became of each of its pages.
    fn place(
        &self,
        run: PageRange,
        act: impl FnOnce(&Userfaultfd, u64, PageRange) -> Result<(), Partial>,
    ) -> Result<(), FaultError> {
        let table = &self.plane.table;
        let (done, failure) = match self.plane.regions.address(run) {
            None => (0, Some(FaultError::NoPages(run))),
            Some(address) => match act(self.uffd, address, run) {
                Ok(()) => (run.count, None),
                Err(Partial { done, error }) => {
                    let done = done >> self.plane.regions.page_size().shift();
                    (done, Some(failure(PageIndex(run.start.0 + done), error)))
                }
            },
        };
        let run_done = PageRange::new(run.start, done);
        let mut failure = failure;
        for (at, page) in (0..).zip(run.pages()) {
            if at < done && self.plane.granules.is_some() {
                // Until its granule is whole.
            } else if at < done {
                table.finish_install(page, self.arrival);
                let waited = self.plane.note_arrival(page, self.arrival);
                if waited && self.arrival == Arrival::Present && self.plane.place.in_cache() {
                    self.plane.map_present(page);
                }
            } else {
                table.abort_install(page);
            }
        }
        if let Some(granules) = &self.plane.granules
            && done > 0
            && let Err(error) = self.plane.granules_written(granules, run_done, self.arrival)
        {
            failure = Some(error);
        }
        if done > 0 {
            (self.placed)(run_done);
        }
        failure.map_or(Ok(()), Err)
    }
}

fn failure(page: PageIndex, error: Errno) -> FaultError {
    match error {
        Errno::EXIST => FaultError::Corrupt { page },
        error => FaultError::Install { page, error: error.into() },
    }
}

/// Finds the runs of a range that this call wins, and installs each.
fn each_run(
    plane: &FaultPlane,
    range: PageRange,
    arrival: Arrival,
    placed: &dyn Fn(PageRange),
    mut act: impl FnMut(&Userfaultfd, u64, PageRange) -> Result<(), Partial>,
) -> Result<Installed, FaultError> {
    if plane.regions.address(range).is_none() {
        return Err(FaultError::NoPages(range));
    }
    let uffd = plane.uffd()?;
    let run = Run { plane, uffd: &uffd, arrival, placed };
    let mut result = Installed::default();
    let mut won = PageRange::new(range.start, 0);
    for page in range.pages() {
        let wins = plane.table.begin_install(page);
        if wins && won.count > 0 && won.count < LONGEST_RUN {
            won.count += 1;
            continue;
        }
        // The page ends a run: it belongs to others, or begins the next.
        let before = std::mem::replace(&mut won, PageRange::new(page, u64::from(wins)));
        if before.count > 0
            && let Err(error) = run.place(before, &mut act)
        {
            if wins {
                plane.table.abort_install(page);
            }
            return Err(error);
        }
        result.duplicate += u64::from(!wins);
    }
    if won.count > 0 {
        run.place(won, &mut act)?;
    }
    result.installed = range.count - result.duplicate;
    Ok(result)
}

pub(crate) fn bytes(
    plane: &FaultPlane,
    range: PageRange,
    bytes: &[u8],
    placed: &dyn Fn(PageRange),
) -> Result<Installed, FaultError> {
    let shift = plane.regions.page_size().shift();
    let expected = range.count.saturating_mul(1 << shift);
    if u64::try_from(bytes.len()) != Ok(expected) {
        return Err(FaultError::Length { pages: range.count, expected, bytes: bytes.len() });
    }
    each_run(plane, range, Arrival::Present, placed, |uffd, address, run| {
        let from = ((run.start.0 - range.start.0) << shift) as usize;
        let to = from + (run.count << shift) as usize;
        match bytes.get(from..to) {
            Some(bytes) => plane.place.put(uffd, address, run, bytes),
            None => Err(Partial { done: 0, error: Errno::INVAL }),
        }
    })
}

pub(crate) fn fill(
    plane: &FaultPlane,
    range: PageRange,
    byte: u8,
    placed: &dyn Fn(PageRange),
) -> Result<Installed, FaultError> {
    let shift = plane.regions.page_size().shift();
    let mut buffer = Vec::new();
    each_run(plane, range, Arrival::Present, placed, |uffd, address, run| {
        if byte == 0 && plane.place.in_cache() {
            // A hole in the file: mapped, as zeroes, when it is touched.
            return Ok(());
        }
        if byte == 0 {
            match uffd.zero(address, run.count << shift) {
                // Memory of a kind that has no page of zeroes.
                Err(Partial { done: 0, error: Errno::INVAL }) => {}
                result => return result,
            }
        }
        if plane.place.in_cache() {
            let bytes = vec![byte; (run.count << shift) as usize];
            return plane.place.put(uffd, address, run, &bytes);
        }
        copies(uffd, address, run.count << shift, byte, &mut buffer, 1 << shift)
    })
}

/// Copies a byte all over a range, a page or more at a time.
fn copies(
    uffd: &Userfaultfd,
    address: u64,
    len: u64,
    byte: u8,
    buffer: &mut Vec<u8>,
    page: u64,
) -> Result<(), Partial> {
    let piece = page.max(64 << 10).min(len);
    if (buffer.len() as u64) < piece {
        buffer.resize(piece as usize, byte);
    }
    let mut done = 0;
    while done < len {
        let now = (len - done).min(buffer.len() as u64);
        let bytes = buffer.get(..now as usize).unwrap_or_default();
        uffd.copy(address + done, bytes)
            .map_err(|partial| Partial { done: done + partial.done, ..partial })?;
        done += now;
    }
    Ok(())
}

pub(crate) fn unreadable(
    plane: &FaultPlane,
    range: PageRange,
    placed: &dyn Fn(PageRange),
) -> Result<Installed, FaultError> {
    each_run(plane, range, Arrival::Poisoned, placed, |_, _, run| match plane.granules {
        None => poison(plane, run),
        // With the rest of its granule.
        Some(_) => Ok(()),
    })
}

/// Makes pages fail for whoever touches them, where the kernel can.
pub(crate) fn poison(plane: &FaultPlane, run: PageRange) -> Result<(), Partial> {
    use crate::uffd::Features;
    let failed = |error| Partial { done: 0, error };
    let uffd = plane.uffd().map_err(|_| failed(Errno::BADF))?;
    if !uffd.features().contains(Features::POISON) {
        log::warn!("this kernel cannot make pages fail: {} pages stay absent", run.count);
        return Ok(());
    }
    let address = plane.regions.address(run).ok_or_else(|| failed(Errno::INVAL))?;
    uffd.poison(address, run.count << plane.regions.page_size().shift())
}

/// Fills a discarded page with zeroes, unless another thread is at it.
pub(crate) fn discarded(plane: &FaultPlane, page: PageIndex) -> Result<(), FaultError> {
    let uffd = plane.uffd()?;
    if !plane.table.begin_zero(page) {
        return Ok(());
    }
    let run = Run { plane, uffd: &uffd, arrival: Arrival::Present, placed: &|_| () };
    let bytes = plane.regions.page_size().bytes();
    run.place(PageRange::one(page), |uffd, address, _| match uffd.zero(address, bytes) {
        Err(Partial { done: 0, error: Errno::INVAL }) => {
            copies(uffd, address, bytes, 0, &mut Vec::new(), bytes)
        }
        result => result,
    })
}
