//! Whole files: written, read, altered, cut.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use umem_memory::{PageIndex, PageRange, PageSize};
use umem_snapshot::{Limits, Snapshot, SnapshotError, SnapshotWriter};
use umem_wire::{Block, MachineDescription, PageKind};

const PAGE: usize = 4096;
const LIMITS: Limits = Limits { ram_bytes: 1 << 30 };
const STATE: &[u8] = b"state of the devices";

fn machine(pages: u64) -> MachineDescription {
    let block = Block { name: "ram".into(), address: 0x8000_0000, bytes: pages * PAGE as u64 };
    MachineDescription {
        board: "test".into(),
        vcpus: 1,
        processor: vec![],
        page_bytes: PAGE as u32,
        blocks: vec![block],
        devices: vec!["console".into()],
        program: "snapshot test".into(),
    }
}

/// Content by a number: odd numbers have content, even ones repeat a byte.
fn content(number: u64) -> Vec<u8> {
    if number.is_multiple_of(2) {
        return vec![(number / 2) as u8; PAGE];
    }
    (0..PAGE as u64).map(|at| (at.wrapping_mul(number) >> 3) as u8 ^ number as u8).collect()
}

fn writer(path: &Path, pages: u64) -> SnapshotWriter {
    SnapshotWriter::create(path, &machine(pages), PageSize::SMALL, pages).unwrap()
}

/// A folder with a whole snapshot of these pages in it.
fn snapshot(pages: &[u64]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let mut writer = writer(&path, pages.len() as u64);
    let bytes: Vec<u8> = pages.iter().flat_map(|number| content(*number)).collect();
    writer.write(PageIndex(0), &bytes).unwrap();
    writer.finish(STATE).unwrap();
    (folder, path)
}

fn open(path: &Path) -> Result<Snapshot, SnapshotError> {
    Snapshot::open(path, LIMITS)
}

fn page(snapshot: &Snapshot, page: u64) -> Result<Vec<u8>, SnapshotError> {
    match snapshot.kind(PageIndex(page)).unwrap() {
        PageKind::Fill(byte) => Ok(vec![byte; PAGE]),
        _ => {
            let mut bytes = vec![0; PAGE];
            snapshot.read(PageIndex(page), &mut bytes).map(|()| bytes)
        }
    }
}

fn assert_holds(path: &Path, pages: &[u64]) {
    let snapshot = open(path).unwrap();
    assert_eq!(snapshot.pages(), pages.len() as u64);
    assert_eq!(snapshot.machine(), &machine(pages.len() as u64));
    assert_eq!(snapshot.state(), STATE);
    for (at, number) in pages.iter().enumerate() {
        assert!(page(&snapshot, at as u64).unwrap() == content(*number), "page {at}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn flip(path: &Path, at: u64, mask: u8) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

#[test]
fn pages_come_back_as_they_were_written_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let mut writer = writer(&path, 6);
    writer.fill(PageRange::new(PageIndex(0), 6), 0).unwrap();
    assert_eq!(
        writer.write(PageIndex(1), &[content(3), content(5), content(4)].concat()).unwrap(),
        2
    );
    writer.sync().unwrap();
    // Content becomes other content, a repeated byte, and a repeated byte content.
    writer.write(PageIndex(1), &[content(9), content(8), content(7)].concat()).unwrap();
    writer.write(PageIndex(5), &content(11)).unwrap();
    let finished = writer.finish(STATE).unwrap();
    assert_holds(&path, &[0, 9, 8, 7, 0, 11]);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((finished.stored, finished.bytes), (3, metadata.len()));
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "it is the guest's memory");
}

#[test]
fn pages_of_one_byte_take_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let mut writer = writer(&path, 20_000);
    writer.fill(PageRange::new(PageIndex(0), 20_000), 0).unwrap();
    for at in 0..64 {
        writer.write(PageIndex(at), &content(1)).unwrap();
    }
    for at in 0..64 {
        writer.write(PageIndex(at), &content(10)).unwrap();
    }
    writer.finish(STATE).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.len() > 20_000 * PAGE as u64);
    let allocated = metadata.blocks() * 512;
    assert!(allocated < 64 * PAGE as u64, "{allocated} bytes for no page of content");
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_and_the_old_file_alone() {
    let (folder, path) = snapshot(&[1, 2, 3]);
    let mut dropped = writer(&path, 3);
    dropped.write(PageIndex(0), &content(7)).unwrap();
    assert_eq!(names(folder.path()), [".guest.partial", "guest"]);
    assert_holds(&path, &[1, 2, 3]);
    drop(dropped);
    assert_eq!(names(folder.path()), ["guest"]);
    assert_holds(&path, &[1, 2, 3]);
}

#[test]
fn a_page_that_was_never_written_fails_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let mut writer = writer(&path, 4);
    writer.fill(PageRange::new(PageIndex(0), 2), 0).unwrap();
    writer.write(PageIndex(3), &content(7)).unwrap();
    let error = writer.finish(STATE).unwrap_err();
    assert!(matches!(error, SnapshotError::Unwritten { page: PageIndex(2), .. }), "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn what_is_written_beyond_the_last_page_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(&folder.path().join("guest"), 4);
    let two = [content(1), content(3)].concat();
    for (start, bytes) in
        [(3, &*two), (4, &two[..PAGE]), (u64::MAX, &two), (0, &two[1..]), (0, &[])]
    {
        let error = writer.write(PageIndex(start), bytes).unwrap_err();
        assert!(matches!(error, SnapshotError::NoPages { .. }), "{error}");
    }
    assert!(writer.fill(PageRange::new(PageIndex(3), 2), 0).is_err());
}

#[test]
fn a_new_snapshot_replaces_the_old_one_whole() {
    let (folder, path) = snapshot(&[1, 2, 3]);
    let old = open(&path).unwrap();
    let mut writer = writer(&path, 2);
    writer.write(PageIndex(0), &[content(5), content(4)].concat()).unwrap();
    writer.finish(STATE).unwrap();
    assert_holds(&path, &[5, 4]);
    assert!(page(&old, 0).unwrap() == content(1), "whoever has the old one open keeps it");
    assert_eq!(names(folder.path()), ["guest"]);
}

#[test]
fn two_writers_of_one_file_do_not_meet_and_a_crash_s_remains_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let first = writer(&path, 1);
    let second = SnapshotWriter::create(&path, &machine(1), PageSize::SMALL, 1);
    assert!(matches!(second, Err(SnapshotError::Busy { .. })));
    drop(first);
    fs::write(folder.path().join(".guest.partial"), vec![1; 3 * PAGE]).unwrap();
    let mut third = writer(&path, 1);
    third.write(PageIndex(0), &content(2)).unwrap();
    third.finish(STATE).unwrap();
    assert_holds(&path, &[2]);
    assert_eq!(names(folder.path()), ["guest"]);
}

#[test]
fn a_description_that_could_not_be_opened_again_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let mut many = machine(65);
    many.blocks = vec![Block { bytes: PAGE as u64, ..many.blocks[0].clone() }; 65];
    for (machine, page, pages) in [
        (machine(2), PageSize::SMALL, 3),
        (machine(512), PageSize::HUGE_2M, 1),
        (many, PageSize::SMALL, 65),
    ] {
        let error = SnapshotWriter::create(&path, &machine, page, pages).unwrap_err();
        assert!(matches!(error, SnapshotError::Nonsense { .. }), "{error}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn paths_that_hold_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    fs::create_dir(of("folder")).unwrap();
    std::os::unix::fs::symlink("elsewhere", of("link")).unwrap();
    for path in [of("folder"), of("link"), of("none/guest"), of("folder/.."), PathBuf::new()] {
        let error = SnapshotWriter::create(&path, &machine(1), PageSize::SMALL, 1).unwrap_err();
        let expected = matches!(error, SnapshotError::Path { .. } | SnapshotError::System { .. });
        assert!(expected, "{error}");
    }
    assert!(open(&of("folder")).is_err());
    assert!(open(&of("none")).is_err());
    // A partial name that leads elsewhere is not followed.
    fs::write(of("elsewhere"), b"precious").unwrap();
    std::os::unix::fs::symlink("elsewhere", of(".guest.partial")).unwrap();
    assert!(SnapshotWriter::create(&of("guest"), &machine(1), PageSize::SMALL, 1).is_err());
    assert_eq!(fs::read(of("elsewhere")).unwrap(), b"precious");
}

#[test]
fn every_altered_byte_but_a_page_s_is_found_when_the_file_is_opened() {
    let (_folder, path) = snapshot(&[1, 2, 3, 4, 0, 7]);
    let length = fs::metadata(&path).unwrap().len();
    let pages = PAGE as u64..7 * PAGE as u64;
    for at in (0..length).filter(|at| !pages.contains(at)) {
        flip(&path, at, 1 << (at % 8));
        let error = open(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        flip(&path, at, 1 << (at % 8));
    }
    assert_holds(&path, &[1, 2, 3, 4, 0, 7]);
}

#[test]
fn every_truncation_is_refused_and_so_is_a_longer_file() {
    let (_folder, path) = snapshot(&[1, 2, 3]);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        // All lengths near the ends of parts, some elsewhere.
        if length % 97 == 0 || length + 200 > whole.len() || length.is_multiple_of(PAGE) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(open(&path).is_err(), "{length} of {} bytes", whole.len());
        }
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(matches!(open(&path), Err(SnapshotError::Length { .. })));
}

#[test]
fn a_file_that_shrinks_while_it_is_in_use_gives_errors_and_no_zeroes() {
    let (_folder, path) = snapshot(&[1, 3, 5]);
    let snapshot = open(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(2 * PAGE as u64 + 5).unwrap();
    assert!(page(&snapshot, 0).unwrap() == content(1));
    let error = page(&snapshot, 1).unwrap_err();
    assert!(error.to_string().contains("offset 0x2000"), "{error}");
}

#[test]
fn a_guest_larger_than_allowed_is_refused_with_the_size_to_use() {
    let (_folder, path) = snapshot(&[1; 300]);
    let error = Snapshot::open(&path, Limits { ram_bytes: 1 << 20 }).unwrap_err();
    assert!(error.to_string().ends_with("use -m 2"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rounds_of_writes_end_in_the_last_ones(
        rounds in prop::collection::vec(prop::collection::vec((0u64..40, 1u64..5, 0u64..30), 0..12), 1..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let mut writer = writer(&path, 40);
        let mut model = vec![0; 40];
        writer.fill(PageRange::new(PageIndex(0), 40), 0).unwrap();
        for round in rounds {
            for (start, count, number) in round {
                let range = start..(start + count).min(40);
                let mut bytes = Vec::new();
                for page in range {
                    model[page as usize] = number + page;
                    bytes.extend(content(number + page));
                }
                writer.write(PageIndex(start), &bytes).unwrap();
            }
            writer.sync().unwrap();
        }
        writer.finish(STATE).unwrap();
        assert_holds(&path, &model);
    }

    #[test]
    fn an_altered_page_is_found_when_it_is_read_and_no_other(
        numbers in prop::collection::vec(0u64..40, 1..30),
        at in any::<prop::sample::Index>(),
        place in 0u64..PAGE as u64,
        bit in 0u32..8,
    ) {
        let (_folder, path) = snapshot(&numbers);
        let altered = at.index(numbers.len()) as u64;
        flip(&path, (altered + 1) * PAGE as u64 + place, 1 << bit);
        let snapshot = open(&path).unwrap();
        for (at, number) in numbers.iter().enumerate() {
            let read = page(&snapshot, at as u64);
            if at as u64 == altered && number % 2 == 1 {
                let error = read.unwrap_err();
                prop_assert!(
                    matches!(error, SnapshotError::Page { page, offset, .. }
                        if page == PageIndex(altered) && offset == (altered + 1) * PAGE as u64),
                    "{}", error
                );
                let mut run = vec![0; PAGE];
                prop_assert!(snapshot.read(PageIndex(altered), &mut run).is_err());
            } else {
                prop_assert!(read.unwrap() == content(*number));
            }
        }
    }

    #[test]
    fn no_bytes_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_folder, path) = snapshot(&[1, 2, 3, 5]);
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
        fs::write(&path, &bytes).unwrap();
        if let Ok(snapshot) = open(&path) {
            for at in 0..snapshot.pages() {
                let _ = page(&snapshot, at);
            }
        }
    }
}
