//! The machine that is loaded into.

use super::{PAGE, PAGES, STATE, count, describe, layout, read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use umem_fault::{FaultCause, FaultPlane, Interrupt, Waited};
use umem_link::{DestinationVm, MachineDescription, Mode, SnapshotDestination};
use umem_memory::{Backend, GuestRam, PageBitmap, PageIndex};

/// The machine that a guest is loaded into. Its guest's threads read all pages, some by asking the
/// plane, some by running into the kernel.
pub(crate) struct DestinationMachine {
    pub(crate) ram: GuestRam,
    pub(crate) harts: u32,
    expected: Arc<Vec<u8>>,
    /// Threads of the guest; page `n` is read by thread `n` modulo their number.
    pub(crate) threads: u64,
    /// Pages from which on nobody reads.
    pub(crate) read_below: u64,
    /// A page that loading the state needs.
    pub(crate) load_needs: Option<u64>,
    pub(crate) unrunnable: bool,
    plane: Mutex<Option<Arc<FaultPlane>>>,
    paused: Arc<AtomicBool>,
    guest: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) admits: AtomicU64,
    pub(crate) runs: AtomicU64,
    pub(crate) completes: AtomicU64,
    pub(crate) abandons: AtomicU64,
    pub(crate) touched: Arc<AtomicU64>,
    pub(crate) wrong: Arc<Mutex<Vec<u64>>>,
    pub(crate) lost: Mutex<Vec<(u64, String)>>,
    pub(crate) phases: Mutex<Vec<String>>,
}

impl DestinationMachine {
    pub(crate) fn new(expected: &[u8], change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let mut machine = Self {
            ram: GuestRam::new(layout(), &Backend::Anonymous).unwrap(),
            harts: 1,
            expected: Arc::new(expected.to_vec()),
            threads: 4,
            read_below: PAGES,
            load_needs: None,
            unrunnable: false,
            plane: Mutex::default(),
            paused: Arc::default(),
            guest: Mutex::default(),
            admits: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            completes: AtomicU64::new(0),
            abandons: AtomicU64::new(0),
            touched: Arc::default(),
            wrong: Arc::default(),
            lost: Mutex::default(),
            phases: Mutex::default(),
        };
        change(&mut machine);
        Arc::new(machine)
    }

    pub(crate) fn plane(&self) -> Option<Arc<FaultPlane>> {
        self.plane.lock().unwrap().clone()
    }

    /// Waits for the guest's threads.
    pub(crate) fn join(&self) {
        for thread in std::mem::take(&mut *self.guest.lock().unwrap()) {
            thread.join().unwrap();
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// `cont`.
    pub(crate) fn go_on(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Every page is as it was at the stop, as the guest saw it and as it is.
    pub(crate) fn assert_whole(&self) {
        self.join();
        assert_eq!(*self.wrong.lock().unwrap(), [0u64; 0]);
        assert_eq!(count(&self.touched), self.read_below);
        for page in 0..PAGES {
            assert!(read(&self.ram, page, 1) == self.page(page), "page {page}");
        }
        assert_eq!((count(&self.runs), count(&self.completes), count(&self.abandons)), (1, 1, 0));
    }

    fn page(&self, page: u64) -> &[u8] {
        &self.expected[(page * PAGE) as usize..][..PAGE as usize]
    }

    fn start_thread(&self, number: u64) {
        let (ram, plane, expected) = (self.ram.clone(), self.plane(), self.expected.clone());
        let (touched, wrong) = (self.touched.clone(), self.wrong.clone());
        let (paused, end, step) = (self.paused.clone(), self.read_below, self.threads as usize);
        let body = move || {
            let interrupt = Interrupt::new();
            for page in (number..end).step_by(step) {
                while paused.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if let Some(plane) = plane.as_ref().filter(|_| number % 2 == 1)
                    && plane.resolve(PageIndex(page), FaultCause::Vcpu, &interrupt)
                        != Waited::Present
                {
                    return;
                }
                if read(&ram, page, 1) != expected[(page * PAGE) as usize..][..PAGE as usize] {
                    wrong.lock().unwrap().push(page);
                }
                touched.fetch_add(1, Ordering::SeqCst);
            }
        };
        self.guest.lock().unwrap().push(std::thread::spawn(body));
    }
}

impl DestinationVm for DestinationMachine {
    fn admit(&self, machine: &MachineDescription, _mode: Mode) -> Result<GuestRam, String> {
        self.admits.fetch_add(1, Ordering::SeqCst);
        let difference = describe(self.ram.layout(), self.harts).difference(machine);
        difference.map_or_else(|| Ok(self.ram.clone()), Err)
    }

    fn begin_page_service(&self, placed: &PageBitmap) -> Result<Arc<FaultPlane>, String> {
        assert_eq!(placed.count(), 0);
        let plane = FaultPlane::for_ram(&self.ram).map_err(|error| error.to_string())?;
        *self.plane.lock().unwrap() = Some(plane.clone());
        Ok(plane)
    }

    fn load(&self, package: &[u8]) -> Result<(), String> {
        if let (Some(page), Some(plane)) = (self.load_needs, self.plane()) {
            let waited = plane.resolve(PageIndex(page), FaultCause::Device, &Interrupt::new());
            if waited != Waited::Present {
                return Err(format!("page {page} of a queue did not come"));
            }
            assert!(read(&self.ram, page, 1) == self.page(page));
        }
        (package == STATE).then_some(()).ok_or_else(|| "another state came".into())
    }

    fn run(&self, pause: Duration) -> Result<(), String> {
        assert_eq!(pause, Duration::ZERO, "a guest's clock stands still in the file");
        if self.unrunnable {
            return Err("the disk is locked".into());
        }
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
    }

    fn phase_changed(&self, phase: &str) {
        self.phases.lock().unwrap().push(phase.to_owned());
    }
}

impl SnapshotDestination for DestinationMachine {
    fn page_lost(&self, page: PageIndex, why: &str) {
        self.paused.store(true, Ordering::SeqCst);
        self.lost.lock().unwrap().push((page.0, why.to_owned()));
    }
}
