//! Guests that move between two VMs of this process, and what is done to them on the way.

mod rig;

use machine::{ExitReason, FaultPath, MigrationParameters, RunState, VmConfig, VmControl};
use rig::{Machine, config, to};

const PATHS: [FaultPath; 2] = [FaultPath::Vcpu, FaultPath::Uffd];

#[test]
fn a_guest_moves_by_each_fault_path_with_all_its_memory() {
    for path in PATHS {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(config(true, path));
        source.vm.migrate(to(&uri)).unwrap();
        destination.until_phase("completed");
        destination.verify();
        source.until_phase("completed");
        assert_eq!(source.vm.status().status, RunState::Postmigrate);
        assert!(source.vm.cont().is_err(), "two would run");
        assert!(source.vm.system_reset().is_err(), "two would run");
        assert!(destination.vm.migration().unwrap().verified);
    }
}

#[test]
fn a_guest_that_waits_for_pages_can_be_looked_at_stopped_and_let_go_on() {
    for path in PATHS {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(config(true, path));
        source.vm.migrate(without_background(&uri)).unwrap();
        destination.until_phase("postcopy-active");
        // Whether these catch the hart in a wait or not, all come back and none breaks the guest.
        for _ in 0..3 {
            let _ = destination.vm.registers(0);
            let _ = destination.vm.stop();
            assert!(!destination.vm.status().running);
            destination.vm.cont().unwrap();
        }
        let refused = destination.vm.system_reset().unwrap_err();
        assert!(refused.0.contains("no kernel"), "{refused}");
        let refused = destination.vm.migrate(to("tcp:127.0.0.1:9")).unwrap_err();
        assert!(refused.0.contains("pages are missing"), "{refused}");
        source.vm.set_parameters(MigrationParameters::default()).unwrap();
        destination.until_phase("completed");
        destination.verify();
    }
}

fn without_background(uri: &str) -> machine::MigrateRequest {
    machine::MigrateRequest { background: false, ..to(uri) }
}

#[test]
fn a_vm_whose_pages_do_not_come_can_be_quit() {
    for path in PATHS {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(config(true, path));
        source.vm.migrate(without_background(&uri)).unwrap();
        destination.until_phase("postcopy-active");
        source.vm.quit();
        assert_eq!(source.vm.wait(), ExitReason::Quit);
        destination.until_phase("postcopy-paused");
        let _ = destination.vm.stop();
        destination.vm.quit();
        assert_eq!(destination.vm.wait(), ExitReason::Quit);
        assert_eq!(destination.vm.cont().unwrap_err().0, "the VM has ended");
    }
}

#[test]
fn a_guest_that_is_refused_goes_on_and_the_destination_takes_the_next() {
    let (destination, uri) = Machine::listening(config(true, FaultPath::Vcpu));
    let larger = VmConfig { memory_bytes: 20 << 20, ..config(false, FaultPath::Vcpu) };
    let other = Machine::launch(larger);
    other.screen.line(0, "ready");
    other.vm.migrate(to(&uri)).unwrap();
    other.until_phase("failed");
    other.until_state(RunState::Running);
    other.verify();
    let fitting = Machine::ready();
    fitting.vm.migrate(to(&uri)).unwrap();
    destination.until_phase("completed");
    destination.verify();
}

#[test]
fn a_paused_guest_and_one_that_never_ran_arrive_paused_and_go_on_when_told() {
    for never_ran in [false, true] {
        let start_paused = never_ran;
        let source = Machine::launch(VmConfig { start_paused, ..config(false, FaultPath::Vcpu) });
        if !never_ran {
            source.screen.line(0, "ready");
            source.vm.stop().unwrap();
        }
        let (destination, uri) = Machine::listening(config(true, FaultPath::Vcpu));
        source.vm.migrate(to(&uri)).unwrap();
        destination.until_phase("completed");
        destination.until_state(RunState::Paused);
        destination.vm.cont().unwrap();
        destination.screen.line(0, if never_ran { "ready" } else { "h " });
        destination.verify();
    }
}

#[test]
fn a_guest_with_no_kernel_here_outlives_a_reset_that_cannot_be() {
    let source = Machine::ready();
    let (destination, uri) = Machine::listening(config(true, FaultPath::Vcpu));
    source.vm.migrate(to(&uri)).unwrap();
    destination.until_phase("completed");
    let refused = destination.vm.system_reset().unwrap_err();
    assert!(refused.0.contains("no kernel"), "{refused}");
    destination.verify();
    assert!(destination.vm.status().running);
}

#[test]
fn a_guest_moves_there_and_back_again() {
    let first = Machine::ready();
    let (second, uri) = Machine::listening(config(true, FaultPath::Vcpu));
    first.vm.migrate(to(&uri)).unwrap();
    second.until_phase("completed");
    let (third, uri) = Machine::listening(config(true, FaultPath::Uffd));
    second.vm.migrate(to(&uri)).unwrap();
    third.until_phase("completed");
    third.verify();
    assert_eq!(second.vm.status().status, RunState::Postmigrate);
}

#[test]
fn a_migration_to_nobody_leaves_the_guest_running() {
    let source = Machine::ready();
    source.vm.migrate(to("unix:/nonexistent/umem-nobody")).unwrap();
    source.until_phase("failed");
    source.lives();
    source.verify();
}

#[test]
fn a_reset_just_after_a_migration_began_breaks_neither_end() {
    let source = Machine::ready();
    let (destination, uri) = Machine::listening(config(true, FaultPath::Vcpu));
    source.vm.migrate(to(&uri)).unwrap();
    // Before the guest stops it is reset and moves as new; after that it is refused.
    let reset = source.vm.system_reset().is_ok();
    destination.until_phase("completed");
    if reset {
        destination.until_state(RunState::Running);
        // The new guest says that it is ready wherever it came to that.
        destination.until("ready again", |_| {
            source.screen.text().matches("ready").count()
                + destination.screen.text().matches("ready").count()
                == 2
        });
    }
    destination.verify();
}
