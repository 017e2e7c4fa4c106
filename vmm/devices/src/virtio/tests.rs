//! What devices write to guest memory is seen by dirty tracking, by whichever way they write it.

use super::testing::*;
use super::{AllPresent, Disk, Tap, VirtioBlk, VirtioConsole, VirtioDevice, VirtioNet, VirtioRng};
use crate::output::tests::Terminal;
use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use umem_memory::{
    Backend, DirtySource, GuestAddress, GuestRam, HostWrites, PageBitmap, PageIndex, PageSize,
    RamBlockSpec, RamLayout,
};

const PAGES: u64 = RAM_BYTES as u64 / 4096;
const PAGE: u64 = 0x1000;
/// The ring of used buffers of the first queue: flags, index and entries are the device's.
const USED: u64 = RAM_BASE + 0x2000;
/// Descriptors and the ring of available buffers, which the driver of the tests writes.
const DRIVEN: [u64; 2] = [RAM_BASE, RAM_BASE + 0x1000];

fn tracked_ram() -> GuestRam {
    let spec = RamBlockSpec {
        name: "ram".into(),
        guest_address: GuestAddress(RAM_BASE),
        bytes: RAM_BYTES as u64,
    };
    let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
    GuestRam::new(layout, &Backend::Anonymous).unwrap()
}

fn start<D: VirtioDevice>(device: D, queues: u64) -> (Driver<D>, HostWrites) {
    let ram = tracked_ram();
    let mut driver = Driver::with_ram(device, Arc::new(AllPresent), ram.memory().clone());
    driver.start(queues);
    let writes = ram.host_writes();
    writes.start().unwrap();
    (driver, writes)
}

/// Waits until all these pages are reported, and checks that no others are but those that the
/// driver wrote. The mark of a used index comes after it, so the driver may be ahead of it.
#[track_caller]
fn await_written(writes: &HostWrites, by_device: &[u64], by_driver: &[u64]) {
    let into = PageBitmap::new(PAGES);
    let page = |address: &u64| (address - RAM_BASE) / PAGE;
    await_that("a page is not marked", || {
        writes.collect(&into).unwrap();
        by_device.iter().all(|address| into.test(PageIndex(page(address))))
    });
    let all = DRIVEN.iter().chain(by_device).chain(by_driver);
    let allowed: BTreeSet<u64> = all.map(page).collect();
    let found: BTreeSet<u64> = (0..PAGES).filter(|&page| into.test(PageIndex(page))).collect();
    assert!(found.is_subset(&allowed), "{found:?} beyond {allowed:?}");
}

#[test]
fn random_bytes_and_the_used_ring_are_marked() {
    let (mut driver, writes) = start(VirtioRng::new(), 1);
    driver.submit(0, &[(DATA + 5 * PAGE - 8, 16, WRITE), (DATA + 9 * PAGE, 3000, WRITE)]);
    driver.await_used(0);
    let data = [DATA + 4 * PAGE, DATA + 5 * PAGE, DATA + 9 * PAGE];
    await_written(&writes, &[data.as_slice(), &[USED]].concat(), &[]);
}

#[test]
fn what_is_typed_is_marked_and_what_is_printed_is_not() {
    let typed: Box<dyn Read + Send> = Box::new(Cursor::new(b"typed".to_vec()));
    let device = VirtioConsole::new("test0", Some(typed), Box::new(Terminal::default())).unwrap();
    let (mut driver, writes) = start(device, 2);
    driver.submit(0, &[(DATA, 30, WRITE)]);
    driver.await_used(0);
    let [table, available, used] = Driver::<VirtioConsole>::rings(1);
    // Both queues count as kicked at the start, and both get their flags.
    await_written(&writes, &[DATA, USED], &[used]);
    driver.submit(1, &[(DATA, 5, READ)]);
    driver.await_used(1);
    await_written(&writes, &[used], &[table, available, USED]);
}

#[test]
fn a_frame_to_the_guest_is_marked_and_one_from_it_is_not() {
    let (here, there) = UnixDatagram::pair().unwrap();
    let tap = Tap::from_fd(here.as_raw_fd()).unwrap();
    let (mut driver, writes) = start(VirtioNet::new("net", tap, [2; 6]).unwrap(), 2);
    there.send(&[9; 112]).unwrap();
    driver.submit(0, &[(DATA + 4 * PAGE - 8, 1526, WRITE)]);
    assert_eq!(driver.await_used(0), 112);
    driver.submit(1, &[(DATA + 8 * PAGE, 112, READ)]);
    driver.await_used(1);
    let [table, available, used] = Driver::<VirtioNet>::rings(1);
    let by_device = [DATA + 3 * PAGE, DATA + 4 * PAGE, USED, used];
    await_written(&writes, &by_device, &[table, available]);
}

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + PAGE;

/// Does a request of a disk of 64 sectors, of which the file has lost what is behind `file_bytes`.
fn disk_request(kind: u32, file_bytes: u64, data: &[(u64, u32, u16)], marked: &[u64]) -> u8 {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 64 * 512]).unwrap();
    let disk = Arc::new(Disk::open(file.path(), false).unwrap());
    disk.lock().unwrap();
    file.as_file().set_len(file_bytes).unwrap();
    let (mut driver, writes) = start(VirtioBlk::new(disk, "serial"), 1);
    driver.put(HEADER, &[kind.to_le_bytes().as_slice(), &[0; 12]].concat());
    let buffers = [&[(HEADER, 16, READ)], data, &[(STATUS, 1, WRITE)]].concat();
    driver.submit(0, &buffers);
    driver.await_used(0);
    await_written(&writes, &[marked, &[STATUS, USED]].concat(), &[HEADER]);
    driver.bytes(STATUS, 1)[0]
}

#[test]
fn what_the_kernel_reads_from_a_disk_is_marked() {
    let data = [(DATA + 3 * PAGE - 100, 512, WRITE), (DATA + 8 * PAGE, 2 * PAGE as u32, WRITE)];
    let pages = [2, 3, 8, 9].map(|page| DATA + page * PAGE);
    assert_eq!(disk_request(0, 64 * 512, &data, &pages), 0);
}

#[test]
fn a_read_that_fails_half_way_is_marked() {
    let data = [(DATA + 8 * PAGE, 2 * PAGE as u32, WRITE)];
    assert_eq!(disk_request(0, 512, &data, &[DATA + 8 * PAGE, DATA + 9 * PAGE]), 1);
}

#[test]
fn a_disk_s_name_is_marked_and_what_it_stores_is_not() {
    assert_eq!(disk_request(8, 64 * 512, &[(DATA + 4 * PAGE, 20, WRITE)], &[DATA + 4 * PAGE]), 0);
    assert_eq!(disk_request(1, 64 * 512, &[(DATA + 4 * PAGE, 512, READ)], &[]), 0);
}

/// A device fills buffers all over while another thread copies the pages that are reported.
#[test]
fn a_mirror_of_what_is_reported_becomes_the_memory() {
    let ram = tracked_ram();
    let (device, present) = (VirtioRng::new(), Arc::new(AllPresent));
    let mut driver = Driver::with_ram(device, present, ram.memory().clone());
    let writes = ram.host_writes();
    writes.start().unwrap();
    let mut mirror = vec![0; RAM_BYTES];
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            driver.start(1);
            for request in 0..300u64 {
                let at = DATA + request * 0x2_6789 % 0xe_0000;
                driver.submit(0, &[(at, 700, WRITE), (at + 0x5000, 20, WRITE)]);
                driver.await_used(0);
            }
            // At rest, so that nothing comes after the last look.
            use crate::Lifecycle;
            driver.device.quiesce(soon()).unwrap();
            finished.store(true, Ordering::Release);
        });
        loop {
            let last = finished.load(Ordering::Acquire);
            let dirty = PageBitmap::new(PAGES);
            writes.collect(&dirty).unwrap();
            for page in (0..PAGES).filter(|&page| dirty.test(PageIndex(page))) {
                let bytes = &mut mirror[(page * PAGE) as usize..][..PAGE as usize];
                ram.read_at(GuestAddress(RAM_BASE + page * PAGE), bytes).unwrap();
            }
            if last {
                break;
            }
        }
    });
    let mut now = vec![0; RAM_BYTES];
    ram.read_at(GuestAddress(RAM_BASE), &mut now).unwrap();
    assert!(mirror == now, "a write was not reported");
}
