//! The commands of migration.

use super::{Args, Output};
use crate::report;
use machine::{ControlError, MigrateRequest, Owner, VmControl};

type Answer = Result<Output, ControlError>;

pub(super) fn info(vm: &dyn VmControl, _: &Args) -> Answer {
    let status = vm.migration();
    let text = match &status {
        Some(status) => report::text(status),
        None => "no migration yet\n".to_owned(),
    };
    let json = status.as_ref().map_or_else(|| serde_json::json!({}), report::json);
    Ok(Output { text, json, quit: false })
}

pub(super) fn start(vm: &dyn VmControl, args: &Args) -> Answer {
    let request = request(args, vm.background())?;
    vm.migrate(request).map(|()| Output::done())
}

/// What the arguments ask for; `background` is the parameter's standing value.
fn request(args: &Args, background: bool) -> Result<MigrateRequest, ControlError> {
    let postcopy = args.flag("postcopy");
    if !postcopy {
        for (name, shown) in [("no-background", "-n"), ("move-background", "-m")] {
            if args.flag(name) {
                return Err(ControlError::new(format!(
                    "{shown} ({name}) is about the background of a postcopy: it goes only with -p \
                     (postcopy)"
                )));
            }
        }
        if args.number("forward").is_some() {
            return Err(ControlError::new(
                "forward and backward are about a postcopy: they go only with -p (postcopy)",
            ));
        }
        return Err(ControlError::new(
            "precopy is not there yet in this version; use -p (postcopy) for pure postcopy",
        ));
    }
    Ok(MigrateRequest {
        uri: args.text("uri").unwrap_or_default().to_owned(),
        postcopy,
        background: background && !args.flag("no-background"),
        move_background: args.flag("move-background"),
        prefault_forward: args.number("forward").unwrap_or(0),
        prefault_backward: args.number("backward").unwrap_or(0),
    })
}

pub(super) fn incoming(vm: &dyn VmControl, args: &Args) -> Answer {
    vm.migrate_incoming(args.text("uri").unwrap_or_default()).map(|()| Output::done())
}

pub(super) fn cancel(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.migrate_cancel().map(|()| Output::done())
}

pub(super) fn resolve(vm: &dyn VmControl, args: &Args) -> Answer {
    let owner = match args.text("owner") {
        Some("source") => Owner::Source,
        _ => Owner::Destination,
    };
    vm.migrate_resolve(owner).map(|()| Output::done())
}

pub(super) fn set_parameter(vm: &dyn VmControl, args: &Args) -> Answer {
    vm.set_background(args.text("value") == Some("on")).map(|()| Output::done())
}
