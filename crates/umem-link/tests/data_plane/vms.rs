//! Two small machines, and the book of who runs the guest.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use umem_fault::{FaultCause, FaultPlane, Interrupt, PageState, Placement, Waited};
use umem_link::{Block, DestinationVm, LiveRam, MachineDescription, Mode, SourceVm, StoppedGuest};
use umem_memory::{
    Backend, GuestAddress, GuestRam, PageBitmap, PageIndex, PageRange, PageSize, RamBlockSpec,
    RamLayout,
};

const PAGE: u64 = PageSize::SMALL.bytes();
const BASE: u64 = 0x8000_0000;

/// RAM of two blocks, a third of the pages in the first.
pub(crate) fn layout(pages: u64) -> RamLayout {
    let first = pages / 3;
    let spec = |name: &str, from: u64, pages: u64| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(BASE + from * PAGE),
        bytes: pages * PAGE,
    };
    RamLayout::new(PageSize::SMALL, vec![spec("low", 0, first), spec("high", first, pages - first)])
        .unwrap()
}

/// What a page holds at the source: content, zeroes that were written, one byte over and over, or
/// nothing ever.
pub(crate) fn content(page: u64) -> Vec<u8> {
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

pub(crate) fn read(ram: &GuestRam, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    ram.read_at(GuestAddress(BASE + page * PAGE), &mut bytes).unwrap();
    bytes
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
        program: "data plane test".into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Source,
    Nobody,
    Destination,
}

/// Who runs the guest, and every breach of the rule that at most one does.
#[derive(Debug)]
pub(crate) struct Ledger {
    who: Mutex<Who>,
    pub(crate) breaches: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { who: Mutex::new(Who::Source), breaches: Mutex::default() })
    }

    pub(crate) fn who(&self) -> Who {
        *self.who.lock().unwrap()
    }

    /// A source by hand has stopped its guest.
    pub(crate) fn nobody(&self) {
        self.step(Who::Source, Who::Nobody, "stop");
    }

    fn step(&self, from: Who, to: Who, what: &str) {
        let mut who = self.who.lock().unwrap();
        if *who != from {
            self.breaches.lock().unwrap().push(format!("{what} while {who:?} runs the guest"));
        }
        *who = to;
    }
}

/// The machine that gives its guest away.
pub(crate) struct SourceMachine {
    pub(crate) ram: GuestRam,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) harts: u32,
    /// Why the guest cannot be stopped.
    pub(crate) unstoppable: AtomicBool,
    /// A page that the guest writes last of all, and that fails then.
    pub(crate) fails: Option<u64>,
    /// Pages that it will touch first, it says.
    pub(crate) working_set: Vec<u64>,
    failed: Mutex<Option<Arc<FaultPlane>>>,
    pub(crate) package: Vec<u8>,
    pub(crate) stops: AtomicU64,
    pub(crate) take_backs: AtomicU64,
    pub(crate) handed_over: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) phases: Mutex<Vec<String>>,
    /// Rounds that began, and throttles that were asked for.
    pub(crate) rounds: AtomicU64,
    pub(crate) throttles: Mutex<Vec<u8>>,
    writers: Mutex<Vec<std::thread::JoinHandle<()>>>,
    halt: Arc<AtomicBool>,
}

/// What a guest writes while it runs: some pages, again and again, each time something else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer {
    /// The pages are this far apart.
    pub(crate) step: u64,
    /// Time between two.
    pub(crate) pause: Duration,
}

impl SourceMachine {
    /// Lets a thread of the guest run.
    pub(crate) fn write(&self, writer: Writer) {
        let (ram, halt) = (self.ram.clone(), self.halt.clone());
        let pages = ram.layout().total_pages();
        let body = move || {
            let mut word = 1u64;
            for page in (0..pages).step_by(writer.step as usize).cycle() {
                if halt.load(Ordering::SeqCst) {
                    return;
                }
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(page);
                let bytes: Vec<u8> = match word >> 62 {
                    0 => vec![0; PAGE as usize],
                    1 => vec![word as u8; PAGE as usize],
                    _ => word.to_le_bytes().repeat(PAGE as usize / 16),
                };
                ram.write_at(GuestAddress(BASE + page * PAGE), &bytes).unwrap();
                std::thread::sleep(writer.pause);
            }
        };
        self.writers.lock().unwrap().push(std::thread::spawn(body));
    }

    /// Has the kernel refuse a page as if its memory had failed, just after the guest has written it.
    fn fail_page(&self) {
        let Some(page) = self.fails.map(PageIndex) else { return };
        self.ram.fill_pages(PageRange::one(page), 0xee).unwrap();
        let others = PageBitmap::new(self.ram.layout().total_pages());
        others.set(PageRange::new(PageIndex(0), others.pages()));
        others.clear(PageRange::one(page));
        let plane = FaultPlane::for_ram_keeping(&self.ram, &others, Placement::default()).unwrap();
        plane.install_unreadable(PageRange::one(page)).unwrap();
        assert!(!self.ram.is_readable(PageRange::one(page)));
        *self.failed.lock().unwrap() = Some(plane);
    }

    /// Stops its threads.
    pub(crate) fn halt(&self) {
        self.halt.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut *self.writers.lock().unwrap()) {
            thread.join().unwrap();
        }
    }

    pub(crate) fn new(pages: u64, ledger: &Arc<Ledger>) -> Self {
        let ram = GuestRam::new(layout(pages), &Backend::Anonymous).unwrap();
        for page in (0..pages).filter(|page| page % 8 < 6) {
            ram.write_at(GuestAddress(BASE + page * PAGE), &content(page)).unwrap();
        }
        Self {
            ram,
            ledger: ledger.clone(),
            harts: 1,
            unstoppable: AtomicBool::new(false),
            fails: None,
            working_set: Vec::new(),
            failed: Mutex::default(),
            package: b"state of the devices".to_vec(),
            stops: AtomicU64::new(0),
            take_backs: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            released: AtomicU64::new(0),
            phases: Mutex::default(),
            rounds: AtomicU64::new(0),
            throttles: Mutex::default(),
            writers: Mutex::default(),
            halt: Arc::default(),
        }
    }
}

impl Drop for SourceMachine {
    fn drop(&mut self) {
        self.halt();
    }
}

impl SourceVm for SourceMachine {
    fn describe(&self) -> MachineDescription {
        describe(self.ram.layout(), self.harts)
    }

    fn live_ram(&self) -> Result<LiveRam, String> {
        Ok(LiveRam { ram: self.ram.clone(), dirty: Arc::new(self.ram.host_writes()) })
    }

    fn round_begun(&self, _round: u32) {
        self.rounds.fetch_add(1, Ordering::SeqCst);
    }

    fn throttle(&self, percent: u8) {
        self.throttles.lock().unwrap().push(percent);
    }

    fn stop(&self) -> Result<StoppedGuest, String> {
        if self.unstoppable.load(Ordering::SeqCst) {
            return Err("a disk does not answer".into());
        }
        self.ledger.step(Who::Source, Who::Nobody, "stop");
        self.stops.fetch_add(1, Ordering::SeqCst);
        self.halt();
        self.fail_page();
        // SAFETY: those who wrote this RAM have ended.
        let ram = unsafe { self.ram.freeze() };
        let parts = vec![("vcpus", Duration::from_micros(1))];
        let working_set = self.working_set.iter().copied().map(PageIndex).collect();
        let (package, stopped_at) = (self.package.clone(), Instant::now());
        Ok(StoppedGuest { package, ram, working_set, stopped_at, parts })
    }

    fn handover_begun(&self) {}

    fn take_back(&self) {
        self.ledger.step(Who::Nobody, Who::Source, "take back");
        self.take_backs.fetch_add(1, Ordering::SeqCst);
    }

    fn handed_over(&self) {
        self.handed_over.fetch_add(1, Ordering::SeqCst);
    }

    fn released(&self) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }

    fn phase_changed(&self, phase: &str) {
        self.phases.lock().unwrap().push(phase.to_owned());
    }
}

/// How the guest's threads touch memory at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// By turns: some threads ask the plane first, the others run into the kernel.
    Both,
    /// All ask the plane first; so they can be let go.
    Asking,
}

/// The machine that takes a guest in.
pub(crate) struct DestinationMachine {
    pub(crate) ram: GuestRam,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) harts: u32,
    pub(crate) threads: u64,
    pub(crate) touch: Touch,
    /// Pages from which on nobody touches.
    pub(crate) touch_below: u64,
    pub(crate) expected: Vec<u8>,
    pub(crate) unloadable: AtomicBool,
    pub(crate) unrunnable: AtomicBool,
    /// How long it takes to get the guest going.
    pub(crate) start_takes: Duration,
    /// Where starting the guest waits twice.
    pub(crate) gate: Option<Arc<Barrier>>,
    /// Met twice once missing pages are watched.
    pub(crate) watched: Option<Arc<Barrier>>,
    /// What the guest is to find; by default what every source's pages hold that nobody writes.
    pub(crate) truth: Option<GuestRam>,
    /// How guests are not taken.
    pub(crate) refuses: Option<Mode>,
    plane: Mutex<Option<Arc<FaultPlane>>>,
    pub(crate) runs: AtomicU64,
    pub(crate) completes: AtomicU64,
    pub(crate) abandons: AtomicU64,
    pub(crate) touched: Arc<AtomicU64>,
    pub(crate) wrong: Arc<Mutex<Vec<u64>>>,
    guest: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) phases: Mutex<Vec<String>>,
}

impl DestinationMachine {
    pub(crate) fn new(pages: u64, ledger: &Arc<Ledger>, threads: u64) -> Self {
        Self {
            ram: GuestRam::new(layout(pages), &Backend::Anonymous).unwrap(),
            ledger: ledger.clone(),
            harts: 1,
            threads,
            touch: Touch::Both,
            touch_below: u64::MAX,
            expected: b"state of the devices".to_vec(),
            unloadable: AtomicBool::new(false),
            unrunnable: AtomicBool::new(false),
            start_takes: Duration::ZERO,
            gate: None,
            watched: None,
            truth: None,
            refuses: None,
            plane: Mutex::default(),
            runs: AtomicU64::new(0),
            completes: AtomicU64::new(0),
            abandons: AtomicU64::new(0),
            touched: Arc::default(),
            wrong: Arc::default(),
            guest: Mutex::default(),
            phases: Mutex::default(),
        }
    }

    pub(crate) fn plane(&self) -> Option<Arc<FaultPlane>> {
        self.plane.lock().unwrap().clone()
    }

    pub(crate) fn is_present(&self, page: u64) -> bool {
        self.plane().is_some_and(|plane| plane.table().state(PageIndex(page)) == PageState::Present)
    }

    /// Waits for the guest's threads.
    pub(crate) fn join(&self) {
        for thread in std::mem::take(&mut *self.guest.lock().unwrap()) {
            thread.join().unwrap();
        }
    }

    fn start_thread(&self, number: u64) {
        let (ram, plane, truth) = (self.ram.clone(), self.plane(), self.truth.clone());
        let (touched, wrong) = (self.touched.clone(), self.wrong.clone());
        let end = ram.layout().total_pages().min(self.touch_below);
        let (step, asking) = (self.threads, self.touch == Touch::Asking || number % 2 == 1);
        let body = move || {
            let interrupt = Interrupt::new();
            for page in (number..end).step_by(step as usize) {
                let resolve = |plane: &Arc<FaultPlane>| {
                    plane.resolve(PageIndex(page), FaultCause::Vcpu, &interrupt)
                };
                if asking && plane.as_ref().map_or(Waited::Present, resolve) != Waited::Present {
                    return;
                }
                let expected = truth.as_ref().map_or_else(|| content(page), |ram| read(ram, page));
                if read(&ram, page) != expected {
                    wrong.lock().unwrap().push(page);
                }
                touched.fetch_add(1, Ordering::SeqCst);
            }
        };
        self.guest.lock().unwrap().push(std::thread::spawn(body));
    }
}

impl DestinationVm for DestinationMachine {
    fn admit(&self, machine: &MachineDescription, mode: Mode) -> Result<GuestRam, String> {
        let ours = describe(self.ram.layout(), self.harts);
        if let Some(difference) = ours.difference(machine) {
            return Err(difference);
        }
        if self.refuses == Some(mode) {
            return Err("guests do not come in like this here".into());
        }
        Ok(self.ram.clone())
    }

    fn begin_page_service(&self, placed: &PageBitmap) -> Result<Arc<FaultPlane>, String> {
        let plane = FaultPlane::for_ram_keeping(&self.ram, placed, Placement::default())
            .map_err(|error| error.to_string())?;
        *self.plane.lock().unwrap() = Some(plane.clone());
        if let Some(gate) = &self.watched {
            gate.wait();
            gate.wait();
        }
        Ok(plane)
    }

    fn load(&self, package: &[u8]) -> Result<(), String> {
        if self.unloadable.load(Ordering::SeqCst) {
            return Err("device 'console' has version 7".into());
        }
        (package == self.expected).then_some(()).ok_or_else(|| "another state came".into())
    }

    fn run(&self, _pause: Duration) -> Result<(), String> {
        std::thread::sleep(self.start_takes);
        if let Some(gate) = &self.gate {
            gate.wait();
            gate.wait();
        }
        if self.unrunnable.load(Ordering::SeqCst) {
            return Err("the disk is locked".into());
        }
        self.ledger.step(Who::Nobody, Who::Destination, "run");
        self.runs.fetch_add(1, Ordering::SeqCst);
        (0..self.threads).for_each(|number| self.start_thread(number));
        Ok(())
    }

    fn complete(&self) {
        self.completes.fetch_add(1, Ordering::SeqCst);
    }

    fn abandon(&self) {
        self.abandons.fetch_add(1, Ordering::SeqCst);
        if let Some(plane) = self.plane.lock().unwrap().take() {
            plane.close();
        }
        self.ram.clear().unwrap();
    }

    fn phase_changed(&self, phase: &str) {
        self.phases.lock().unwrap().push(phase.to_owned());
    }
}
