//! Dirty tracking: both ways, against what was really written.

use crate::code;
use crate::guest::{DATA, DATA_PAGES, Guest, PAGE, at, begin_as, is_call, ram, ram_to, run};
use crate::host::{host, skip};
use accel::Vcpu;
use accel_kvm::{DirtyChoice, Host, KvmOptions};
use kvm_bindings::kvm_regs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use umem_memory::{
    Backend, DirtyError, DirtyLog, DirtySource, GuestAddress, GuestRam, PageBitmap, PageRange,
};

fn choices(host: &Host, test: &str) -> Vec<DirtyChoice> {
    if host.capabilities().dirty_ring_entries > 0 {
        vec![DirtyChoice::Bitmap, DirtyChoice::Ring, DirtyChoice::Auto]
    } else {
        skip(test, "no dirty rings");
        vec![DirtyChoice::Bitmap, DirtyChoice::Auto]
    }
}

fn guest(host: &Host, vcpus: u32, dirty: DirtyChoice) -> Guest {
    let options = KvmOptions { dirty, ..KvmOptions::default() };
    Guest::with(host, vcpus, &options, ram(&Backend::Anonymous))
}

fn first() -> u64 {
    DATA / PAGE
}

/// Has the guest write into so many pages, from the data's page `from` on.
fn write(guest: &mut Guest, from: u64, pages: u64) {
    let registers = kvm_regs { rdi: DATA + from * PAGE, rbx: pages, ..at(code::u_write()) };
    guest.begin(true, &registers);
    assert!(is_call(guest.run()));
}

#[test]
fn each_page_is_told_once_and_only_while_it_is_on() {
    let Some(host) = host("dirty log") else { return };
    for choice in choices(&host, "dirty log") {
        let mut guest = guest(&host, 1, choice);
        let pages = guest.ram.layout().total_pages();
        let log = DirtyLog::new(pages, vec![guest.vm.writes(), Arc::new(guest.ram.host_writes())]);
        // Pages of the data: the kernel's stack is written too.
        let collected = || {
            let into = PageBitmap::new(pages);
            let added = log.collect(&into).unwrap();
            assert_eq!(added, into.count());
            let all = into.runs().flat_map(|run| run.pages()).map(|page| page.0);
            all.filter_map(|page| page.checked_sub(first())).collect::<Vec<_>>()
        };
        assert!(matches!(log.collect(&PageBitmap::new(pages)), Err(DirtyError::Off(_))));
        write(&mut guest, 7, 1);
        log.start().unwrap();
        assert!(matches!(log.start(), Err(DirtyError::On(_))));
        assert!(matches!(log.collect(&PageBitmap::new(1)), Err(DirtyError::Pages { .. })));
        assert_eq!(collected(), [0u64; 0], "{choice:?}: before the start");
        write(&mut guest, 7, 1);
        write(&mut guest, 70, 2);
        guest.ram.write_at(GuestAddress(DATA + 9 * PAGE), &[1]).unwrap();
        assert_eq!(collected(), [7, 9, 70, 71], "{choice:?}");
        assert_eq!(collected(), [0u64; 0], "{choice:?}: each is told once");
        write(&mut guest, 7, 1);
        assert_eq!(collected(), [7], "{choice:?}: protected again when it was collected");
        log.stop();
        log.stop();
        write(&mut guest, 8, 1);
        log.start().unwrap();
        assert_eq!(collected(), [0u64; 0], "{choice:?}: what came while it was off");
        write(&mut guest, 0, DATA_PAGES);
        assert_eq!(collected().len() as u64, DATA_PAGES, "{choice:?}: more than a ring holds");
        log.stop();
    }
}

/// A source that loses every other page, each time other ones.
struct Forgetful(Arc<dyn DirtySource>);

impl DirtySource for Forgetful {
    fn start(&self) -> Result<(), DirtyError> {
        self.0.start()
    }

    fn collect(&self, into: &PageBitmap) -> Result<u64, DirtyError> {
        let all = PageBitmap::new(into.pages());
        self.0.collect(&all)?;
        for page in all.runs().flat_map(|run| run.pages()).skip(1).step_by(2).collect::<Vec<_>>() {
            all.clear(PageRange::one(page));
        }
        Ok(all.move_into(into))
    }

    fn stop(&self) {
        self.0.stop();
    }
}

/// Pages that differ between RAM and a mirror that got what was reported while two vCPUs and a thread of
/// this process wrote; and how often was collected.
fn differing(
    host: &Host,
    choice: DirtyChoice,
    writes: u64,
    wrap: impl Fn(Arc<dyn DirtySource>) -> Arc<dyn DirtySource>,
) -> (Vec<u64>, u32) {
    let mut guest = guest(host, 2, choice);
    let ram = guest.ram.clone();
    let pages = ram.layout().total_pages();
    let log = DirtyLog::new(pages, vec![wrap(guest.vm.writes()), Arc::new(ram.host_writes())]);
    let mut mirror = vec![0u8; (pages * PAGE) as usize];
    let copy = |mirror: &mut [u8], ram: &GuestRam, page: u64| {
        let into = mirror.chunks_mut(PAGE as usize).nth(page as usize).unwrap();
        ram.read_at(GuestAddress(page * PAGE), into).unwrap();
    };
    for (number, vcpu) in (0u64..).zip(&mut guest.vcpus) {
        let registers = kvm_regs {
            rdi: DATA,
            rbx: DATA_PAGES - 1,
            rcx: writes,
            r9: 0x9e37_79b9_7f4a_7c15 + number,
            ..at(code::u_random())
        };
        begin_as(number, vcpu, true, &registers);
    }
    log.start().unwrap();
    for page in 0..pages {
        copy(&mut mirror, &ram, page);
    }
    let done = AtomicBool::new(false);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let runners: Vec<_> = guest
            .vcpus
            .iter_mut()
            .map(|vcpu| {
                scope.spawn(move || {
                    assert!(is_call(run(vcpu)));
                    crate::guest::settle(vcpu);
                })
            })
            .collect();
        let host_writer = scope.spawn(|| {
            let mut round = 0u64;
            while !done.load(Ordering::SeqCst) {
                round += 1;
                let at = DATA + round * 37 % DATA_PAGES * PAGE + 4088;
                ram.write_at(GuestAddress(at), &round.to_le_bytes()).unwrap();
                std::thread::yield_now();
            }
        });
        loop {
            let last = runners.iter().all(|runner| runner.is_finished());
            if last && !done.swap(true, Ordering::SeqCst) {
                while !host_writer.is_finished() {
                    std::thread::yield_now();
                }
            }
            let dirty = PageBitmap::new(pages);
            log.collect(&dirty).unwrap();
            rounds += 1;
            for page in dirty.runs().flat_map(|run| run.pages()) {
                copy(&mut mirror, &ram, page.0);
            }
            if last {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
    });
    log.stop();
    let mut now = vec![0; PAGE as usize];
    let differs = |page: &u64| {
        ram.read_at(GuestAddress(page * PAGE), &mut now).unwrap();
        let from = (page * PAGE) as usize;
        mirror[from..from + PAGE as usize] != now[..]
    };
    ((0..pages).filter(differs).collect(), rounds)
}

#[test]
fn a_mirror_of_what_is_reported_becomes_the_ram() {
    let Some(host) = host("mirror") else { return };
    for choice in choices(&host, "mirror") {
        let (differing, rounds) = differing(&host, choice, 50_000, |source| source);
        eprintln!("{choice:?}: collected {rounds} times");
        assert!(rounds > 1, "{choice:?}: too few to mean anything");
        assert!(differing.is_empty(), "{choice:?}: pages {differing:?}");
    }
}

#[test]
fn a_source_that_loses_pages_is_found_out() {
    let Some(host) = host("forgetful mirror") else { return };
    for choice in choices(&host, "forgetful mirror") {
        let wrap = |source| Arc::new(Forgetful(source)) as Arc<dyn DirtySource>;
        let (differing, _) = differing(&host, choice, 20_000, wrap);
        assert!(!differing.is_empty(), "{choice:?}");
    }
}

/// Prints what each way costs here; run with `--run-ignored`, alone.
#[test]
#[ignore = "figures, not a test"]
fn figures() {
    const PAGES: u64 = 1 << 16;
    let Some(host) = host("figures") else { return };
    let ram = ram_to(DATA + PAGES * PAGE, &Backend::Anonymous);
    ram.populate().unwrap();
    for round in 0..3 {
        for choice in choices(&host, "figures") {
            let options = KvmOptions { dirty: choice, ..KvmOptions::default() };
            let mut guest = Guest::with(&host, 1, &options, ram.clone());
            let writes = guest.vm.writes();
            let into = PageBitmap::new(ram.layout().total_pages());
            let mut time = |what: &mut dyn FnMut(&mut Guest)| {
                let began = Instant::now();
                what(&mut guest);
                began.elapsed()
            };
            let cold = time(&mut |guest| write(guest, 0, PAGES));
            let warm = time(&mut |guest| write(guest, 0, PAGES));
            let start = time(&mut |_| writes.start().unwrap());
            let first = time(&mut |guest| write(guest, 0, PAGES));
            let again = time(&mut |guest| write(guest, 0, PAGES));
            let collect = time(&mut |_| drop(writes.collect(&into)));
            let second = time(&mut |guest| write(guest, 0, PAGES));
            let few = time(&mut |_| drop(writes.collect(&into)));
            let none = time(&mut |_| drop(writes.collect(&into)));
            write(&mut guest, 0, PAGES / 64);
            let some = Instant::now();
            writes.collect(&into).unwrap();
            let some = some.elapsed();
            writes.stop();
            eprintln!(
                "{round} {choice:?}: of {PAGES} pages: cold {cold:?} warm {warm:?} start {start:?} first \
                 {first:?} again {again:?} collect {collect:?} second {second:?} collect {few:?}; none \
                 {none:?}; of {} {some:?}",
                PAGES / 64
            );
            let _ = guest.vcpus[0].handle();
        }
    }
}
