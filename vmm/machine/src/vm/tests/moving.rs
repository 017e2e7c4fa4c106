//! What rounds of precopy ask of the machine: its writes, its vCPUs' time, its memory.

use super::*;
use crate::control::{MigrateMode, MigrateRequest, MigrationCapabilities};
use umem_link::LiveRam;

/// Pages that were written since the last time.
fn collected(live: &LiveRam) -> PageBitmap {
    let into = PageBitmap::new(live.ram.layout().total_pages());
    live.dirty.collect(&into).unwrap();
    into
}

#[test]
fn what_a_guest_writes_is_found_whatever_its_vcpu_does_at_that_moment() {
    let (mut vm, _inbox) = running(Vec::new());
    let live = vm.live_ram();
    live.dirty.start().unwrap();
    let started = Instant::now();
    while collected(&live).count() == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "the guest writes nothing");
    }
    // Whether it is inside an instruction, halted, or coming or going: it answers.
    for _ in 0..50 {
        let _ = collected(&live);
        vm.stop().unwrap();
        let _ = collected(&live);
        assert_eq!(collected(&live).count(), 0, "it stands still");
        vm.cont().unwrap();
    }
    let guest = vm.stop_for_migration().unwrap();
    let _ = collected(&live);
    assert_eq!(collected(&live).count(), 0, "it stands still");
    drop(guest);
    vm.take_back();
    while collected(&live).count() == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "the guest writes nothing any more");
    }
    live.dirty.stop();
    assert!(live.dirty.collect(&PageBitmap::new(live.ram.layout().total_pages())).is_err());
    live.dirty.start().unwrap();
}

#[test]
fn a_vcpu_that_waits_for_a_page_does_not_keep_others_from_collecting() {
    let (mut source, _jobs) = running(Vec::new());
    let guest = source.stop_for_migration().unwrap();
    let (mut vm, _inbox) = incoming();
    let plane = begin(&mut vm).unwrap();
    vm.arriving_runs = vm.load(&guest.package).unwrap();
    vm.life.arrived(true);
    vm.start_guest(Duration::ZERO);
    let started = Instant::now();
    while plane.waiting().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "it needs no page");
    }
    let live = vm.live_ram();
    live.dirty.start().unwrap();
    assert_eq!(collected(&live).count(), 0);
    vm.quit();
    plane.close();
}

#[test]
fn what_the_vmm_writes_for_the_guest_is_found() {
    let (mut vm, _inbox) = running(Vec::new());
    vm.stop().unwrap();
    let live = vm.live_ram();
    live.dirty.start().unwrap();
    assert_eq!(collected(&live).count(), 0);
    // The loader.
    vm.boot().unwrap();
    let loaded = collected(&live);
    let page = |offset: u64| {
        live.ram.layout().page_of(GuestAddress(board::RISCV_RAM_BASE + offset)).unwrap()
    };
    assert!(loaded.test(page(2 << 20)), "the kernel");
    assert!(loaded.count() < loaded.pages(), "and no more than it wrote");
    let mut held = vec![0; 4096];
    for page in (0..loaded.pages()).map(PageIndex).filter(|page| !loaded.test(*page)) {
        // What it did not mark it did not write: a second boot changes nothing there.
        live.ram.copy_pages(PageRange::one(page), &mut held).unwrap();
        vm.hardware.pages.ram().fill_pages(PageRange::one(page), 0x5a).unwrap();
    }
    let _ = collected(&live);
    vm.boot().unwrap();
    assert_eq!(collected(&live).runs().collect::<Vec<_>>(), loaded.runs().collect::<Vec<_>>());
    for page in (0..loaded.pages()).map(PageIndex).filter(|page| !loaded.test(*page)) {
        live.ram.copy_pages(PageRange::one(page), &mut held).unwrap();
        assert!(held.iter().all(|&byte| byte == 0x5a), "{page} was written and not marked");
    }
    // A reset empties and loads.
    vm.reset().unwrap();
    assert_eq!(collected(&live).count(), loaded.pages());
}

#[test]
fn a_throttled_vm_stops_and_ends_at_once() {
    let (mut vm, _inbox) = running(Vec::new());
    vm.shared.throttle.set(99);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(3));
        vm.stop().unwrap();
        assert!(vm.registers(0).is_ok());
        vm.cont().unwrap();
        assert!(vm.registers(0).is_ok());
    }
    assert!(vm.stop_for_migration().is_ok());
    vm.take_back();
    assert_eq!(vm.life.state(), RunState::Running);
    vm.shared.throttle.set(99);
    vm.quit();
    assert!(vm.vcpus.iter().all(|vcpu| vcpu.view().activity() == Activity::Ended));
}

fn request(mode: MigrateMode) -> MigrateRequest {
    MigrateRequest {
        uri: "tcp:127.0.0.1:9".into(),
        mode,
        background: true,
        move_background: false,
        prefault_adaptive: false,
        prefault_forward: 0,
        prefault_backward: 0,
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_numbers() {
    let (mut vm, _inbox) = running(Vec::new());
    let mut refused = |request: MigrateRequest| vm.migrate(&request).unwrap_err().0;
    let none = refused(request(MigrateMode::Hybrid { rounds: 0 }));
    assert!(none.contains("1 to 4294967295 rounds, not 0"), "{none}");
    let precopy = || request(MigrateMode::Precopy);
    for of_postcopy in [
        MigrateRequest { background: false, ..precopy() },
        MigrateRequest { move_background: true, ..precopy() },
        MigrateRequest { prefault_forward: 1, ..precopy() },
        MigrateRequest { prefault_backward: 1, ..precopy() },
    ] {
        let text = refused(of_postcopy);
        assert!(text.contains("precopy alone") && text.contains("postcopy-ram"), "{text}");
    }
    // 8 MiB of RAM.
    let far = MigrateRequest { prefault_backward: 2049, ..request(MigrateMode::Postcopy) };
    let text = refused(far);
    assert!(text.contains("2049 pages") && text.contains("2048 pages"), "{text}");
    let both = MigrationCapabilities { postcopy_ram: true, auto_converge: false };
    vm.shared.migration.set_capabilities(both).unwrap();
    let edge = MigrateRequest { prefault_forward: 2048, background: false, ..precopy() };
    assert!(vm.check_request(&edge).is_ok(), "it may go over to postcopy");
}

/// What the guest has printed.
#[derive(Clone, Default)]
struct Printed(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn beats(&self) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches("\nh ").count()
    }
}

/// Processor time of a thread, in ticks of 10 ms: fields 14 and 15 of its `stat` (proc(5)).
fn ticks_used(thread: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let field = |at: usize| fields.split(' ').nth(at).unwrap().parse::<u64>().unwrap();
    field(12) + field(13)
}

#[test]
fn a_throttled_guest_that_never_rests_gets_little_time_and_still_hears_its_timer() {
    let (printed, (driver, _inbox)) = (Printed::default(), channel());
    let console = ConsoleBackend { output: Box::new(printed.clone()), input: None };
    let config = VmConfig {
        memory_bytes: 8 << 20,
        kernel: Some(image()),
        command_line: "fill=1 rate=1000000000 beat_us=2000".to_owned(),
        ..VmConfig::default()
    };
    let mut vm = Vm::new(config, console, driver).unwrap();
    vm.begin().unwrap();
    let started = Instant::now();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until("it runs", &|| printed.beats() > 0);
    vm.shared.throttle.set(99);
    let beats = printed.beats();
    until("its heart beats on", &|| printed.beats() >= beats + 5);
    let thread = vm.vcpus[0].view().thread_id().unwrap();
    // Of 400 ms it is to have 4; a host that is busy gives it less.
    until("it gets little time", &|| {
        let before = ticks_used(thread);
        std::thread::sleep(Duration::from_millis(400));
        ticks_used(thread) - before < 10
    });
    vm.stop().unwrap();
}

#[test]
fn rounds_that_came_to_nothing_leave_no_memory() {
    let (mut vm, _inbox) = incoming();
    vm.config.postcopy = false;
    for _ in 0..2 {
        let ram = vm.admit_arrival(&vm.description(), Mode::PRECOPY).unwrap();
        let all = PageRange::new(PageIndex(0), ram.layout().total_pages());
        assert_eq!(ram.populated(all).unwrap(), []);
        ram.fill_pages(PageRange::new(PageIndex(10), 100), 0xa5).unwrap();
        vm.abandon_arrival();
        assert!(vm.admit_arrival(&vm.description(), Mode::HYBRID).is_err());
    }
    let ram = vm.admit_arrival(&vm.description(), Mode::PRECOPY).unwrap();
    let all = PageRange::new(PageIndex(0), ram.layout().total_pages());
    assert_eq!(ram.populated(all).unwrap(), []);
}

#[test]
fn a_guest_that_came_by_precopy_runs_without_page_service() {
    let (mut source, _jobs) = running(Vec::new());
    let guest = source.stop_for_migration().unwrap();
    let (mut vm, _inbox) = incoming();
    vm.config.postcopy = false;
    let ram = vm.admit_arrival(&source.description(), Mode::PRECOPY).unwrap();
    let all = PageRange::new(PageIndex(0), ram.layout().total_pages());
    ram.write_pages(all, guest.ram.slice(all).unwrap()).unwrap();
    vm.arriving_runs = vm.load(&guest.package).unwrap();
    vm.arrive(Duration::ZERO, Instant::now()).unwrap();
    vm.arrival_complete();
    assert!(vm.hardware.pages.plane().is_none());
    assert_eq!((vm.life.ownership(), vm.life.state()), (Ownership::Owner, RunState::Running));
    let live = vm.live_ram();
    live.dirty.start().unwrap();
    let started = Instant::now();
    while collected(&live).count() == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "it does nothing");
    }
    assert!(vm.trouble.is_none());
}
