//! The machine that is saved.
#![allow(unsafe_code)]

use super::{BASE, PAGE, PAGES, STATE, WRITTEN, content, count, describe, layout, read, wait_for};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use umem_link::{LiveRam, MachineDescription, SnapshotSource, SourceVm, StoppedGuest};
use umem_memory::{
    Backend, DirtyError, DirtySource, GuestAddress, GuestRam, HostWrites, PageBitmap,
};

fn write_once(ram: &GuestRam, page: u64) {
    ram.write_at(GuestAddress(BASE + page * PAGE + 8), b"seen?").unwrap();
}

/// Dirty tracking of a guest that writes memory for the first time just before it is on.
struct LateWriter {
    writes: HostWrites,
    ram: GuestRam,
}

impl DirtySource for LateWriter {
    fn start(&self) -> Result<(), DirtyError> {
        write_once(&self.ram, 22);
        self.writes.start()
    }

    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        self.writes.collect(into)
    }

    fn stop(&self) {
        self.writes.stop();
    }
}

/// The machine whose guest is saved. Its guest's threads write pages over and over while it runs.
pub(crate) struct SourceMachine {
    pub(crate) ram: GuestRam,
    runs: Arc<AtomicBool>,
    pub(crate) writes: Arc<AtomicU64>,
    /// The threads that stand still.
    parked: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// All memory at the newest stop.
    pub(crate) at_stop: Mutex<Vec<u8>>,
    pub(crate) unstoppable: AtomicBool,
    pub(crate) package: Vec<u8>,
    /// The round in which the machine waits until it may go on, if any.
    pub(crate) hold_round: u32,
    pub(crate) go_on: AtomicBool,
    pub(crate) round: AtomicU64,
    pub(crate) stops: AtomicU64,
    pub(crate) take_backs: AtomicU64,
    pub(crate) saved: AtomicU64,
    pub(crate) phases: Mutex<Vec<String>>,
}

const WRITERS: u64 = 3;

impl SourceMachine {
    pub(crate) fn new(change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let ram = GuestRam::new(layout(), &Backend::Anonymous).unwrap();
        for page in (0..PAGES).filter(|page| page % 8 < 6) {
            ram.write_at(GuestAddress(BASE + page * PAGE), &content(page)).unwrap();
        }
        let mut machine = Self {
            ram,
            runs: Arc::new(AtomicBool::new(true)),
            writes: Arc::default(),
            parked: Arc::default(),
            ended: Arc::default(),
            threads: Mutex::default(),
            at_stop: Mutex::default(),
            unstoppable: AtomicBool::new(false),
            package: STATE.to_vec(),
            hold_round: 0,
            go_on: AtomicBool::new(false),
            round: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            take_backs: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            phases: Mutex::default(),
        };
        change(&mut machine);
        for number in 0..WRITERS {
            machine.start_writer(number);
        }
        Arc::new(machine)
    }

    fn start_writer(&self, number: u64) {
        let (ram, runs, writes) = (self.ram.clone(), self.runs.clone(), self.writes.clone());
        let (parked, ended) = (self.parked.clone(), self.ended.clone());
        let body = move || {
            let mut turn = number;
            while !ended.load(Ordering::SeqCst) {
                if !runs.load(Ordering::SeqCst) {
                    parked.fetch_add(1, Ordering::SeqCst);
                    while !runs.load(Ordering::SeqCst) && !ended.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    parked.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let page = turn.wrapping_mul(0x9e37_79b9) % (WRITTEN / 3) * 3;
                let address = GuestAddress(BASE + page * PAGE + turn % 512 * 8);
                // Now and then a page becomes one of a repeated byte again.
                if turn.is_multiple_of(31) {
                    ram.write_at(GuestAddress(BASE + page * PAGE), &[0; PAGE as usize]).unwrap();
                } else {
                    ram.write_at(address, &turn.to_le_bytes()).unwrap();
                }
                turn += WRITERS;
                writes.fetch_add(1, Ordering::SeqCst);
            }
        };
        self.threads.lock().unwrap().push(std::thread::spawn(body));
    }

    /// Writes a page that the guest's threads leave alone: one use, one chance to be seen.
    fn write_once(&self, page: u64) {
        assert!(page < WRITTEN && !page.is_multiple_of(3), "page {page} is written otherwise");
        write_once(&self.ram, page);
    }

    /// Waits until the guest has written more.
    fn let_it_write(&self) {
        let before = count(&self.writes);
        wait_for("the guest's writes", || count(&self.writes) >= before + 50);
    }

    /// The guest runs, and was stopped only to be taken back.
    pub(crate) fn assert_runs(&self) {
        self.let_it_write();
        assert_eq!(count(&self.take_backs), count(&self.stops));
        assert_eq!(count(&self.saved), 0);
        // Nobody tracks its writes any more.
        assert!(self.ram.host_writes().collect(&PageBitmap::new(PAGES)).is_err());
    }
}

impl Drop for SourceMachine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut *self.threads.lock().unwrap()) {
            thread.join().unwrap();
        }
    }
}

impl SourceVm for SourceMachine {
    fn describe(&self) -> MachineDescription {
        describe(self.ram.layout(), 1)
    }

    fn live_ram(&self) -> Result<LiveRam, String> {
        let dirty = LateWriter { writes: self.ram.host_writes(), ram: self.ram.clone() };
        Ok(LiveRam { ram: self.ram.clone(), dirty: Arc::new(dirty) })
    }

    fn round_begun(&self, round: u32) {
        self.round.store(u64::from(round), Ordering::SeqCst);
        // From round 2 on, only the dirty log knows of it.
        self.write_once(7 + 24 * u64::from(round));
        self.let_it_write();
        if round == self.hold_round {
            wait_for("leave to go on", || self.go_on.load(Ordering::SeqCst));
        }
    }

    fn throttle(&self, _percent: u8) {}

    fn stop(&self) -> Result<StoppedGuest, String> {
        if self.unstoppable.load(Ordering::SeqCst) {
            return Err("a disk does not answer".into());
        }
        // Written after the last round: only the last look at the log finds it.
        self.write_once(10);
        self.write_once(7);
        self.let_it_write();
        self.runs.store(false, Ordering::SeqCst);
        wait_for("the guest's threads", || count(&self.parked) == WRITERS);
        self.stops.fetch_add(1, Ordering::SeqCst);
        *self.at_stop.lock().unwrap() = read(&self.ram, 0, PAGES);
        // SAFETY: the threads that write it stand still, until the guest is taken back.
        let ram = unsafe { self.ram.freeze() };
        let parts = vec![("stop", Duration::from_micros(1))];
        Ok(StoppedGuest {
            package: self.package.clone(),
            ram,
            working_set: Vec::new(),
            stopped_at: Instant::now(),
            parts,
        })
    }

    fn handover_begun(&self) {
        panic!("nobody takes the guest over");
    }

    fn take_back(&self) {
        self.take_backs.fetch_add(1, Ordering::SeqCst);
        self.runs.store(true, Ordering::SeqCst);
    }

    fn handed_over(&self) {
        panic!("nobody takes the guest over");
    }

    fn released(&self) {
        panic!("nobody takes the guest over");
    }

    fn phase_changed(&self, phase: &str) {
        self.phases.lock().unwrap().push(phase.to_owned());
    }
}

impl SnapshotSource for SourceMachine {
    fn saved(&self) {
        self.saved.fetch_add(1, Ordering::SeqCst);
    }
}
