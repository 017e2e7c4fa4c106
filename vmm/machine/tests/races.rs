//! What the guest and the operator do while a migration is under way: whatever comes first, one guest
//! is left, at one end, with its memory.

mod rig;

use machine::{ExitReason, FaultPath, MigrateMode, MigrateRequest, RunState, VmConfig, VmControl};
use rig::{Machine, config, to};
use std::time::Duration;

/// Moments to act at, in microseconds after `migrate`: from before the stop to after the handover.
const MOMENTS: [u64; 6] = [0, 300, 1000, 2000, 4000, 10_000];

/// All ways to move, and a destination for each.
const MODES: [MigrateMode; 3] =
    [MigrateMode::Postcopy, MigrateMode::Precopy, MigrateMode::Hybrid { rounds: 2 }];

fn destination_for(mode: MigrateMode, path: FaultPath) -> VmConfig {
    VmConfig { postcopy: mode != MigrateMode::Precopy, ..config(true, path) }
}

/// Where the guest is once the migration has got to its end.
fn owner<'a>(source: &'a Machine, destination: &'a Machine) -> &'a Machine {
    source.until("an end of the migration", |vm| {
        let phase = vm.migration().map(|status| status.phase).unwrap_or_default();
        ["completed", "failed", "cancelled"].contains(&phase.as_str())
    });
    match source.vm.status().status {
        RunState::Postmigrate => {
            destination.until_phase("completed");
            destination
        }
        _ => {
            assert_eq!(destination.vm.status().status, RunState::Inmigrate);
            source
        }
    }
}

#[test]
fn a_guest_that_switches_itself_off_during_a_migration_ends_at_the_end_that_has_it() {
    for moment in MOMENTS {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(config(true, FaultPath::Vcpu));
        source.vm.migrate(to(&uri)).unwrap();
        std::thread::sleep(Duration::from_micros(moment));
        source.press(b'q');
        // One end ends. A key pressed when the guest had gone stays here: the other gets one too.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let ended = |machine: &Machine| machine.vm.cont().is_err_and(|e| e.0.contains("ended"));
        let mut pressed = false;
        while !ended(&source) && !ended(&destination) {
            if !pressed && destination.vm.status().running {
                destination.press(b'q');
                pressed = true;
            }
            assert!(std::time::Instant::now() < deadline, "{moment}: nobody ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        let end = if ended(&source) { &source } else { &destination };
        assert_eq!(end.vm.wait(), ExitReason::GuestShutdown, "{moment}");
    }
}

#[test]
fn a_migration_cancelled_at_any_moment_leaves_one_guest() {
    // The later ones are in rounds that copy.
    for (moment, mode) in MOMENTS.iter().flat_map(|moment| MODES.map(|mode| (*moment, mode))) {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(destination_for(mode, FaultPath::Vcpu));
        source.vm.migrate(MigrateRequest { mode, ..to(&uri) }).unwrap();
        std::thread::sleep(Duration::from_micros(moment));
        let _ = source.vm.migrate_cancel();
        let owner = owner(&source, &destination);
        owner.until_state(RunState::Running);
        owner.verify();
    }
}

#[test]
fn a_destination_quit_at_any_moment_before_the_handover_leaves_the_guest_at_the_source() {
    for (moment, mode) in MOMENTS.iter().flat_map(|moment| MODES.map(|mode| (*moment, mode))) {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(destination_for(mode, FaultPath::Vcpu));
        let background = mode == MigrateMode::Precopy;
        source.vm.migrate(MigrateRequest { mode, background, ..to(&uri) }).unwrap();
        std::thread::sleep(Duration::from_micros(moment));
        destination.vm.quit();
        source.until("an end", |vm| {
            let phase = vm.migration().map(|status| status.phase).unwrap_or_default();
            ["completed", "failed", "postcopy-paused", "handover-unknown"].contains(&&*phase)
        });
        if source.vm.migration().unwrap().phase == "failed" {
            source.until_state(RunState::Running);
            source.verify();
        } else {
            assert!(source.vm.cont().is_err(), "{moment}: the guest may have run elsewhere");
        }
    }
}

#[test]
fn commands_from_all_sides_during_a_migration_neither_hang_nor_harm() {
    let paths = [FaultPath::Vcpu, FaultPath::Uffd];
    for (path, mode) in paths.iter().flat_map(|path| MODES.map(|mode| (*path, mode))) {
        let source = Machine::ready();
        let (destination, uri) = Machine::listening(destination_for(mode, path));
        source.vm.migrate(MigrateRequest { mode, ..to(&uri) }).unwrap();
        std::thread::scope(|scope| {
            for vm in [&source.vm, &destination.vm, &source.vm, &destination.vm] {
                scope.spawn(move || {
                    for _ in 0..20 {
                        let _ = vm.registers(0);
                        let _ = vm.stop();
                        let _ = (vm.status(), vm.cpus(), vm.memory(), vm.migration());
                        let _ = vm.cont();
                    }
                });
            }
        });
        let owner = owner(&source, &destination);
        owner.vm.cont().unwrap();
        owner.verify();
    }
}
