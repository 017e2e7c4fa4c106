//! From arguments to what is to be run, or one line that says what is wrong.

use super::memory::{self, MemoryObject};
use super::network::{self, NetworkDevice};
use super::options;
use crate::console::SerialSpec;
use machine::{FaultPath, Incoming, TapSource, VmConfig};
use monitor::{Kind, MonitorSpec, Place};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// What the options say, before they are seen together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) config: VmConfig,
    pub(super) append: Option<String>,
    pub(super) serial: Option<SerialSpec>,
    pub(super) nographic: bool,
    pub(super) monitors: Vec<MonitorSpec>,
    pub(super) pidfile: Option<PathBuf>,
    pub(super) postcopy_flags: Option<u32>,
    pub(super) fault_path: Option<FaultPath>,
    /// Taps by their names.
    pub(super) netdevs: Vec<(String, TapSource)>,
    /// Network devices whose taps are still to be found.
    pub(super) network_devices: Vec<NetworkDevice>,
    /// Memory backends, and the one that RAM is to be.
    pub(super) objects: Vec<MemoryObject>,
    pub(super) memory_backend: Option<String>,
    pub(super) mem_path: Option<PathBuf>,
    /// Whether `-m` was given.
    pub(super) memory_given: bool,
    pub(super) help: bool,
    pub(super) version: bool,
}

/// A VM to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VmCommand {
    pub(super) config: VmConfig,
    pub(super) serial: SerialSpec,
    /// Monitors apart from one that shares stdio with the serial port.
    pub(super) monitors: Vec<MonitorSpec>,
    pub(super) pidfile: Option<PathBuf>,
}

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Help,
    Version,
    Run(Box<VmCommand>),
}

/// Reads the arguments behind `umem vm`.
pub(super) fn parse(arguments: &[String]) -> Result<Asked, String> {
    parse_for(arguments, std::io::stdin().is_terminal())
}

/// As [`parse`]; `terminal` says whether stdio is one.
pub(super) fn parse_for(arguments: &[String], terminal: bool) -> Result<Asked, String> {
    let draft = read(arguments)?;
    if draft.help {
        return Ok(Asked::Help);
    }
    if draft.version {
        return Ok(Asked::Version);
    }
    finish(draft, terminal).map(|command| Asked::Run(Box::new(command)))
}

fn read(arguments: &[String]) -> Result<Draft, String> {
    let mut draft = Draft::default();
    let mut seen = BTreeSet::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let name = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'))
            .ok_or_else(|| format!("'{argument}' is no option; see umem vm -help"))?;
        let row = options::find(name)
            .ok_or_else(|| format!("there is no option '{argument}'; see umem vm -help"))?;
        if !seen.insert(row.name) && !row.repeats {
            return Err(format!("-{name} is given twice"));
        }
        let value = match row.value {
            None => "",
            Some(wanted) => {
                arguments.next().ok_or_else(|| format!("-{name} needs a value: {wanted}"))?
            }
        };
        (row.set)(&mut draft, value).map_err(|why| format!("-{name}: {why}"))?;
    }
    Ok(draft)
}

/// Sees the options together.
fn finish(mut draft: Draft, terminal: bool) -> Result<VmCommand, String> {
    let (serial, monitors) = consoles(&mut draft, terminal)?;
    let networks = network::join(&draft)?;
    memory::join(&mut draft)?;
    let mut config = draft.config;
    config.networks = networks;
    let waits = config.incoming != Incoming::No;
    if config.kernel.is_none() {
        if !waits {
            return Err(
                "-kernel is missing (only a VM that waits with -incoming needs none)".into()
            );
        }
        for (given, name) in
            [(draft.append.is_some(), "append"), (config.initrd.is_some(), "initrd")]
        {
            if given {
                return Err(format!("-{name} goes only with -kernel"));
            }
        }
    }
    if config.postcopy && !waits {
        return Err("-postcopy is for the destination: it goes only with -incoming".into());
    }
    for (given, name) in [
        (draft.postcopy_flags.is_some(), "postcopy-flags"),
        (draft.fault_path.is_some(), "postcopy-fault"),
    ] {
        if given && !config.postcopy {
            return Err(format!("-{name} goes only with -postcopy"));
        }
    }
    config.command_line = draft.append.unwrap_or_default();
    config.postcopy_flags = draft.postcopy_flags;
    config.fault_path = draft.fault_path;
    config.check_options()?;
    Ok(VmCommand { config, serial, monitors, pidfile: draft.pidfile })
}

/// Who has stdio: the serial port, the monitors, or serial port and text monitor together.
fn consoles(draft: &mut Draft, terminal: bool) -> Result<(SerialSpec, Vec<MonitorSpec>), String> {
    let mut monitors = std::mem::take(&mut draft.monitors);
    let text_given = monitors.iter().any(|spec| spec.kind == Kind::Text);
    let text_stdio = MonitorSpec { kind: Kind::Text, place: Place::Stdio };
    let serial = match (draft.serial.take(), draft.nographic) {
        (Some(serial), nographic) => {
            let free = !uses_stdio(&serial) && !any_stdio(&monitors);
            if free && (nographic && !text_given || terminal && monitors.is_empty()) {
                monitors.push(text_stdio.clone());
            }
            serial
        }
        (None, true) if !text_given || monitors.contains(&text_stdio) => {
            if let Some(place) = monitors.iter().position(|spec| *spec == text_stdio) {
                monitors.remove(place);
            }
            SerialSpec::WithMonitor
        }
        (None, true) => SerialSpec::Stdio,
        (None, false) => {
            if monitors.is_empty() && terminal {
                monitors.push(text_stdio.clone());
            }
            SerialSpec::Null
        }
    };
    let users = monitors.iter().filter(|spec| spec.place == Place::Stdio).count()
        + usize::from(uses_stdio(&serial));
    if users > 1 {
        return Err(
            "stdio is given to more than one of -serial, -monitor and -qmp; -nographic or \
                    -serial mon:stdio puts serial port and text monitor there together"
                .into(),
        );
    }
    monitors.retain(|spec| spec.place != Place::None);
    Ok((serial, monitors))
}

fn uses_stdio(serial: &SerialSpec) -> bool {
    matches!(serial, SerialSpec::Stdio | SerialSpec::WithMonitor)
}

fn any_stdio(monitors: &[MonitorSpec]) -> bool {
    monitors.iter().any(|spec| spec.place == Place::Stdio)
}
