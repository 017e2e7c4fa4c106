//! A VM without its driver's thread: each step is made by hand, so that what usually comes at once can
//! come in any order.

use super::*;
use crate::config::DriveConfig;
use crate::driver::{Inbox, channel};
use crate::requests::ResetRequest;
use std::path::PathBuf;
use umem_fault::FaultPlane;
use umem_link::Mode;
use umem_memory::{GuestAddress, PageBitmap, PageIndex, PageRange};

mod moving;

fn image() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../guest/test-guest/image/umem-test-guest.elf")
}

fn vm(config: VmConfig) -> (Vm, Inbox<Vm>) {
    let (driver, inbox) = channel();
    let config = VmConfig { memory_bytes: 8 << 20, ..config };
    (Vm::new(config, ConsoleBackend::null(), driver).unwrap(), inbox)
}

fn running(drives: Vec<DriveConfig>) -> (Vm, Inbox<Vm>) {
    let config = VmConfig { kernel: Some(image()), drives, ..VmConfig::default() };
    let (mut vm, inbox) = vm(config);
    vm.begin().unwrap();
    assert_eq!(vm.life.state(), RunState::Running);
    (vm, inbox)
}

fn incoming() -> (Vm, Inbox<Vm>) {
    vm(VmConfig { incoming: Incoming::Defer, postcopy: true, ..VmConfig::default() })
}

/// A guest begins to come in by postcopy.
fn begin(vm: &mut Vm) -> Result<Arc<FaultPlane>, String> {
    vm.admit_arrival(&vm.description(), Mode::POSTCOPY)?;
    let none = PageBitmap::new(vm.hardware.pages.ram().layout().total_pages());
    vm.begin_page_service(&none)
}

fn notes(vm: &Vm) -> String {
    vm.shared.status().notes.join("; ")
}

#[test]
fn a_guest_that_asks_to_be_reset_is_not_moved_and_the_request_is_not_lost() {
    let (mut vm, _inbox) = running(Vec::new());
    // As a vCPU does just before it stops; the driver hears of it after the stop.
    assert!(vm.asked.ask(ResetRequest::Reboot));
    let error = vm.stop_for_migration().err().unwrap();
    assert!(error.0.contains("asks to be reset"), "{error}");
    assert_eq!((vm.life.ownership(), vm.life.state()), (Ownership::Owner, RunState::Running));
    let resets = vm.shared.events.listen();
    vm.guest_asks(ResetRequest::Reboot);
    assert!(resets.try_iter().any(|event| event == VmEvent::Reset { guest: true }));
    assert_eq!(vm.life.state(), RunState::Running);
    // It was asked once; whoever asks twice for it finds it done.
    vm.guest_asks(ResetRequest::Reboot);
    assert!(!resets.try_iter().any(|event| event == VmEvent::Reset { guest: true }));
    assert!(vm.stop_for_migration().is_ok());
}

#[test]
fn a_guest_taken_back_without_its_disks_does_not_run_until_it_has_them() {
    let path = std::env::temp_dir().join(format!("umem-take-back-{}", std::process::id()));
    std::fs::write(&path, [0; 4096]).unwrap();
    let drive = || DriveConfig { id: "disk0".into(), path: path.clone(), read_only: false };
    let (mut source, _jobs) = running(vec![drive()]);
    source.stop_for_migration().unwrap();
    let (other, _others_jobs) = running(vec![drive()]);
    source.take_back();
    assert_eq!(source.life.state(), RunState::Paused);
    assert!(notes(&source).contains("stays stopped"), "{}", notes(&source));
    assert!(source.cont().is_err(), "another VM has the disk");
    assert_eq!(source.life.state(), RunState::Paused);
    other.hardware.unlock_disks().unwrap();
    source.cont().unwrap();
    assert!(source.shared.block().iter().all(|disk| disk.locked));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_saved_guest_gives_its_disks_up_and_goes_on_only_with_them() {
    let path = std::env::temp_dir().join(format!("umem-saved-{}", std::process::id()));
    std::fs::write(&path, [0; 4096]).unwrap();
    let drive = || DriveConfig { id: "disk0".into(), path: path.clone(), read_only: false };
    let (mut saved, _jobs) = running(vec![drive()]);
    saved.stop_for_migration().unwrap();
    saved.saved();
    assert_eq!(
        (saved.life.ownership(), saved.life.state()),
        (Ownership::Owner, RunState::Postmigrate)
    );
    assert!(notes(&saved).contains("saved to a file"), "{}", notes(&saved));
    let (other, _others_jobs) = running(vec![drive()]);
    assert!(saved.cont().is_err(), "another VM has the disk");
    // As new, but it does not run without its disk either.
    saved.reset().unwrap();
    assert_eq!(saved.life.state(), RunState::Postmigrate);
    other.hardware.unlock_disks().unwrap();
    saved.cont().unwrap();
    assert_eq!(saved.life.state(), RunState::Running);
    assert!(saved.shared.block().iter().all(|disk| disk.locked));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_page_that_is_lost_pauses_the_guest_and_says_why() {
    let (mut vm, _inbox) = incoming();
    let plane = begin(&mut vm).unwrap();
    vm.life.arrived(true);
    vm.page_lost(PageIndex(5), "its bytes were altered");
    assert_eq!(vm.life.state(), RunState::Paused);
    assert!(notes(&vm).contains("page 0x5") && notes(&vm).contains("its bytes were altered"));
    vm.config.kernel = Some(image());
    vm.reset().unwrap();
    assert_eq!((vm.life.state(), notes(&vm)), (RunState::Paused, String::new()));
    // The report of another page, on its way since before the reset.
    vm.cont().unwrap();
    vm.page_lost(PageIndex(6), "its bytes were altered");
    assert_eq!((vm.life.state(), notes(&vm)), (RunState::Running, String::new()));
    drop(plane);
}

#[test]
fn an_incoming_guest_that_is_given_up_leaves_no_memory_and_room_for_the_next() {
    let (mut vm, _inbox) = incoming();
    for _ in 0..2 {
        let plane = begin(&mut vm).unwrap();
        plane.install_fill(PageRange::new(PageIndex(0), 100), 0xa5).unwrap();
        assert!(vm.load(b"no package").is_err());
        vm.abandon_arrival();
        assert!(vm.hardware.pages.plane().is_none());
        let mut byte = [1];
        vm.hardware.pages.ram().read_at(GuestAddress(board::RISCV_RAM_BASE), &mut byte).unwrap();
        assert_eq!(byte, [0], "its memory is given back");
    }
}

#[test]
fn memory_of_a_guest_that_has_arrived_is_never_emptied_for_another() {
    let (mut vm, _inbox) = incoming();
    let (mut source, _jobs) = running(Vec::new());
    let guest = source.stop_for_migration().unwrap();
    let plane = begin(&mut vm).unwrap();
    let total = plane.table().counts().total();
    plane.install_fill(PageRange::new(PageIndex(0), total), 7).unwrap();
    vm.arriving_runs = vm.load(&guest.package).unwrap();
    assert!(vm.arriving_runs);
    vm.arriving_runs = false;
    vm.arrive(Duration::ZERO, Instant::now()).unwrap();
    assert!(begin(&mut vm).is_err());
    vm.abandon_arrival();
    let mut byte = [0];
    vm.hardware.pages.ram().read_at(GuestAddress(board::RISCV_RAM_BASE), &mut byte).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_guest_with_lost_pages_does_not_move_and_a_reset_makes_it_whole() {
    let (mut vm, _inbox) = incoming();
    let plane = begin(&mut vm).unwrap();
    let lost = PageRange::one(PageIndex(5));
    plane.install_unreadable(lost).unwrap();
    let total = plane.table().counts().total();
    plane.install_fill(PageRange::new(PageIndex(0), total), 0).unwrap();
    vm.life.arrived(false);
    vm.arrival_complete();
    plane.release().unwrap();
    assert!(vm.require_no_lost_pages().unwrap_err().0.starts_with("1 pages"));
    // A vCPU asks this before it touches a page.
    use accel::PagePresence;
    assert!(!vm.hardware.pages.is_present(PageIndex(5)));
    vm.config.kernel = Some(image());
    vm.reset().unwrap();
    assert!(vm.require_no_lost_pages().is_ok());
    let mut byte = [1];
    let address = GuestAddress(board::RISCV_RAM_BASE + 5 * 4096);
    vm.hardware.pages.ram().read_at(address, &mut byte).unwrap();
}

#[test]
fn a_guest_that_asks_for_a_reset_while_its_memory_arrives_needs_no_more_of_it() {
    for asks in [false, true] {
        let (mut vm, _inbox) = incoming();
        vm.config.kernel = Some(image());
        let plane = begin(&mut vm).unwrap();
        plane.install_fill(PageRange::new(PageIndex(0), 100), 0xa5).unwrap();
        vm.life.arrived(true);
        let resets = vm.shared.events.listen();
        if asks {
            assert!(vm.asked.ask(ResetRequest::Reboot));
            vm.guest_asks(ResetRequest::Reboot);
        } else {
            vm.reset().unwrap();
        }
        assert!(resets.try_iter().any(|event| event == VmEvent::Reset { guest: asks }));
        assert_eq!(vm.life.state(), RunState::Running);
        assert!(vm.hardware.pages.plane().is_none());
        // What comes late finds no way into the new guest's memory.
        assert!(plane.install_fill(PageRange::new(PageIndex(200), 1), 0xa5).is_err());
        vm.stop().unwrap();
        let mut byte = [1];
        vm.hardware.pages.ram().read_at(GuestAddress(board::RISCV_RAM_BASE), &mut byte).unwrap();
        assert_ne!(byte, [0xa5]);
    }
}

#[test]
fn a_reset_without_a_kernel_gives_nothing_up() {
    let (mut vm, _inbox) = incoming();
    let plane = begin(&mut vm).unwrap();
    vm.life.arrived(false);
    assert!(vm.reset().unwrap_err().0.contains("no kernel"));
    plane.install_fill(PageRange::new(PageIndex(0), 100), 0xa5).unwrap();
    assert!(vm.hardware.pages.plane().is_some());
}

#[test]
fn the_clock_stands_still_in_a_pause_and_goes_on_over_a_migration_that_failed() {
    let (mut vm, _inbox) = running(Vec::new());
    let clock = vm.hardware.clock.clone();
    vm.stop().unwrap();
    let stopped = vm.hardware.stopped_ticks().unwrap();
    vm.stop_for_migration().unwrap();
    assert_eq!(vm.hardware.stopped_ticks(), Some(stopped), "a paused guest's does not go on");
    vm.take_back();
    assert_eq!(vm.life.state(), RunState::Paused);
    vm.cont().unwrap();
    vm.stop_for_migration().unwrap();
    let (stopped, since) = (vm.hardware.stopped_ticks().unwrap(), Instant::now());
    std::thread::sleep(Duration::from_millis(20));
    let pause = since.elapsed();
    vm.take_back();
    let ticks = u64::try_from(pause.as_nanos() / 100).unwrap();
    assert!(clock.save().ticks >= stopped + ticks, "it went on by the pause");
}
