//! The commands of migration.

use super::{Args, Output, printable};
use crate::report;
use machine::{ControlError, MigrateRequest, MigrationParameters, Owner, VmControl};

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
    let request = request(args)?;
    vm.migrate(request).map(|()| Output::done())
}

/// What the arguments ask for.
fn request(args: &Args) -> Result<MigrateRequest, ControlError> {
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
        background: !args.flag("no-background"),
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

pub(super) fn parameters(vm: &dyn VmControl, _: &Args) -> Answer {
    let parameters = vm.parameters();
    let MigrationParameters { postcopy_background, max_postcopy_bandwidth, multifd_channels } =
        parameters;
    let background = if postcopy_background { "on" } else { "off" };
    let text = format!(
        "max-postcopy-bandwidth: {max_postcopy_bandwidth} bytes/second{}\n\
         multifd-channels: {multifd_channels}\n\
         postcopy-background: {background}\n",
        if max_postcopy_bandwidth == 0 { " (no limit)" } else { "" },
    );
    let json = serde_json::json!({
        "max-postcopy-bandwidth": max_postcopy_bandwidth,
        "multifd-channels": multifd_channels,
        "x-umem-postcopy-background": postcopy_background,
    });
    Ok(Output { text, json, quit: false })
}

/// One parameter, as the text monitor takes it.
pub(super) fn set_parameter(vm: &dyn VmControl, args: &Args) -> Answer {
    let value = args.text("value").unwrap_or_default();
    let mut parameters = vm.parameters();
    match args.text("parameter") {
        Some("postcopy-background") => parameters.postcopy_background = switch(value)?,
        Some("max-postcopy-bandwidth") => parameters.max_postcopy_bandwidth = bytes(value)?,
        _ => parameters.multifd_channels = channels(whole(value)?)?,
    }
    vm.set_parameters(parameters).map(|()| Output::done())
}

/// Any of them, as the JSON monitor takes them.
pub(super) fn set_parameters(vm: &dyn VmControl, args: &Args) -> Answer {
    let mut parameters = vm.parameters();
    if let Some(bytes) = args.number("max-postcopy-bandwidth") {
        parameters.max_postcopy_bandwidth = bytes;
    }
    if let Some(number) = args.number("multifd-channels") {
        parameters.multifd_channels = channels(number)?;
    }
    if let Some(value) = args.text("x-umem-postcopy-background") {
        parameters.postcopy_background = switch(value)?;
    }
    vm.set_parameters(parameters).map(|()| Output::done())
}

fn refuse(value: &str, wanted: &str) -> ControlError {
    ControlError::new(format!("'{}' is not {wanted}", printable(value)))
}

fn switch(value: &str) -> Result<bool, ControlError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(refuse(other, "on or off")),
    }
}

fn whole(value: &str) -> Result<u64, ControlError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| refuse(value, "a whole number of 0 or more"))
}

/// Bytes, or with a suffix K, M, G: 1024, its square, its cube.
fn bytes(value: &str) -> Result<u64, ControlError> {
    let suffixes = [('K', 10), ('M', 20), ('G', 30)];
    let shifted = suffixes.into_iter().find_map(|(letter, shift)| {
        let number = value.strip_suffix([letter, letter.to_ascii_lowercase()])?;
        Some((number, shift))
    });
    let (number, shift) = shifted.unwrap_or((value, 0));
    whole(number)?
        .checked_mul(1 << shift)
        .ok_or_else(|| refuse(value, "a number of bytes that can be counted"))
}

fn channels(number: u64) -> Result<u8, ControlError> {
    u8::try_from(number).map_err(|_| {
        let most = MigrationParameters::MOST_CHANNELS;
        ControlError::new(format!("multifd-channels must be 1 to {most}, not {number}"))
    })
}
