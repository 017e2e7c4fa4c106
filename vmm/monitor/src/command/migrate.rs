//! The commands of migration.

use super::{Args, Output};
use crate::report;
use machine::{ControlError, MigrateMode, MigrateRequest, Owner, VmControl};

type Answer = Result<Output, ControlError>;

pub(super) fn info(vm: &dyn VmControl, _: &Args) -> Answer {
    let Some(status) = vm.migration() else {
        let (text, json) = ("no migration yet\n".to_owned(), serde_json::json!({}));
        return Ok(Output { text, json, quit: false });
    };
    let page_bytes = vm.memory().page_bytes;
    let (text, json) = (report::text(&status, page_bytes), report::json(&status, page_bytes));
    Ok(Output { text, json, quit: false })
}

pub(super) fn start(vm: &dyn VmControl, args: &Args) -> Answer {
    if args.flag("resume") {
        return resume(vm, args);
    }
    let request = request(args)?;
    vm.migrate(request).map(|()| Output::done())
}

/// `migrate -r`: as in QEMU the address stands there, but the connections need none.
fn resume(vm: &dyn VmControl, args: &Args) -> Answer {
    let flags = ["postcopy", "no-background", "move-background"].map(|name| args.flag(name));
    let numbers = ["precopy", "forward", "backward"].map(|name| args.number(name).is_some());
    if flags.into_iter().chain(numbers).any(|given| given) {
        return Err(ControlError::new(
            "-r (resume) lets a paused migration go on as it was begun: no other option goes with it",
        ));
    }
    vm.migrate_resume().map(|()| Output::done())
}

/// What the arguments ask for.
fn request(args: &Args) -> Result<MigrateRequest, ControlError> {
    Ok(MigrateRequest {
        uri: args.text("uri").unwrap_or_default().to_owned(),
        mode: mode(args)?,
        background: !args.flag("no-background"),
        move_background: args.flag("move-background"),
        prefault_adaptive: !args.flag("move-background")
            && args.number("forward").is_none()
            && args.number("backward").is_none(),
        prefault_forward: args.number("forward").unwrap_or(0),
        prefault_backward: args.number("backward").unwrap_or(0),
    })
}

fn mode(args: &Args) -> Result<MigrateMode, ControlError> {
    let rounds = args.number("precopy");
    if args.flag("postcopy") {
        return match rounds {
            None => Ok(MigrateMode::Postcopy),
            Some(rounds) => u32::try_from(rounds)
                .map(|rounds| MigrateMode::Hybrid { rounds })
                .map_err(|_| too_many(rounds)),
        };
    }
    let only_postcopy = [
        (args.flag("no-background"), "-n (no-background) is about the background of a postcopy"),
        (
            args.flag("move-background"),
            "-m (move-background) is about the background of a postcopy",
        ),
        (rounds.is_some(), "--precopy N says how many rounds come before a postcopy"),
        (args.number("forward").is_some(), "forward and backward are about a postcopy"),
        (args.number("backward").is_some(), "forward and backward are about a postcopy"),
    ];
    match only_postcopy.into_iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(ControlError::new(format!(
            "{what}: it goes only with -p (postcopy); without -p the guest moves by precopy"
        ))),
        None => Ok(MigrateMode::Precopy),
    }
}

fn too_many(rounds: u64) -> ControlError {
    ControlError::new(format!("--precopy must be 1 to {} rounds, not {rounds}", u32::MAX))
}

pub(super) fn incoming(vm: &dyn VmControl, args: &Args) -> Answer {
    vm.migrate_incoming(args.text("uri").unwrap_or_default()).map(|()| Output::done())
}

pub(super) fn cancel(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.migrate_cancel().map(|()| Output::done())
}

pub(super) fn start_postcopy(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.migrate_start_postcopy().map(|()| Output::done())
}

pub(super) fn pause(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.migrate_pause().map(|()| Output::done())
}

/// In QEMU for a migration that waits before the switch; none does here, but one may be paused after it.
pub(super) fn go_on(vm: &dyn VmControl, args: &Args) -> Answer {
    let paused = vm.migration().is_some_and(|status| status.phase == "postcopy-paused");
    if paused && args.text("state").is_none_or(|state| state == "postcopy-paused") {
        return vm.migrate_resume().map(|()| Output::done());
    }
    Err(ControlError::new(
        "no migration waits to be continued: there is no pause-before-switchover in this version",
    ))
}

pub(super) fn resolve(vm: &dyn VmControl, args: &Args) -> Answer {
    let owner = match args.text("owner") {
        Some("source") => Owner::Source,
        _ => Owner::Destination,
    };
    vm.migrate_resolve(owner).map(|()| Output::done())
}
