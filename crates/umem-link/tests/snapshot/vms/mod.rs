//! A machine whose guest writes its memory until it is stopped, and one whose guest reads all of it.

mod destination;
mod source;

pub(crate) use destination::DestinationMachine;
pub(crate) use source::SourceMachine;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umem_link::{Block, LoadOptions, MachineDescription, SaveOptions, SnapshotLoad, SnapshotSave};
use umem_memory::{GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};

pub(crate) const PAGE: u64 = PageSize::SMALL.bytes();
pub(crate) const PAGES: u64 = 900;
/// Pages that the guest writes while it runs: the first of every three of these.
const WRITTEN: u64 = 300;
const BASE: u64 = 0x8000_0000;
const STATE: &[u8] = b"state of the devices";

/// Waits for something that must come; how long it takes decides nothing.
pub(crate) fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

/// RAM of two blocks, a third of the pages in the first.
fn layout() -> RamLayout {
    let first = PAGES / 3;
    let spec = |name: &str, from: u64, pages: u64| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(BASE + from * PAGE),
        bytes: pages * PAGE,
    };
    RamLayout::new(PageSize::SMALL, vec![spec("low", 0, first), spec("high", first, PAGES - first)])
        .unwrap()
}

fn describe(layout: &RamLayout, harts: u32) -> MachineDescription {
    let block = |block: &umem_memory::RamBlock| Block {
        name: block.name.clone(),
        address: block.guest_address.0,
        bytes: block.bytes(),
    };
    MachineDescription {
        board: "test".into(),
        vcpus: harts,
        processor: vec![],
        page_bytes: PAGE as u32,
        blocks: layout.blocks().iter().map(block).collect(),
        devices: vec!["console".into()],
        program: "snapshot test".into(),
    }
}

/// What a page holds at first: content, zeroes that were written, one byte over and over, or nothing
/// ever.
fn content(page: u64) -> Vec<u8> {
    let mut word = (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match page % 8 {
        4 | 6 | 7 => vec![0; PAGE as usize],
        5 => vec![page as u8 | 1; PAGE as usize],
        _ => (0..PAGE / 8)
            .flat_map(|_| {
                word = word
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                word.to_le_bytes()
            })
            .collect(),
    }
}

/// Whether a page has content that the guest does not change.
pub(crate) fn has_content(page: u64) -> bool {
    page >= WRITTEN && page % 8 < 4
}

fn read(ram: &GuestRam, page: u64, pages: u64) -> Vec<u8> {
    let mut bytes = vec![0; (pages * PAGE) as usize];
    ram.read_at(GuestAddress(BASE + page * PAGE), &mut bytes).unwrap();
    bytes
}

/// A snapshot of a guest that wrote until it was stopped, and what its memory was then.
pub(crate) struct Saved {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) memory: Vec<u8>,
}

impl Saved {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let vm = SourceMachine::new(|_| ());
        let save = save(&path, &vm);
        wait_for("the end of the save", || save.ended());
        assert_eq!(save.status().error, None);
        let memory = vm.at_stop.lock().unwrap().clone();
        Self { _folder: folder, path, memory }
    }

    /// Where a page lies in the file.
    pub(crate) fn offset(page: u64) -> u64 {
        (page + 1) * PAGE
    }

    pub(crate) fn flip(&self, at: u64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().read(true).write(true).open(&self.path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    pub(crate) fn load(&self, options: LoadOptions) -> Loaded {
        self.load_into(options, |_| ())
    }

    pub(crate) fn load_into(
        &self,
        options: LoadOptions,
        change: impl FnOnce(&mut DestinationMachine),
    ) -> Loaded {
        let vm = DestinationMachine::new(&self.memory, change);
        let layout = vm.ram.layout().clone();
        let session = SnapshotLoad::start(&self.path, vm.clone(), layout, options).unwrap();
        Loaded { vm, session }
    }
}

pub(crate) fn save(path: &Path, vm: &Arc<SourceMachine>) -> SnapshotSave {
    let options = SaveOptions { downtime_limit: Duration::ZERO, rounds: 3 };
    SnapshotSave::start(path, vm.clone(), vm.ram.layout().clone(), options).unwrap()
}

pub(crate) struct Loaded {
    pub(crate) vm: Arc<DestinationMachine>,
    pub(crate) session: SnapshotLoad,
}

impl Loaded {
    pub(crate) fn wait_ended(&self) {
        wait_for("the end of the load", || self.session.ended());
    }

    /// All is here, and right.
    pub(crate) fn assert_whole(&self) {
        self.wait_ended();
        let status = self.session.status();
        assert_eq!((status.error.as_deref(), &*status.phase), (None, "completed"), "{status:?}");
        assert!(status.verified && status.digest.is_some());
        let pages = status.pages;
        assert_eq!((pages.total, pages.remaining), (PAGES, 0));
        let brought = pages.demand + pages.prefault + pages.background + pages.precopy;
        assert_eq!(brought, PAGES, "{pages:?}");
        self.vm.assert_whole();
    }

    /// Waits for the failure, checks that no guest ran, and gives the reason.
    pub(crate) fn failed(&self) -> String {
        self.wait_ended();
        let status = self.session.status();
        assert_eq!(status.phase, "failed", "{status:?}");
        assert!(!status.verified);
        assert_eq!((count(&self.vm.runs), count(&self.vm.completes)), (0, 0));
        assert_eq!(count(&self.vm.abandons), 1);
        status.error.unwrap()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.session.abandon();
        self.vm.go_on();
        if !std::thread::panicking() {
            self.vm.join();
        }
    }
}
