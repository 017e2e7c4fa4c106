//! Capabilities of migration, in QEMU's names: those that can be switched, and those that hold always
//! or never, which clients written for QEMU ask about all the same.

use super::{Args, Output, printable};
use machine::{ControlError, MigrationCapabilities, VmControl};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

type Answer = Result<Output, ControlError>;

/// Whether a capability can be had, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    /// As the user says.
    Switched(fn(&mut MigrationCapabilities) -> &mut bool),
    /// Cannot be switched off.
    Always,
    /// Cannot be switched on.
    Never,
}

/// One capability.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capability {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    /// What it does, or why it holds always or never.
    pub(crate) help: &'static str,
}

const fn always(name: &'static str, help: &'static str) -> Capability {
    Capability { name, state: State::Always, help }
}

const fn never(name: &'static str, help: &'static str) -> Capability {
    Capability { name, state: State::Never, help }
}

/// Every capability, in the order of `info migrate_capabilities`.
pub(crate) const CAPABILITIES: [Capability; 23] = [
    Capability {
        name: "postcopy-ram",
        state: State::Switched(|all| &mut all.postcopy_ram),
        help: "at the source, 'migrate' may go over to postcopy; at the destination, guests may come \
               by postcopy, as with -postcopy",
    },
    Capability {
        name: "auto-converge",
        state: State::Switched(|all| &mut all.auto_converge),
        help: "precopy takes time from the vCPUs when they write faster than it sends",
    },
    always("events", "each phase of a migration is told as an event"),
    always("return-path", "the destination always answers the source"),
    always("postcopy-preempt", "pages asked for always have a connection of their own"),
    always("zero-blocks", "pages of one repeated byte are always sent without their content"),
    always(
        "multifd",
        "the parameter multifd-channels says how many connections there are, from 1 up",
    ),
    never("xbzrle", "the parameter xor-delta says whether pages go as what has changed of them"),
    never("compress", "the parameter multifd-compression says how pages are packed"),
    never("rdma-pin-all", "there is no RDMA"),
    never("zero-copy-send", "pages are copied before they are sent, so that their checksums hold"),
    never("release-ram", "the source keeps its memory until both ends agree on all pages"),
    never("block", "disks do not move with the guest: both ends open the same image"),
    never("dirty-bitmaps", "disks have no dirty bitmaps"),
    never(
        "late-block-activate",
        "the destination takes its disks when the guest begins to run there",
    ),
    never("pause-before-switchover", "a migration does not wait before the switch"),
    never("switchover-ack", "the source always waits for the destination's word before the switch"),
    never("x-colo", "there is no second copy of a running guest"),
    never("x-ignore-shared", "memory shared with other processes is moved as any other"),
    never("validate-uuid", "guests have no UUID; board and memory are always compared"),
    never("background-snapshot", "a snapshot is taken as a migration to file:PATH"),
    never("mapped-ram", "the pages of a snapshot have fixed places in any case"),
    never("dirty-limit", "vCPUs are slowed down by auto-converge alone"),
];

const COUNT: usize = CAPABILITIES.len();

/// Names for the text monitor.
pub(super) static NAMES: [(&str, &str); COUNT] = {
    let mut names = [("", ""); COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = (CAPABILITIES[at].name, CAPABILITIES[at].help);
        at += 1;
    }
    names
};

fn is_on(capability: &Capability, mut all: MigrationCapabilities) -> bool {
    match capability.state {
        State::Switched(slot) => *slot(&mut all),
        State::Always => true,
        State::Never => false,
    }
}

pub(super) fn show(vm: &dyn VmControl, _: &Args) -> Answer {
    let all = vm.capabilities();
    let (mut text, mut rows) = (String::new(), Vec::new());
    for capability in &CAPABILITIES {
        let (name, on) = (capability.name, is_on(capability, all));
        let fixed = match capability.state {
            State::Switched(_) => "",
            State::Always => " (always)",
            State::Never => " (not in this version)",
        };
        let _ = writeln!(text, "{name}: {}{fixed}", if on { "on" } else { "off" });
        rows.push(json!({ "capability": name, "state": on }));
    }
    Ok(Output { text, json: rows.into(), quit: false })
}

/// One capability, as the text monitor takes it.
pub(super) fn set_one(vm: &dyn VmControl, args: &Args) -> Answer {
    let name = args.text("capability").unwrap_or_default();
    change(vm, &[(name, args.switch("state").unwrap_or_default())])
}

/// Any of them, as the JSON monitor takes them.
pub(super) fn set_many(vm: &dyn VmControl, args: &Args) -> Answer {
    let members = args.list("capabilities").iter().map(member);
    change(vm, &members.collect::<Result<Vec<_>, _>>()?)
}

/// One `{"capability": NAME, "state": BOOLEAN}`.
fn member(value: &Value) -> Result<(&str, bool), ControlError> {
    let members = value.as_object().filter(|members| members.len() == 2);
    let name = members.and_then(|members| members.get("capability")?.as_str());
    let state = members.and_then(|members| members.get("state")?.as_bool());
    name.zip(state).ok_or_else(|| {
        ControlError::new(
            "each member of 'capabilities' must be {\"capability\": NAME, \"state\": true or false}",
        )
    })
}

/// All of the changes or none.
fn change(vm: &dyn VmControl, changes: &[(&str, bool)]) -> Answer {
    static CHANGING: Mutex<()> = Mutex::new(());
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = vm.capabilities();
    let mut all = before;
    for (name, on) in changes {
        let capability = CAPABILITIES.iter().find(|one| one.name == *name).ok_or_else(|| {
            ControlError::new(format!(
                "there is no capability '{}'; 'info migrate_capabilities' or \
                 query-migrate-capabilities lists them",
                printable(name)
            ))
        })?;
        match (capability.state, on) {
            (State::Switched(slot), on) => *slot(&mut all) = *on,
            (State::Always, false) => return Err(fixed(capability, "off")),
            (State::Never, true) => return Err(fixed(capability, "on")),
            (State::Always | State::Never, _) => {}
        }
    }
    if all == before { Ok(()) } else { vm.set_capabilities(all) }.map(|()| Output::done())
}

fn fixed(capability: &Capability, way: &str) -> ControlError {
    let Capability { name, help, .. } = capability;
    ControlError::new(format!("capability '{name}' cannot be switched {way}: {help}"))
}
