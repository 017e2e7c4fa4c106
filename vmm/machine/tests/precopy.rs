//! Guests that move with rounds of precopy, alone or before postcopy.

#![allow(clippy::unwrap_used)]

mod rig;

use machine::{
    FaultPath, MigrateMode, MigrateRequest, MigrationCapabilities, MigrationParameters, RunState,
    VmConfig, VmControl, VmEvent,
};
use rig::{Machine, config, precopy_to, to};

/// A destination that was started without `-postcopy`.
fn plain() -> VmConfig {
    VmConfig { postcopy: false, ..config(true, FaultPath::Vcpu) }
}

const POSTCOPY_RAM: MigrationCapabilities =
    MigrationCapabilities { postcopy_ram: true, auto_converge: false };

/// So little that rounds of the test guest never end by themselves.
fn trickle() -> MigrationParameters {
    MigrationParameters { downtime_limit: 0, max_bandwidth: 256 << 10, ..Default::default() }
}

/// Starts a migration to a destination that may not be done yet with the one before.
fn begin(source: &Machine, request: &MigrateRequest) {
    loop {
        source.vm.migrate(request.clone()).unwrap();
        source.until("it is taken or refused", |vm| {
            vm.migration().is_some_and(|status| status.phase != "setup")
        });
        if !error(source).contains("is taking in another guest") {
            return;
        }
    }
}

fn error(machine: &Machine) -> String {
    machine.vm.migration().and_then(|status| status.error).unwrap_or_default()
}

/// A migration that the destination refuses; why. The guest goes on.
fn refused(source: &Machine, request: &MigrateRequest) -> String {
    begin(source, request);
    source.until_phase("failed");
    source.until_state(RunState::Running);
    error(source)
}

/// The session that was refused or given up has ended at the destination too.
fn has_no_guest(destination: &Machine) {
    destination.until("it waits for the next", |vm| {
        vm.migration().is_none_or(|status| matches!(&*status.phase, "listening" | "failed"))
    });
}

/// Both ends agree, and the guest has all its memory.
fn arrived(source: &Machine, destination: &Machine) {
    destination.until_phase("completed");
    source.until_phase("completed");
    destination.verify();
    assert_eq!(source.vm.status().status, RunState::Postmigrate);
    assert!(source.vm.cont().is_err(), "two would run");
    assert!(destination.vm.migration().unwrap().verified);
    let memory = destination.vm.memory();
    assert_eq!(memory.pages_present, memory.pages_total);
}

#[test]
fn a_guest_moves_by_precopy_and_runs_on_with_all_its_memory() {
    let source = Machine::ready();
    let events = source.vm.events();
    let (destination, uri) = Machine::listening(plain());
    source.vm.migrate(precopy_to(&uri)).unwrap();
    arrived(&source, &destination);
    let status = source.vm.migration().unwrap();
    assert_eq!(status.mode, "precopy");
    let passes: Vec<u32> = events
        .try_iter()
        .filter_map(|event| match event {
            VmEvent::MigrationPass { pass } => Some(pass),
            _ => None,
        })
        .collect();
    let expected: Vec<u32> = (1..=status.rounds.unwrap().passes).collect();
    assert!(expected.len() >= 2, "{expected:?}");
    assert_eq!(passes, expected, "each round is told of once");
    assert_eq!(destination.vm.migration().unwrap().waiting_for, Vec::<u64>::new());
}

#[test]
fn rounds_before_postcopy_leave_the_rest_to_it() {
    for (path, flags) in
        [(FaultPath::Vcpu, None), (FaultPath::Uffd, None), (FaultPath::Vcpu, Some(1))]
    {
        let source = Machine::ready();
        let there = VmConfig { postcopy_flags: flags, ..config(true, path) };
        let (destination, uri) = Machine::listening(there);
        let mode = MigrateMode::Hybrid { rounds: 2 };
        source.vm.migrate(MigrateRequest { mode, ..to(&uri) }).unwrap();
        arrived(&source, &destination);
        let status = source.vm.migration().unwrap();
        assert_eq!(status.mode, "hybrid");
        assert!((1..=2).contains(&status.rounds.unwrap().passes));
        assert!(status.pages.precopy > 0, "{:?}", status.pages);
    }
}

#[test]
fn a_precopy_that_does_not_end_goes_over_to_postcopy_when_told() {
    let source = Machine::ready();
    source.vm.set_capabilities(POSTCOPY_RAM).unwrap();
    let manual = machine::PostcopySwitch::Manual;
    source.vm.set_parameters(MigrationParameters { postcopy_switch: manual, ..trickle() }).unwrap();
    let (destination, uri) = Machine::listening(plain());
    // Allowed by a monitor, in place of -postcopy.
    destination.vm.set_capabilities(POSTCOPY_RAM).unwrap();
    source.vm.migrate(precopy_to(&uri)).unwrap();
    source.until("a round goes on", |vm| {
        vm.migration().is_some_and(|status| status.rounds.is_some_and(|rounds| rounds.copies > 0))
    });
    source.lives();
    let refused = source.vm.set_capabilities(POSTCOPY_RAM).unwrap_err();
    assert!(refused.0.contains("under way"), "{refused}");
    let refused = destination.vm.set_capabilities(POSTCOPY_RAM).unwrap_err();
    assert!(refused.0.contains("coming in"), "{refused}");
    source.vm.migrate_start_postcopy().unwrap();
    arrived(&source, &destination);
    assert_eq!(source.vm.migrate_start_postcopy().unwrap_err().0, "no migration is under way");
    destination.vm.set_capabilities(MigrationCapabilities::default()).unwrap();
}

#[test]
fn a_precopy_is_limited_until_it_is_told_otherwise() {
    let source = Machine::ready();
    source.vm.set_parameters(trickle()).unwrap();
    let (destination, uri) = Machine::listening(plain());
    source.vm.migrate(precopy_to(&uri)).unwrap();
    source.until_phase("active");
    let told = source.vm.migrate_start_postcopy().unwrap_err();
    assert!(told.0.contains("postcopy"), "{told}");
    source.vm.set_parameters(MigrationParameters::default()).unwrap();
    arrived(&source, &destination);
}

#[test]
fn a_precopy_given_up_leaves_the_guest_and_room_for_the_next() {
    let source = Machine::ready();
    source.vm.set_parameters(trickle()).unwrap();
    let (destination, uri) = Machine::listening(plain());
    for _ in 0..2 {
        begin(&source, &precopy_to(&uri));
        source.until("a round goes on", |vm| {
            vm.migration()
                .is_some_and(|status| status.rounds.is_some_and(|rounds| rounds.copies > 0))
        });
        source.vm.migrate_cancel().unwrap();
        source.until_phase("cancelled");
        assert!(source.vm.status().running);
        source.verify();
    }
    source.vm.set_parameters(MigrationParameters::default()).unwrap();
    begin(&source, &precopy_to(&uri));
    arrived(&source, &destination);
}

#[test]
fn each_destination_takes_guests_in_the_ways_it_was_started_for() {
    let source = Machine::ready();
    let (postcopy_only, uri) = Machine::listening(config(true, FaultPath::Vcpu));
    let error = refused(&source, &precopy_to(&uri));
    assert!(error.contains("by postcopy only (-postcopy): use migrate -p"), "{error}");
    // What a monitor sets takes nothing back of -postcopy.
    has_no_guest(&postcopy_only);
    postcopy_only.vm.set_capabilities(POSTCOPY_RAM).unwrap();
    let error = refused(&source, &precopy_to(&uri));
    assert!(error.contains("by postcopy only"), "{error}");
    let (precopy_only, uri) = Machine::listening(plain());
    let hybrid = MigrateRequest { mode: MigrateMode::Hybrid { rounds: 3 }, ..to(&uri) };
    for request in [to(&uri), hybrid] {
        let error = refused(&source, &request);
        assert!(error.contains("set the capability postcopy-ram"), "{error}");
    }
    source.verify();
    drop(precopy_only);
    let (destination, uri) = Machine::listening(plain());
    destination.vm.set_capabilities(POSTCOPY_RAM).unwrap();
    source.vm.migrate(to(&uri)).unwrap();
    arrived(&source, &destination);
}

#[test]
fn a_guest_that_writes_too_fast_is_slowed_down_and_arrives() {
    let fast = VmConfig {
        command_line: "fill=50 rate=2000000 beat_us=2000".to_owned(),
        ..config(false, FaultPath::Vcpu)
    };
    let source = Machine::launch(fast);
    source.screen.line(0, "ready");
    source
        .vm
        .set_capabilities(MigrationCapabilities { auto_converge: true, postcopy_ram: false })
        .unwrap();
    source
        .vm
        .set_parameters(MigrationParameters {
            max_bandwidth: 40 << 20,
            downtime_limit: 10,
            cpu_throttle_initial: 60,
            cpu_throttle_increment: 30,
            ..Default::default()
        })
        .unwrap();
    let (destination, uri) = Machine::listening(plain());
    source.vm.migrate(precopy_to(&uri)).unwrap();
    source.until("it is slowed down, or done", |vm| {
        vm.migration().is_some_and(|status| {
            status.phase == "completed" || status.rounds.is_some_and(|rounds| rounds.throttle > 0)
        })
    });
    // Slow or not, monitors are answered and the guest can be looked at.
    let _ = source.vm.registers(0);
    source.vm.set_parameters(MigrationParameters::default()).unwrap();
    arrived(&source, &destination);
}

#[test]
fn a_guest_that_is_reset_while_rounds_go_on_arrives_as_it_is_after_that() {
    let source = Machine::ready();
    source.vm.set_parameters(trickle()).unwrap();
    let (destination, uri) = Machine::listening(plain());
    source.vm.migrate(precopy_to(&uri)).unwrap();
    source.until("a round goes on", |vm| {
        vm.migration().is_some_and(|status| status.rounds.is_some_and(|rounds| rounds.copies > 0))
    });
    let mark = source.screen.mark();
    source.vm.system_reset().unwrap();
    source.screen.line(mark, "ready");
    source.vm.set_parameters(MigrationParameters::default()).unwrap();
    arrived(&source, &destination);
}
