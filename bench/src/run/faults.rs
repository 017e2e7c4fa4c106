//! A generator of page faults without a guest: threads touch memory that arrives over loopback TCP from a real
//! source, with the background off.

use super::contender::set_faults;
use super::figures::Figures;
use crate::interrupt;
use crate::stats;
use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};
use umem_fault::{FaultCause, FaultPlane, Interrupt, Waited};
use umem_link::{
    DestinationListener, DestinationOptions, DestinationVm, LiveRam, MachineDescription, Mode,
    Prefault, SourceOptions, SourceSession, SourceVm, StoppedGuest,
};
use umem_memory::{
    Backend, GuestAddress, GuestRam, PageBitmap, PageIndex, PageSize, RamBlockSpec, RamLayout,
};

const BASE: u64 = 0x8000_0000;
const PAGE: u64 = PageSize::SMALL.bytes();
/// Odd, so with a power of two it reaches every page; neighbours come far apart in time.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// How a thread finds out that a page is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It runs into the kernel, as under KVM.
    Kernel,
    /// It asks the fault plane before it touches, as the software CPU does.
    Asked,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::Asked];

    /// In tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "faults by the kernel",
            Self::Asked => "faults asked for",
        }
    }
}

/// In which order one thread touches memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accesses {
    /// Half of the memory, one page after the other.
    Sequential,
    /// Every 17th page.
    Strided,
    /// A quarter as many pages as there are, any of them.
    Random,
    /// As a kernel boots: 1 to 30 neighbours from somewhere on, one run in five downwards.
    Boot,
}

impl Accesses {
    /// All.
    pub const ALL: [Self; 4] = [Self::Sequential, Self::Strided, Self::Random, Self::Boot];

    /// In names of rows.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Strided => "strided",
            Self::Random => "random",
            Self::Boot => "boot",
        }
    }

    /// The pages, of so many.
    fn order(self, pages: u64) -> Vec<u64> {
        match self {
            Self::Sequential => (0..pages / 2).collect(),
            Self::Strided => (0..pages).step_by(17).collect(),
            Self::Random => (0..pages / 4).map(|at| random(at) % pages).collect(),
            Self::Boot => boot(pages),
        }
    }
}

/// Page `at` of an order that comes to each page once, and to neighbours far apart in time.
const fn spread(at: u64, pages: u64) -> u64 {
    at.wrapping_mul(SPREAD) % pages
}

/// A number that follows nothing: SplitMix64 (Steele, Lea, Flood, 2014).
const fn random(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(SPREAD);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn boot(pages: u64) -> Vec<u64> {
    const LONGEST: u64 = 30;
    let mut order = Vec::new();
    let mut number = 0;
    while (order.len() as u64) < pages / 4 {
        number += 1;
        let random = random(number);
        let (start, length) = (random % (pages - LONGEST), 1 + (random >> 32) % LONGEST);
        let run = start..start + length;
        if number % 5 == 0 { order.extend(run.rev()) } else { order.extend(run) }
    }
    order
}

/// What goes along with a page that is asked for, as it is compared.
pub const PREFAULTS: [(&str, Prefault); 3] = [
    ("no prefault", Prefault { adaptive: false, forward: 0, backward: 0, move_background: false }),
    ("8 forward", Prefault { adaptive: false, forward: 8, backward: 0, move_background: false }),
    ("adaptive", Prefault::ADAPTIVE),
];

/// What one run found.
#[derive(Debug, Clone, Serialize)]
pub struct FaultRun {
    /// Its figures.
    pub figures: Figures,
    /// Microseconds that a touch took at most, and how many took that long: all touches, each of a missing page.
    pub histogram: Vec<(f64, usize)>,
}

fn ram(bytes: u64) -> Result<GuestRam> {
    let spec = RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(BASE), bytes };
    let layout = RamLayout::new(PageSize::SMALL, vec![spec])?;
    Ok(GuestRam::new(layout, &Backend::Anonymous)?)
}

fn machine() -> MachineDescription {
    MachineDescription {
        board: "none".into(),
        vcpus: 1,
        processor: Vec::new(),
        page_bytes: PAGE as u32,
        blocks: Vec::new(),
        devices: Vec::new(),
        program: "umem bench".into(),
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
        let ram = freeze(&self.0);
        Ok(StoppedGuest {
            package: vec![1],
            ram,
            working_set: Vec::new(),
            stopped_at: Instant::now(),
            parts: Vec::new(),
        })
    }

    fn handover_begun(&self) {}
    fn take_back(&self) {}
    fn handed_over(&self) {}
    fn released(&self) {}
    fn phase_changed(&self, _phase: &str) {}
}

#[allow(unsafe_code)]
fn freeze(ram: &GuestRam) -> umem_memory::FrozenRam {
    // SAFETY: nobody writes this RAM after it was filled, before the session began.
    unsafe { ram.freeze() }
}

struct Destination {
    ram: GuestRam,
    plane: Mutex<Option<Arc<FaultPlane>>>,
    runs: AtomicBool,
}

impl Destination {
    fn plane(&self) -> Option<Arc<FaultPlane>> {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl DestinationVm for Destination {
    fn admit(&self, _machine: &MachineDescription, _mode: Mode) -> Result<GuestRam, String> {
        Ok(self.ram.clone())
    }

    fn begin_page_service(&self, _placed: &PageBitmap) -> Result<Arc<FaultPlane>, String> {
        let plane = FaultPlane::for_ram(&self.ram).map_err(|error| error.to_string())?;
        *self.plane.lock().unwrap_or_else(PoisonError::into_inner) = Some(plane.clone());
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

/// What page `number` holds at its head.
const fn head(number: u64) -> [u8; 8] {
    (number | 1 << 63).to_le_bytes()
}

/// Touches pages in this order; microseconds of each touch.
fn touch(ram: &GuestRam, plane: Option<&FaultPlane>, order: &[u64]) -> Result<Vec<f64>> {
    let interrupt = Interrupt::new();
    let mut times = Vec::new();
    for &page in order {
        let mut found = [0; 8];
        let start = Instant::now();
        if let Some(plane) = plane {
            let waited = plane.resolve(PageIndex(page), FaultCause::Vcpu, &interrupt);
            ensure!(waited == Waited::Present, "page {page}: {waited:?}");
        }
        ram.read_at(GuestAddress(BASE + page * PAGE), &mut found)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(found == head(page), "page {page} holds {found:?} instead of {:?}", head(page));
    }
    Ok(times)
}

/// So many threads touch a memory of so many bytes, a power of two of pages, that is at the source.
///
/// # Errors
/// When there is no memory, no userfaultfd, or a page does not come as it was; not done by the deadline.
pub fn generate(way: Way, threads: u64, bytes: u64, deadline: Instant) -> Result<FaultRun> {
    let pages = bytes / PAGE;
    ensure!(pages.is_power_of_two(), "{pages} pages are no power of two");
    let step = usize::try_from(threads)?;
    let share = |number| (number..pages).step_by(step).map(|at| spread(at, pages)).collect();
    run(way, Prefault::default(), bytes, (0..threads).map(share).collect(), deadline)
}

/// One thread, which asks for its pages, touches a memory of so many bytes in this order.
///
/// # Errors
/// As [`generate`].
pub fn access(
    accesses: Accesses,
    prefault: Prefault,
    bytes: u64,
    deadline: Instant,
) -> Result<FaultRun> {
    let pages = bytes / PAGE;
    ensure!(pages.is_power_of_two(), "{pages} pages are no power of two");
    run(Way::Asked, prefault, bytes, vec![accesses.order(pages)], deadline)
}

fn run(
    way: Way,
    prefault: Prefault,
    bytes: u64,
    orders: Vec<Vec<u64>>,
    deadline: Instant,
) -> Result<FaultRun> {
    let pages = bytes / PAGE;
    let source = ram(bytes)?;
    for page in 0..pages {
        source.write_at(GuestAddress(BASE + page * PAGE), &head(page))?;
    }
    let layout = source.layout().clone();
    let runs = AtomicBool::new(false);
    let vm = Arc::new(Destination { ram: ram(bytes)?, plane: Mutex::default(), runs });
    let listener = DestinationListener::start(
        &"tcp:127.0.0.1:0".parse().map_err(|error| anyhow!("{error}"))?,
        vm.clone(),
        layout.clone(),
        DestinationOptions::default(),
    )?;
    let options = SourceOptions { background: false, prefault, ..SourceOptions::default() };
    let peer = listener.endpoint().clone();
    let session = SourceSession::start(peer, Arc::new(Source(source)), layout, options)?;
    let wait = |what: &str, done: &dyn Fn() -> bool| -> Result<()> {
        while !done() {
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "not {what} in time: {:?}", session.status());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    wait("switched", &|| vm.runs.load(Ordering::Acquire) || session.ended())?;
    let plane = vm.plane().context("the move ended before its switch")?;
    let asked = (way == Way::Asked).then_some(&*plane);
    let start = Barrier::new(orders.len() + 1);
    let (times, seconds) = std::thread::scope(|scope| {
        let all: Vec<_> = orders
            .iter()
            .map(|order| {
                let (ram, start) = (&vm.ram, &start);
                scope.spawn(move || {
                    start.wait();
                    touch(ram, asked, order)
                })
            })
            .collect();
        start.wait();
        let started = Instant::now();
        let mut times = Vec::new();
        for thread in all {
            times.extend(thread.join().map_err(|_| anyhow!("a thread that touches failed"))??);
        }
        anyhow::Ok((times, started.elapsed().as_secs_f64()))
    })?;
    let come = listener.status().pages;
    session.set_background(true);
    wait("complete", &|| session.ended() && listener.status().verified)?;
    let (requests, requested) = listener.requests();
    let status = listener.status();
    session.abandon();
    listener.abandon();
    let mut figures = Figures::default();
    set_faults(&mut figures, &serde_json::to_value(&status.faults)?);
    figures.set("pages", times.len() as f64);
    let touched: HashSet<u64> = orders.into_iter().flatten().collect();
    figures.set("accesses_ms", seconds * 1e3);
    figures.set("asked_pages", come.demand as f64);
    figures.set("prefault_pages", come.prefault as f64);
    let in_vain = (come.demand + come.prefault).saturating_sub(touched.len() as u64);
    figures.set("in_vain_pages", in_vain as f64);
    figures.set("faults_per_s", status.faults.count as f64 / seconds);
    figures.set("pages_per_request", requested as f64 / requests.max(1) as f64);
    for (name, share) in [("touch_p50_us", 0.5), ("touch_p99_us", 0.99), ("touch_max_us", 1.0)] {
        figures.set(name, stats::quantile(&times, share));
    }
    Ok(FaultRun { figures, histogram: stats::histogram(&times) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_touched_once_and_all_of_them_arrive() {
        for way in Way::ALL {
            let deadline = Instant::now() + Duration::from_secs(60);
            let run = generate(way, 3, 4 << 20, deadline).unwrap();
            assert_eq!(run.figures.get("pages"), Some(1024.0), "{way:?}");
            assert_eq!(run.histogram.iter().map(|(_, count)| count).sum::<usize>(), 1024);
            assert!(run.figures.get("faults") > Some(0.0), "{way:?}: {:?}", run.figures);
            assert!(run.figures.get("touch_p99_us") >= run.figures.get("touch_p50_us"));
        }
    }

    #[test]
    fn a_run_through_memory_is_followed_and_random_touches_bring_nothing_along() {
        let counts = |accesses, prefault, mib: u64| {
            let deadline = Instant::now() + Duration::from_secs(60);
            let run = access(accesses, prefault, mib << 20, deadline).unwrap();
            ["asked_pages", "prefault_pages", "in_vain_pages"].map(|name| run.figures.get(name))
        };
        let [(_, none), (_, forward), (_, adaptive)] = PREFAULTS;
        assert_eq!(counts(Accesses::Sequential, none, 4), [Some(512.0), Some(0.0), Some(0.0)]);
        let [asked, ..] = counts(Accesses::Sequential, adaptive, 4);
        assert!(asked < Some(30.0), "{asked:?}");
        let [asked, along, _] = counts(Accesses::Random, adaptive, 32);
        assert!(along.unwrap() * 10.0 < asked.unwrap(), "{along:?} of {asked:?}");
        let [_, _, in_vain] = counts(Accesses::Strided, forward, 4);
        assert!(in_vain > Some(400.0), "{in_vain:?}");
        assert!(Accesses::Boot.order(1 << 14).iter().all(|page| *page < 1 << 14));
    }

    #[test]
    fn a_memory_that_the_order_of_touches_does_not_reach_is_refused() {
        let why = generate(Way::Asked, 1, 3 * PAGE, Instant::now()).unwrap_err().to_string();
        assert!(why.contains("no power of two"), "{why}");
    }
}
