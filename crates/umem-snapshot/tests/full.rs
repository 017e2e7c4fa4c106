//! A disk that takes no more. Alone in its process, whose limit it changes.
#![allow(clippy::unwrap_used)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::sync::Arc;
use umem_memory::{PageIndex, PageRange, PageSize};
use umem_snapshot::{Limits, Snapshot, SnapshotError, SnapshotWriter};
use umem_wire::{Block, MachineDescription};

const PAGE: usize = 4096;
const PAGES: u64 = 64;

fn writer(path: &std::path::Path) -> SnapshotWriter {
    let block = Block { name: "ram".into(), address: 0, bytes: PAGES * PAGE as u64 };
    let machine = MachineDescription {
        board: "test".into(),
        vcpus: 1,
        processor: vec![],
        page_bytes: PAGE as u32,
        blocks: vec![block],
        devices: vec![],
        program: "snapshot test".into(),
    };
    let mut writer = SnapshotWriter::create(path, &machine, PageSize::SMALL, PAGES).unwrap();
    writer.fill(PageRange::new(PageIndex(0), PAGES), 0).unwrap();
    writer
}

#[test]
fn a_full_disk_leaves_no_new_file_and_the_old_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    writer(&path).finish(b"old").unwrap();
    // The limit's signal would end the process; noted, the write fails as on a full disk.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).unwrap();
    let limit = Rlimit { current: Some(32 * PAGE as u64), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, limit).unwrap();

    let mut page = vec![7; PAGE];
    page[0] = 1;
    let mut writer_of_page = writer(&path);
    writer_of_page.write(PageIndex(3), &page).unwrap();
    let error = writer_of_page.write(PageIndex(40), &page).unwrap_err();
    assert!(matches!(error, SnapshotError::Access { what: "write", bytes: 4096, .. }), "{error}");
    assert!(error.to_string().contains("offset 0x29000"), "{error}");
    drop(writer_of_page);

    let error = writer(&path).finish(b"new").unwrap_err();
    assert!(matches!(error, SnapshotError::Access { what: "write", .. }), "{error}");

    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let old = Snapshot::open(&path, Limits { ram_bytes: 1 << 20 }).unwrap();
    assert_eq!(old.state(), b"old");
}
