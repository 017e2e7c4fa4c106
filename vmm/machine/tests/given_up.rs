//! Guests that are reset or switched off while their memory is still on its way: nobody needs the rest.
#![allow(clippy::unwrap_used)] // What only tests do.

mod rig;

use machine::{
    ExitReason, FaultPath, MigrateRequest, MigrationParameters, RunState, VmConfig, VmControl,
};
use rig::{Machine, config, guest_image, to};

fn without_background(uri: &str) -> MigrateRequest {
    MigrateRequest { background: false, ..to(uri) }
}

/// All ways in which pages come in.
fn destinations() -> [VmConfig; 4] {
    let of = |fault_path, postcopy_flags| VmConfig {
        kernel: Some(guest_image()),
        postcopy_flags,
        ..config(true, fault_path)
    };
    [
        of(FaultPath::Vcpu, None),
        of(FaultPath::Uffd, None),
        of(FaultPath::Uffd, Some(0)),
        of(FaultPath::Vcpu, Some(1)),
    ]
}

/// A guest that runs where only the pages come that it needs.
fn half_moved(config: VmConfig) -> (Machine, Machine) {
    let source = Machine::ready();
    let (destination, uri) = Machine::listening(config);
    source.vm.migrate(without_background(&uri)).unwrap();
    destination.until_phase("postcopy-active");
    source.until_phase("postcopy-active");
    (source, destination)
}

/// The source has heard that nothing of the guest is needed.
fn is_free(source: &Machine) {
    source.until_phase("completed");
    let status = source.vm.migration().unwrap();
    assert!(!status.verified && status.pages.remaining > 0, "{status:?}");
    assert_eq!(status.error, None);
    assert_eq!(source.vm.status().status, RunState::Postmigrate);
    assert!(source.vm.cont().is_err());
}

/// The guest is as new, with all its memory.
fn is_new(machine: &Machine, mark: usize) {
    machine.screen.line(mark, "ready");
    machine.verify();
    let memory = machine.vm.memory();
    assert_eq!(memory.pages_present, memory.pages_total);
}

#[test]
fn a_reset_ends_the_wait_for_pages_at_both_ends() {
    for config in destinations() {
        let (source, destination) = half_moved(config);
        let mark = destination.screen.mark();
        destination.vm.system_reset().unwrap();
        is_new(&destination, mark);
        is_free(&source);
        destination.until_phase("completed");
        let status = destination.vm.migration().unwrap();
        assert!(!status.verified, "{status:?}");
        assert_eq!(status.error, None);
        // It is a guest like any other: it moves on.
        let (third, uri) = Machine::listening(rig::config(true, FaultPath::Vcpu));
        destination.vm.migrate(to(&uri)).unwrap();
        third.until_phase("completed");
        third.verify();
    }
}

#[test]
fn a_reset_while_pages_pour_in_leaves_none_of_them_behind() {
    for config in destinations() {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(config);
        source.vm.migrate(to(&uri)).unwrap();
        destination.until_state(RunState::Running);
        let mark = destination.screen.mark();
        destination.vm.system_reset().unwrap();
        is_new(&destination, mark);
        source.until_phase("completed");
        destination.until_phase("completed");
    }
}

#[test]
fn a_guest_that_is_switched_off_needs_no_more_pages() {
    for (config, by_itself) in destinations().into_iter().zip([true, false, true, false]) {
        let (source, destination) = half_moved(config);
        if by_itself {
            destination.press(b'q');
        } else {
            destination.vm.system_powerdown().unwrap();
        }
        assert_eq!(destination.vm.wait(), ExitReason::GuestShutdown);
        is_free(&source);
    }
}

#[test]
fn a_guest_whose_pages_are_held_back_can_be_reset() {
    for config in destinations() {
        let (source, destination) = half_moved(config);
        source.vm.migrate_pause().unwrap();
        source.until_phase("postcopy-paused");
        // It checks all its memory, and waits for what is held back.
        destination.press(b'v');
        destination.until("a wait for a page", |vm| {
            vm.migration().is_some_and(|status| !status.waiting_for.is_empty())
        });
        let mark = destination.screen.mark();
        destination.vm.system_reset().unwrap();
        is_new(&destination, mark);
        is_free(&source);
    }
}

#[test]
fn a_guest_whose_source_is_gone_can_be_reset_and_that_is_said() {
    for config in destinations() {
        let (source, destination) = half_moved(config);
        source.vm.quit();
        destination.until_phase("postcopy-paused");
        let mark = destination.screen.mark();
        destination.vm.system_reset().unwrap();
        is_new(&destination, mark);
        let status = destination.vm.migration().unwrap();
        assert_eq!(status.phase, "completed");
        let error = status.error.unwrap();
        assert!(error.contains("was reset") && error.contains("is lost"), "{error}");
    }
}

#[test]
fn a_guest_loaded_on_demand_can_be_reset_and_the_file_is_read_no_more() {
    for config in destinations() {
        let path = std::env::temp_dir().join(format!("umem-given-up-{}", std::process::id()));
        let uri = format!("file:{}", path.display());
        let source = Machine::ready();
        source.vm.migrate(rig::precopy_to(&uri)).unwrap();
        source.until_phase("completed");
        let destination = Machine::launch(config);
        let no_background =
            MigrationParameters { postcopy_background: false, ..MigrationParameters::default() };
        destination.vm.set_parameters(no_background).unwrap();
        destination.vm.migrate_incoming(&uri).unwrap();
        destination.until_phase("postcopy-active");
        let mark = destination.screen.mark();
        destination.vm.system_reset().unwrap();
        is_new(&destination, mark);
        destination.until_phase("completed");
        let status = destination.vm.migration().unwrap();
        assert!(!status.verified && status.pages.remaining > 0, "{status:?}");
        assert_eq!(status.error, None);
        std::fs::remove_file(path).unwrap();
    }
}
