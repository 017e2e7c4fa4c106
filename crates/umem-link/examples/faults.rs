//! A generator of page faults without a guest: threads touch memory that arrives over loopback TCP.
//! Prints a line of JSON for each way of finding a missing page:
//!
//! - `uffd`: the threads run into the kernel;
//! - `resolve`: they ask the fault plane before they touch.
//!
//! Without `background` every page is touched once, as fast as they come. With it, all threads together
//! touch RATE random pages a second, in bursts of a millisecond as a guest does, until all are here;
//! what is not made in 50 ms is left out.
//!
//! ```text
//! cargo run --release -p umem-link --example faults -- [THREADS] [MIB] [background RATE]
//! ```
#![allow(unsafe_code, clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use umem_fault::{FaultCause, FaultPlane, Interrupt};
use umem_link::{
    DestinationListener, DestinationOptions, DestinationVm, LiveRam, MachineDescription, Mode,
    SourceOptions, SourceSession, SourceVm, StoppedGuest,
};
use umem_memory::{
    Backend, GuestAddress, GuestRam, PageBitmap, PageIndex, PageSize, RamBlockSpec, RamLayout,
};

const BASE: u64 = 0x8000_0000;
const PAGE: u64 = PageSize::SMALL.bytes();

fn ram(bytes: u64) -> GuestRam {
    let spec = RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(BASE), bytes };
    GuestRam::new(RamLayout::new(PageSize::SMALL, vec![spec]).unwrap(), &Backend::Anonymous)
        .unwrap()
}

fn machine() -> MachineDescription {
    MachineDescription {
        board: "none".into(),
        vcpus: 1,
        processor: vec![],
        page_bytes: PAGE as u32,
        blocks: Vec::new(),
        devices: Vec::new(),
        program: "faults".into(),
    }
}

struct Source(GuestRam);

impl SourceVm for Source {
    fn describe(&self) -> MachineDescription {
        machine()
    }

    fn live_ram(&self) -> Result<LiveRam, String> {
        Err("this guest moves by postcopy".to_owned())
    }

    fn round_begun(&self, _round: u32) {}
    fn throttle(&self, _percent: u8) {}

    fn stop(&self) -> Result<StoppedGuest, String> {
        // SAFETY: nobody writes this RAM after its creation.
        let ram = unsafe { self.0.freeze() };
        let (package, parts) = (vec![1], Vec::new());
        Ok(StoppedGuest {
            package,
            ram,
            working_set: Vec::new(),
            stopped_at: Instant::now(),
            parts,
        })
    }

    fn handover_begun(&self) {}
    fn take_back(&self) {}
    fn handed_over(&self) {}
    fn released(&self) {}
    fn phase_changed(&self, _phase: &str) {}
}

struct Destination {
    ram: GuestRam,
    plane: Mutex<Option<Arc<FaultPlane>>>,
    runs: AtomicBool,
}

impl DestinationVm for Destination {
    fn admit(&self, _machine: &MachineDescription, _mode: Mode) -> Result<GuestRam, String> {
        Ok(self.ram.clone())
    }

    fn begin_page_service(&self, _placed: &PageBitmap) -> Result<Arc<FaultPlane>, String> {
        let plane = FaultPlane::for_ram(&self.ram).map_err(|error| error.to_string())?;
        *self.plane.lock().unwrap() = Some(plane.clone());
        Ok(plane)
    }

    fn load(&self, _package: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, _pause: Duration) -> Result<(), String> {
        self.runs.store(true, Ordering::Release);
        Ok(())
    }

    fn complete(&self) {}
    fn abandon(&self) {}
    fn phase_changed(&self, _phase: &str) {}
}

/// Odd, so with a power of two it reaches every page.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const BURST: Duration = Duration::from_millis(1);
const ARREARS: Duration = Duration::from_millis(50);

/// A thread that touches.
struct Toucher<'a> {
    ram: &'a GuestRam,
    plane: &'a FaultPlane,
    /// Looks at the plane before it touches.
    asks: bool,
    interrupt: Interrupt,
    /// How long touches of missing pages took, nanoseconds.
    took: Vec<u64>,
}

impl Toucher<'_> {
    fn touch(&mut self, page: u64) {
        let missing = !self.plane.table().is_present(PageIndex(page));
        let started = Instant::now();
        if self.asks {
            let _ = self.plane.resolve(PageIndex(page), FaultCause::Vcpu, &self.interrupt);
        }
        let mut byte = [0];
        self.ram.read_at(GuestAddress(BASE + page * PAGE), &mut byte).unwrap();
        assert_eq!(byte[0], page as u8 | 1);
        if missing {
            self.took.push(started.elapsed().as_nanos() as u64);
        }
    }

    /// All of a thread's share, each once, spread so that neighbours are far apart in time.
    fn touch_all(&mut self, pages: u64, number: u64, threads: u64) {
        for at in (number..pages).step_by(threads as usize) {
            self.touch(at.wrapping_mul(SPREAD) % pages);
        }
    }

    /// So many a second, until all pages are here.
    fn touch_at(&mut self, pages: u64, number: u64, rate: u64) {
        let (mut next, mut state) = (Instant::now(), number);
        while self.plane.table().counts().missing() > 0 {
            for _ in 0..rate / 1000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(SPREAD);
                self.touch((state >> 33) % pages);
            }
            next += BURST;
            let now = Instant::now();
            next = next.max(now.checked_sub(ARREARS).unwrap_or(now));
            std::thread::sleep(next.saturating_duration_since(now));
        }
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn microseconds(took: &[u64], share: f64) -> f64 {
    let at = (took.len() as f64 * share) as usize;
    took.get(at.min(took.len().saturating_sub(1))).map_or(0.0, |ns| *ns as f64 / 1000.0)
}

fn measure(way: &str, threads: u64, bytes: u64, rate: Option<u64>) -> String {
    let pages = bytes / PAGE;
    let source = ram(bytes);
    for page in 0..pages {
        source.write_at(GuestAddress(BASE + page * PAGE), &[page as u8 | 1, 7]).unwrap();
    }
    let layout = source.layout().clone();
    let (plane, runs) = (Mutex::default(), AtomicBool::new(false));
    let vm = Arc::new(Destination { ram: ram(bytes), plane, runs });
    // This host takes memory back that is not used: what is measured is not how it gives it again.
    vm.ram.write_at(GuestAddress(BASE), &vec![1; bytes as usize]).unwrap();
    let listener = DestinationListener::start(
        &"tcp:127.0.0.1:0".parse().unwrap(),
        vm.clone(),
        layout.clone(),
        DestinationOptions::default(),
    )
    .unwrap();
    let options = SourceOptions { background: rate.is_some(), ..SourceOptions::default() };
    let peer = listener.endpoint().clone();
    let session = SourceSession::start(peer, Arc::new(Source(source)), layout, options).unwrap();
    wait_until(|| {
        assert!(!session.ended(), "{:?}", session.status());
        vm.runs.load(Ordering::Acquire)
    });
    let plane = vm.plane.lock().unwrap().clone().unwrap();
    let start = Barrier::new(threads as usize + 1);
    let (mut took, seconds) = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|number| {
                let (interrupt, took) = (Interrupt::new(), Vec::new());
                let (ram, plane, asks) = (&vm.ram, &*plane, way == "resolve");
                let mut toucher = Toucher { ram, plane, asks, interrupt, took };
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    match rate {
                        None => toucher.touch_all(pages, number, threads),
                        Some(rate) => toucher.touch_at(pages, number, rate / threads),
                    }
                    toucher.took
                })
            })
            .collect();
        start.wait();
        let started = Instant::now();
        let took = all.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>();
        (took, started.elapsed().as_secs_f64())
    });
    wait_until(|| session.ended() && listener.status().verified);
    took.sort_unstable();
    let mean = took.iter().sum::<u64>() as f64 / took.len().max(1) as f64 / 1000.0;
    let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|share| microseconds(&took, share));
    let (requests, requested) = listener.requests();
    let per_request = requested as f64 / requests.max(1) as f64;
    let mib = bytes as f64 / f64::from(1 << 20) / seconds;
    let count = took.len();
    let per_second = count as f64 / seconds;
    session.abandon();
    listener.abandon();
    format!(
        "{{\"way\":\"{way}\",\"threads\":{threads},\"pages\":{pages},\"faults\":{count},\
         \"mean_us\":{mean:.1},\"p50_us\":{p50:.1},\"p99_us\":{p99:.1},\"p999_us\":{p999:.1},\
         \"max_us\":{max:.1},\"faults_per_s\":{per_second:.0},\"pages_per_request\":{per_request:.2},\
         \"seconds\":{seconds:.3},\"mib_per_s\":{mib:.0}}}"
    )
}

fn main() {
    let argument = |at| std::env::args().nth(at);
    let number = |at, default| {
        argument(at).map_or(default, |text: String| text.parse::<u64>().unwrap().max(1))
    };
    // A power of two, for the order in which pages are touched.
    let (threads, mib) = (number(1, 4), number(2, 64).next_power_of_two());
    let rate = argument(3).map(|_| number(4, 20_000));
    for way in ["uffd", "resolve"] {
        println!("{}", measure(way, threads, mib << 20, rate));
    }
}
