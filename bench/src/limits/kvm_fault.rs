//! The shortest way of a page that a guest under KVM lacks: a program in the guest writes to it, KVM's fault goes to a
//! userfaultfd, and a thread of this process places the page by `UFFDIO_COPY`. No network, no table, no protocol.
#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use rustix::time::Timespec;

use super::uffd::{Faults, Watched};
use crate::cores;
use crate::vm::{Ended, Level, SmallGuest};

/// Pages that are touched, one after the other.
const PAGES: u32 = 4096;
const PAGE: usize = 4096;
/// Guest address of the first.
const AT: u32 = 16 << 20;
/// Where the guest says that it is done.
const PORT: u16 = 0x10;
/// How often the thread looks whether it is still needed.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// `mov edi, AT; mov ecx, PAGES; again: mov [rdi], al; add edi, 4096; dec ecx; jnz again; out PORT, al` for 64-bit
/// mode (Intel SDM, volume 2).
fn code() -> Vec<u8> {
    let again: [u8; 12] = [0x88, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf4];
    let parts: [&[u8]; 6] = [
        &[0xbf],
        &AT.to_le_bytes(),
        &[0xb9],
        &PAGES.to_le_bytes(),
        &again,
        &[0xe6, PORT.to_le_bytes()[0]],
    ];
    parts.concat()
}

/// Places pages as they are needed until `over`; how many.
fn answer(watched: &Watched, over: &AtomicBool) -> Result<u32> {
    let content = [0x5a; PAGE];
    let mut placed = 0;
    while !over.load(Ordering::Acquire) {
        if let Some(offset) = watched.wait(&LOOK)? {
            watched.place(offset, &content)?;
            placed += 1;
        }
    }
    Ok(placed)
}

/// Time of one touch, as the mean of all; guest and thread on these cores or on those of the kernel's choice.
///
/// # Errors
/// When there is no KVM, or no userfaultfd that hears of its faults.
pub(crate) fn mean(on: Option<[usize; 2]>) -> Result<Duration> {
    let guest = thread::Builder::new().name("kvm-fault".into()).spawn(move || touch(on))?;
    guest.join().map_err(|_| anyhow!("the thread of the guest failed"))?
}

fn touch(on: Option<[usize; 2]>) -> Result<Duration> {
    on.map_or(Ok(()), |[core, _]| cores::pin(None, core))?;
    let bytes = PAGES as usize * PAGE;
    let watched = Watched::new(bytes, Faults::Kernel)?;
    let mut guest = SmallGuest::new(&code(), Level::Program)?;
    // SAFETY: the memory is that of `watched`, which lives longer than the guest and refers to it by address only.
    unsafe { guest.add_memory(AT.into(), watched.address(), bytes as u64)? };
    let over = AtomicBool::new(false);
    let (took, placed) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let pinned = on.map_or(Ok(()), |[_, core]| cores::pin(None, core));
            let placed = pinned.and_then(|()| answer(&watched, &over));
            // A guest that nobody answers any more goes on with pages of zeroes.
            if placed.is_err() {
                watched.forget();
            }
            placed
        });
        let start = Instant::now();
        let ended = guest.run();
        let took = start.elapsed();
        over.store(true, Ordering::Release);
        let placed = reader.join().map_err(|_| anyhow!("the thread that places pages failed"));
        ensure!(ended? == Ended::Port(PORT), "the guest did not say that it was done");
        anyhow::Ok((took, placed??))
    })?;
    drop(guest);
    ensure!(placed == PAGES, "{placed} faults of {PAGES} were seen");
    Ok(took / PAGES)
}

#[cfg(test)]
mod tests {
    use super::mean;

    #[test]
    fn every_touch_is_a_fault_that_takes_time() {
        match mean(None) {
            Ok(mean) => assert!(!mean.is_zero()),
            Err(error) => {
                let why = format!("{error:#}");
                assert!(why.contains("/dev/kvm") || why.contains("userfaultfd"), "{why}");
            }
        }
    }
}
