//! The plane with the kernel's userfaultfd.
#![allow(unsafe_code)]

use crate::uffd::{Features, Userfaultfd};
use crate::{
    FaultCause, FaultError, FaultPlane, ForeignRegion, Installed, Interrupt, PageRequester,
    PageState, Placement, Waited,
};
use rustix::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use umem_memory::{
    Backend, GuestAddress, GuestRam, PageIndex, PageRange, PageSize, RamBlockSpec, RamLayout,
};

mod cache;
mod ends;
mod granules;
mod kept;
mod ways;

const PAGE: u64 = PageSize::SMALL.bytes();
const PAGES: u64 = 256;
const BASE: u64 = 0x8000_0000;

fn ram(backend: &Backend) -> GuestRam {
    // Two blocks, so that runs end where one does.
    let spec = |name: &str, first: u64, pages: u64| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(BASE + first * PAGE),
        bytes: pages * PAGE,
    };
    let specs = vec![spec("low", 0, 100), spec("high", 100, PAGES - 100)];
    GuestRam::new(RamLayout::new(PageSize::SMALL, specs).unwrap(), backend).unwrap()
}

fn content(page: PageIndex) -> Vec<u8> {
    let word = (page.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.iter().copied().cycle().take(PAGE as usize).collect()
}

/// Touches a page as a guest does, and gives what it holds.
fn touch(ram: &GuestRam, page: PageIndex) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    ram.read_at(GuestAddress(BASE + page.0 * PAGE), &mut bytes).unwrap();
    bytes
}

/// A requester that only notes.
struct Notes(Mutex<Sender<Vec<PageIndex>>>);

impl PageRequester for Notes {
    fn request(&self, pages: &[PageIndex]) {
        let _ = self.0.lock().unwrap().send(pages.to_vec());
    }
}

fn notes(plane: &FaultPlane) -> Receiver<Vec<PageIndex>> {
    let (sender, receiver) = channel();
    plane.set_requester(Arc::new(Notes(Mutex::new(sender))));
    receiver
}

/// Waits for something that other threads bring about; a bound only so that a failure shows.
fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "never: {what}");
        thread::yield_now();
    }
}

/// Number of threads that the kernel holds and has not told of.
fn held(plane: &FaultPlane) -> u64 {
    let fd = plane.uffd().unwrap().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let pending = info.lines().find_map(|line| line.strip_prefix("pending:")).unwrap();
    pending.trim().parse().unwrap()
}

/// The same with all that it has told of.
fn held_in_all(plane: &FaultPlane) -> u64 {
    let fd = plane.uffd().unwrap().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let total = info.lines().find_map(|line| line.strip_prefix("total:")).unwrap();
    total.trim().parse().unwrap()
}

/// Has the kernel read a byte of a page, as for a device: its error, if any.
fn kernel_reads(ram: &GuestRam, page: PageIndex) -> Result<u8, i32> {
    let address = ram.host_address(page).unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    // SAFETY: the address is in RAM, which is alive; the kernel copes with a page that fails.
    let sent = unsafe { libc::write(write.as_raw_fd(), address.as_ptr().cast(), 1) };
    if sent < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
    }
    let mut byte = [0];
    rustix::io::read(&read, &mut byte).unwrap();
    Ok(byte[0])
}

/// Threads touch all pages, each in an order of its own, while a source installs what is asked
/// for, and a background lane everything.
fn run_guest(plane: &Arc<FaultPlane>, ram: &GuestRam, threads: u64) -> u64 {
    let requests = notes(plane);
    plane.start_reader().unwrap();
    let installed = AtomicU64::new(0);
    let asked = thread::scope(|scope| {
        let source = scope.spawn(|| {
            let mut asked = Vec::new();
            for pages in requests {
                for page in pages {
                    asked.push(page);
                    let range = PageRange::one(page);
                    let done = plane.install(range, &content(page)).unwrap();
                    installed.fetch_add(done.installed, Ordering::Relaxed);
                }
            }
            asked
        });
        let guests: Vec<_> = (0..threads)
            .map(|number| {
                scope.spawn(move || {
                    for at in 0..PAGES {
                        let page = PageIndex((at * 37 + number * 11) % PAGES);
                        assert!(touch(ram, page) == content(page), "{page}");
                    }
                })
            })
            .collect();
        let background = scope.spawn(|| {
            for start in (0..PAGES).step_by(20).filter(|start| start % 100 < 60) {
                let range = PageRange::new(PageIndex(start), 20.min(PAGES - start));
                let bytes: Vec<u8> = range.pages().flat_map(content).collect();
                let done = plane.install(range, &bytes).unwrap();
                assert_eq!(done.installed + done.duplicate, range.count);
                installed.fetch_add(done.installed, Ordering::Relaxed);
            }
        });
        background.join().unwrap();
        guests.into_iter().for_each(|guest| guest.join().unwrap());
        // The source ends when nobody can ask any more.
        drop(notes(plane));
        source.join().unwrap()
    });
    assert_eq!(installed.load(Ordering::Relaxed), PAGES, "each page is installed once");
    let mut once = asked.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), asked.len(), "no page is asked for twice");
    let counts = plane.table().counts();
    assert_eq!((counts.present, counts.requested, counts.missing()), (PAGES, 0, 0));
    asked.len() as u64
}

#[test]
fn one_guest_thread_or_sixteen_find_every_page_right_and_each_is_installed_once() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        for threads in [1, 16] {
            let ram = ram(backend);
            ram.write_at(GuestAddress(BASE), &[0xff; 10 * PAGE as usize]).unwrap();
            let plane = FaultPlane::for_ram(&ram).unwrap();
            let asked = run_guest(&plane, &ram, threads);
            assert!(asked > 0);
            let stats = plane.stats();
            assert!(stats.userfault >= asked && stats.count == stats.userfault);
            assert!(stats.p50 > 0 && stats.p50 <= stats.p999 && stats.p999 <= stats.max);
            plane.release().unwrap();
            ram.clear().unwrap();
            assert!(touch(&ram, PageIndex(7)) == [0; PAGE as usize], "the kernel has it again");
        }
    }
}

/// As a KVM's vCPU does that is told which page it misses: it asks the plane, and tries again.
#[test]
fn who_is_signalled_asks_the_plane_and_finds_the_page() {
    let ram = ram(&Backend::Anonymous);
    let uffd = Userfaultfd::open_signalling().unwrap();
    let plane = FaultPlane::for_ram_with(&ram, uffd, Placement::default()).unwrap();
    let page = PageIndex(3);
    assert_eq!(kernel_reads(&ram, page), Err(libc::EFAULT), "it does not wait");
    let theirs = plane.clone();
    let source = std::thread::spawn(move || {
        while theirs.waiting().is_empty() {
            std::thread::yield_now();
        }
        theirs.install(PageRange::one(page), &content(page)).unwrap();
    });
    assert_eq!(plane.resolve(page, FaultCause::Vcpu, &Interrupt::new()), Waited::Present);
    source.join().unwrap();
    assert_eq!(kernel_reads(&ram, page), Ok(content(page)[0]));
    assert_eq!(kernel_reads(&ram, PageIndex(4)), Err(libc::EFAULT));
    assert_eq!(plane.stats().userfault, 0, "nobody was told of a fault");
}

#[test]
fn an_ordinary_user_s_userfaultfd_does_the_same() {
    let ram = ram(&Backend::Anonymous);
    let uffd = Userfaultfd::open_user_mode_only().unwrap();
    assert!(uffd.user_mode_only());
    let plane = FaultPlane::for_ram_with(&ram, uffd, Placement::default()).unwrap();
    // What this user cannot have: a system call that waits.
    assert_eq!(kernel_reads(&ram, PageIndex(3)), Err(libc::EFAULT));
    assert!(run_guest(&plane, &ram, 4) > 0);
    assert_eq!(kernel_reads(&ram, PageIndex(3)), Ok(content(PageIndex(3))[0]));
}
