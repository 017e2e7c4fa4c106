//! A generator of page faults without a guest: threads touch memory that arrives over loopback TCP,
//! with the background off. Prints a line of JSON for each way of finding a missing page:
//!
//! - `uffd`: the threads run into the kernel;
//! - `resolve`: they ask the fault plane before they touch.
//!
//! ```text
//! cargo run --release -p umem-link --example faults -- [THREADS] [MIB]
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
        harts: 1,
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
        Ok(StoppedGuest { package, ram, stopped_at: Instant::now(), parts })
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

/// Touches all pages, each once, spread so that neighbours are far apart in time.
fn touch(ram: &GuestRam, plane: Option<&FaultPlane>, pages: u64, number: u64, threads: u64) {
    let interrupt = Interrupt::new();
    // Odd, so with a power of two it reaches every page.
    let spread = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (number..pages).step_by(threads as usize) {
        let page = at.wrapping_mul(spread) % pages;
        if let Some(plane) = plane {
            let _ = plane.resolve(PageIndex(page), FaultCause::Vcpu, &interrupt);
        }
        let mut byte = [0];
        ram.read_at(GuestAddress(BASE + page * PAGE), &mut byte).unwrap();
        assert_eq!(byte[0], page as u8 | 1);
    }
}

fn measure(way: &str, threads: u64, bytes: u64) -> String {
    let pages = bytes / PAGE;
    let source = ram(bytes);
    for page in 0..pages {
        source.write_at(GuestAddress(BASE + page * PAGE), &[page as u8 | 1, 7]).unwrap();
    }
    let layout = source.layout().clone();
    let (plane, runs) = (Mutex::default(), AtomicBool::new(false));
    let vm = Arc::new(Destination { ram: ram(bytes), plane, runs });
    let listener = DestinationListener::start(
        &"tcp:127.0.0.1:0".parse().unwrap(),
        vm.clone(),
        layout.clone(),
        DestinationOptions::default(),
    )
    .unwrap();
    let options = SourceOptions { background: false, ..SourceOptions::default() };
    let peer = listener.endpoint().clone();
    let session = SourceSession::start(peer, Arc::new(Source(source)), layout, options).unwrap();
    while !vm.runs.load(Ordering::Acquire) {
        assert!(!session.ended(), "{:?}", session.status());
        std::thread::sleep(Duration::from_millis(1));
    }
    let plane = vm.plane.lock().unwrap().clone().unwrap();
    let asked = (way == "resolve").then_some(&*plane);
    let start = Barrier::new(threads as usize + 1);
    let seconds = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|number| {
                let (ram, start) = (&vm.ram, &start);
                scope.spawn(move || {
                    start.wait();
                    touch(ram, asked, pages, number, threads);
                })
            })
            .collect();
        start.wait();
        let started = Instant::now();
        all.into_iter().for_each(|thread| thread.join().unwrap());
        started.elapsed().as_secs_f64()
    });
    while !session.ended() || !listener.status().verified {
        std::thread::sleep(Duration::from_millis(1));
    }
    let faults = listener.status().faults;
    let (requests, requested) = listener.requests();
    let per_request = requested as f64 / requests.max(1) as f64;
    let per_second = faults.count as f64 / seconds;
    session.abandon();
    listener.abandon();
    format!(
        "{{\"way\":\"{way}\",\"threads\":{threads},\"pages\":{pages},\"faults\":{},\
         \"p50_us\":{:.1},\"p99_us\":{:.1},\"max_us\":{:.1},\"faults_per_s\":{per_second:.0},\
         \"requests\":{requests},\"pages_per_request\":{per_request:.2}}}",
        faults.count, faults.p50, faults.p99, faults.max
    )
}

fn main() {
    let number = |at, default| {
        let argument: Option<String> = std::env::args().nth(at);
        argument.map_or(default, |text| text.parse::<u64>().unwrap().max(1))
    };
    // A power of two, for the order in which pages are touched.
    let (threads, mib) = (number(1, 4), number(2, 64).next_power_of_two());
    for way in ["uffd", "resolve"] {
        println!("{}", measure(way, threads, mib << 20));
    }
}
