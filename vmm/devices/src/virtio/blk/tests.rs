mod in_flight;
mod model;

use super::*;
use crate::Lifecycle;
use crate::virtio::AllPresent;
use crate::virtio::testing::*;
use proptest::prelude::*;
use std::sync::Arc;
use umem_state::SaveRestore;

const SECTORS: u64 = 64;
const HEADER: u64 = DATA - 0x100;
const STATUS: u64 = DATA - 0x80;

fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..SECTORS).flat_map(|sector| [sector as u8; 512]).collect();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn start(disk: &Arc<Disk>) -> Driver<VirtioBlk> {
    let mut driver = Driver::new(VirtioBlk::new(disk.clone(), "serial"), Arc::new(AllPresent));
    driver.start(1);
    driver
}

fn disk(file: &tempfile::NamedTempFile, read_only: bool) -> Arc<Disk> {
    let disk = Arc::new(Disk::open(file.path(), read_only).unwrap());
    disk.lock().unwrap();
    disk
}

/// Does a request; its status and the bytes written.
#[track_caller]
fn request(
    driver: &mut Driver<VirtioBlk>,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, u16)],
) -> (u8, u32) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    driver.put(HEADER, &header);
    driver.put(STATUS, &[0xff]);
    let mut buffers = vec![(HEADER, 16, READ)];
    buffers.extend(data);
    buffers.push((STATUS, 1, WRITE));
    driver.submit(0, &buffers);
    let written = driver.await_used(0);
    (driver.bytes(STATUS, 1)[0], written)
}

#[test]
fn sectors_are_read_and_written_in_pieces() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start(&disk);
    let pieces = [(DATA, 700, WRITE), (DATA + 0x1000, 324, WRITE)];
    assert_eq!(request(&mut driver, 0, 5, &pieces), (0, 1025));
    assert_eq!(driver.bytes(DATA, 512), vec![5; 512]);
    assert_eq!(driver.bytes(DATA + 512, 188), vec![6; 188]);
    assert_eq!(driver.bytes(DATA + 0x1000, 325), [vec![6; 324], vec![0]].concat());
    driver.put(DATA, &[0xab; 512]);
    assert_eq!(request(&mut driver, 1, 63, &[(DATA, 100, READ), (DATA, 412, READ)]), (0, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (0, 1));
    assert_eq!(std::fs::read(file.path()).unwrap()[63 * 512..], [0xab; 512]);
    assert_eq!(request(&mut driver, 8, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(driver.bytes(DATA, 7), b"serial\0");
}

#[test]
fn requests_that_cannot_be_fail_and_the_file_keeps_its_size() {
    let file = file();
    let mut driver = start(&disk(&file, false));
    assert_eq!(request(&mut driver, 1, 63, &[(DATA, 1024, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 1, u64::MAX, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 1, u64::MAX / 512, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 1, u64::MAX / 2, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 0, 0, &[(DATA, 511, WRITE)]), (1, 1));
    assert_eq!(request(&mut driver, 99, 0, &[(DATA, 512, WRITE)]), (2, 1));
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), SECTORS * 512);
}

#[test]
fn a_read_only_disk_says_so_and_is_not_written() {
    let file = file();
    let before = std::fs::read(file.path()).unwrap();
    let mut driver = start(&disk(&file, true));
    driver.set(0x14, 0);
    assert_ne!(driver.get(0x10) & 1 << 5, 0);
    assert_eq!(request(&mut driver, 1, 0, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 0, 9, &[(DATA, 512, WRITE)]), (0, 513));
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn the_configuration_space_has_capacity_and_block_size() {
    let driver = start(&disk(&file(), false));
    assert_eq!((driver.get(0x100), driver.get(0x104)), (SECTORS as u32, 0));
    assert_eq!((driver.get(0x10c), driver.get(0x114)), (254, 512));
    assert_eq!(driver.get(0x1000), 0);
}

const FLUSH: u32 = 1 << 9;
const DISCARD: u32 = 1 << 13;
const WRITE_ZEROES: u32 = 1 << 14;

fn start_with(disk: &Arc<Disk>, features: u32) -> Driver<VirtioBlk> {
    let mut driver = Driver::new(VirtioBlk::new(disk.clone(), "serial"), Arc::new(AllPresent));
    driver.features = features;
    driver.start(1);
    driver
}

/// Does a discard (11) or writes zeroes (13) on ranges: sector, sectors, flags.
fn ranges(driver: &mut Driver<VirtioBlk>, kind: u32, all: &[(u64, u32, u32)]) -> u8 {
    let bytes: Vec<u8> = all
        .iter()
        .flat_map(|range| {
            let ends = [range.1.to_le_bytes(), range.2.to_le_bytes()].concat();
            [range.0.to_le_bytes().to_vec(), ends].concat()
        })
        .collect();
    driver.put(DATA, &bytes);
    request(driver, kind, 0, &[(DATA, bytes.len() as u32, READ)]).0
}

#[test]
fn zeroes_are_written_and_nothing_beside_them() {
    let file = file();
    let before = std::fs::read(file.path()).unwrap();
    let mut driver = start_with(&disk(&file, false), WRITE_ZEROES | FLUSH);
    for (flags, first) in [(0, 3), (1, 20)] {
        assert_eq!(ranges(&mut driver, 13, &[(first, 9, flags)]), 0);
        let (from, to) = (first as usize * 512, (first as usize + 9) * 512);
        let after = std::fs::read(file.path()).unwrap();
        assert_eq!(after[from..to], [0; 9 * 512]);
        assert_eq!(after[to..], before[to..]);
        assert_eq!(after[from - 512..from], before[from - 512..from]);
        assert_eq!(after.len(), before.len());
    }
}

#[test]
fn a_discard_touches_only_its_ranges_and_the_file_keeps_its_size() {
    let file = file();
    let before = std::fs::read(file.path()).unwrap();
    let mut driver = start_with(&disk(&file, false), DISCARD);
    assert_eq!(ranges(&mut driver, 11, &[(8, 16, 0), (40, 24, 0)]), 0);
    let after = std::fs::read(file.path()).unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(after[..8 * 512], before[..8 * 512]);
    assert_eq!(after[24 * 512..40 * 512], before[24 * 512..40 * 512]);
}

#[test]
fn ranges_that_cannot_be_are_refused_and_change_nothing() {
    let file = file();
    let before = std::fs::read(file.path()).unwrap();
    let mut driver = start_with(&disk(&file, false), DISCARD | WRITE_ZEROES);
    for kind in [11, 13] {
        assert_eq!(ranges(&mut driver, kind, &[(60, 5, 0)]), 1, "beyond the end");
        assert_eq!(ranges(&mut driver, kind, &[(u64::MAX, 1, 0)]), 1);
        assert_eq!(ranges(&mut driver, kind, &[(0, u32::MAX, 0)]), 1);
        assert_eq!(ranges(&mut driver, kind, &[(0, 8, 2)]), 2, "an unknown flag");
        assert_eq!(ranges(&mut driver, kind, &[(0, 1, 0); 17]), 1, "too many");
        assert_eq!(ranges(&mut driver, kind, &[]), 1);
        assert_eq!(request(&mut driver, kind, 0, &[(DATA, 15, READ)]).0, 1);
    }
    assert_eq!(ranges(&mut driver, 11, &[(0, 8, 0), (8, 8, 1)]), 2, "unmap is for zeroes");
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn discard_and_zeroes_are_for_drivers_that_accepted_them_and_disks_that_are_written() {
    let file = file();
    let mut driver = start(&disk(&file, false));
    assert_eq!(driver.get(0x10) & (DISCARD | WRITE_ZEROES), DISCARD | WRITE_ZEROES);
    let limits = [0x124, 0x128, 0x12c, 0x130, 0x134, 0x138].map(|at| driver.get(at));
    assert_eq!(limits, [1 << 21, 16, 1, 1 << 15, 1, 1]);
    assert_eq!(ranges(&mut driver, 11, &[(0, 8, 0)]), 2);
    assert_eq!(ranges(&mut driver, 13, &[(0, 8, 0)]), 2);
    drop(driver);
    let driver = start(&disk(&self::file(), true));
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10) & (DISCARD | WRITE_ZEROES), 0);
    assert_eq!(driver.get(0x124), 0);
}

#[test]
fn an_unlocked_disk_fails_requests_and_is_not_touched() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start(&disk);
    disk.unlock().unwrap();
    assert_eq!(request(&mut driver, 1, 7, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (1, 1));
    assert_eq!(std::fs::read(file.path()).unwrap()[7 * 512], 7);
    disk.lock().unwrap();
    assert_eq!(request(&mut driver, 1, 7, &[(DATA, 512, READ)]), (0, 1));
    assert_eq!(std::fs::read(file.path()).unwrap()[7 * 512], 0);
}

#[test]
fn one_open_disk_at_a_time_may_write() {
    let file = file();
    let open = |read_only| Disk::open(file.path(), read_only).unwrap();
    let (first, second, reader, other) = (open(false), open(false), open(true), open(true));
    first.lock().unwrap();
    assert!(matches!(second.lock(), Err(DiskError::Locked { .. })));
    assert!(matches!(reader.lock(), Err(DiskError::Locked { .. })));
    assert!(!second.is_locked());
    first.unlock().unwrap();
    reader.lock().unwrap();
    other.lock().unwrap();
    assert!(second.lock().is_err());
    drop((reader, other));
    second.lock().unwrap();
}

#[test]
fn files_that_are_no_disk_are_refused() {
    let file = file();
    file.as_file().set_len(513).unwrap();
    let error = Disk::open(file.path(), true).unwrap_err();
    assert!(matches!(error, DiskError::Size { bytes: 513, .. }), "{error}");
    let error = Disk::open(&file.path().join("none"), true).unwrap_err();
    assert!(matches!(error, DiskError::System { .. }), "{error}");
    let error = Disk::open(&file.path().with_extension("none"), true).unwrap_err();
    assert!(matches!(error, DiskError::Missing { .. }), "{error}");
}

#[test]
fn a_state_of_another_disk_is_refused() {
    let driver = start(&disk(&file(), false));
    driver.device.quiesce(soon()).unwrap();
    let mut saved = driver.device.save();
    driver.device.restore(saved.clone()).unwrap();
    saved.device.sectors += 1;
    assert!(driver.device.restore(saved).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_guest_does_the_device_comes_to_rest(hostile in hostile()) {
        let file = file();
        let disk = disk(&file, false);
        let device = VirtioBlk::new(disk, "");
        act(&mut Driver::new(device, Arc::new(AllPresent)), 1, &hostile);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), SECTORS * 512);
    }
}
