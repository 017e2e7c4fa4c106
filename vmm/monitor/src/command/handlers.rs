//! What the commands do, apart from migration.

use super::{Args, Output, TABLE, find_text, printable, run_line, words};
use machine::{BalloonStatus, BlockStatus, ControlError, NetworkStatus, VmControl};
use serde_json::json;
use std::fmt::Write as _;

/// Version of umem, as all its parts have it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

type Answer = Result<Output, ControlError>;

fn told(text: String, json: serde_json::Value) -> Answer {
    Ok(Output { text, json, quit: false })
}

pub(super) fn help(_: &dyn VmControl, args: &Args) -> Answer {
    let Some(asked) = args.text("command") else {
        return told(list(|_| true), json!({}));
    };
    if asked == "info" {
        return told(list(|name| name.starts_with("info ")), json!({}));
    }
    let (row, _) = find_text(&words(asked)?).ok_or_else(|| {
        ControlError::new(format!("no help for '{}'; 'help' lists the commands", printable(asked)))
    })?;
    told(format!("{} -- {}\n", row.usage(), row.explanation().replace('\n', "\n    ")), json!({}))
}

/// The topics have rows of their own: what comes here is none of them.
pub(super) fn info(_: &dyn VmControl, args: &Args) -> Answer {
    if let Some(topic) = args.text("topic") {
        return Err(ControlError::new(format!(
            "nothing is known about '{}'; 'info' lists what there is",
            printable(topic)
        )));
    }
    told(list(|name| name.starts_with("info ")), json!({}))
}

fn list(wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for row in TABLE.iter().filter(|row| row.text.is_some_and(&wanted)) {
        let _ = writeln!(text, "{} -- {}", row.usage(), row.help.replace('\n', "\n    "));
    }
    text
}

pub(super) fn status(vm: &dyn VmControl, _: &Args) -> Answer {
    let status = vm.status();
    let word = status.status.word();
    let mut text = String::from("VM status: ");
    text += match (status.running, word) {
        (true, _) => "running",
        (false, "paused") => "paused",
        _ => "paused (",
    };
    if !status.running && word != "paused" {
        text += word;
        text.push(')');
    }
    text.push('\n');
    for note in &status.notes {
        let _ = writeln!(text, "  {note}");
    }
    let json = json!({ "status": word, "running": status.running, "x-umem-notes": status.notes });
    told(text, json)
}

pub(super) fn cpus(vm: &dyn VmControl, _: &Args) -> Answer {
    let cpus = vm.cpus();
    let mut text = String::new();
    for cpu in &cpus {
        let _ = write!(
            text,
            "{} CPU #{}: {}",
            if cpu.index == 0 { '*' } else { ' ' },
            cpu.index,
            cpu.state
        );
        if let Some(thread) = cpu.thread_id {
            let _ = write!(text, " thread_id={thread}");
        }
        text.push('\n');
    }
    let rows = cpus.iter().map(|cpu| {
        json!({
            "cpu-index": cpu.index,
            "thread-id": cpu.thread_id,
            "target": cpu.target,
            "x-umem-state": cpu.state,
        })
    });
    told(text, rows.collect())
}

pub(super) fn registers(vm: &dyn VmControl, args: &Args) -> Answer {
    let number = args.number("cpu").unwrap_or(0);
    let number = u32::try_from(number)
        .map_err(|_| ControlError::new(format!("there is no vCPU {number}; see 'info cpus'")))?;
    let mut text = vm.registers(number)?;
    let json = json!({ "text": text });
    if !text.ends_with('\n') {
        text.push('\n');
    }
    told(text, json)
}

pub(super) fn block(vm: &dyn VmControl, _: &Args) -> Answer {
    let disks = vm.block();
    let mut text = String::new();
    for disk in &disks {
        let BlockStatus { device, file, size, read_only, locked } = disk;
        let mode = if *read_only { "read-only" } else { "read-write" };
        let lock = if *locked { "locked here" } else { "not locked here" };
        let _ = writeln!(text, "{device}: {file} (raw, {mode}, {size} bytes, {lock})");
    }
    if disks.is_empty() {
        text += "no disks\n";
    }
    let rows = disks.iter().map(|disk| {
        json!({
            "device": disk.device,
            "inserted": { "file": disk.file, "drv": "raw", "ro": disk.read_only },
            "x-umem": disk,
        })
    });
    told(text, rows.collect())
}

pub(super) fn memory(vm: &dyn VmControl, _: &Args) -> Answer {
    let memory = vm.memory();
    let mut text = String::new();
    for (name, address, bytes) in &memory.blocks {
        let last = address.saturating_add(bytes.saturating_sub(1));
        let _ = writeln!(text, "{address:#018x}-{last:#018x} {name}, {} MiB", bytes >> 20);
    }
    let _ = writeln!(
        text,
        "pages: {} of {} present, {} bytes each",
        memory.pages_present, memory.pages_total, memory.page_bytes
    );
    let _ = writeln!(text, "{}, host pages of {} KiB", memory.kind, memory.host_page_bytes >> 10);
    if let Some((joined, places)) = memory.collapsed {
        let _ = writeln!(text, "small pages joined to huge ones: {joined} of {places} places");
    }
    told(text, json!(memory))
}

pub(super) fn network(vm: &dyn VmControl, _: &Args) -> Answer {
    let networks = vm.networks();
    let mut text = String::new();
    for network in &networks {
        let NetworkStatus { id, tap, mac, up, received, sent, dropped } = network;
        let link = if *up { "up" } else { "down" };
        let _ = writeln!(
            text,
            "{id}: virtio-net-device, tap {tap}, mac {mac}, link {link}; frames: {received} to the guest, \
             {sent} from it, {dropped} dropped"
        );
    }
    if networks.is_empty() {
        text += "no network devices\n";
    }
    told(text, json!(networks))
}

fn has_balloon(vm: &dyn VmControl) -> Result<BalloonStatus, ControlError> {
    let none = "the guest has no balloon; start the VM with -device virtio-balloon-device";
    vm.balloon().ok_or_else(|| ControlError::new(none))
}

pub(super) fn balloon(vm: &dyn VmControl, _: &Args) -> Answer {
    let BalloonStatus { actual, target, given_back } = has_balloon(vm)?;
    let text = format!(
        "balloon: actual={} MiB (asked for {} MiB; {} MiB given back to the host here)\n",
        actual >> 20,
        target >> 20,
        given_back >> 20
    );
    told(
        text,
        json!({ "actual": actual, "x-umem": { "target": target, "given-back": given_back } }),
    )
}

pub(super) fn set_balloon(vm: &dyn VmControl, args: &Args) -> Answer {
    vm.set_balloon(args.number("value").unwrap_or(0)).map(|()| Output::default())
}

pub(super) fn announce_self(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.announce_self().map(|()| Output::default())
}

pub(super) fn version(_: &dyn VmControl, _: &Args) -> Answer {
    told(format!("umem {VERSION}\n"), version_json())
}

/// The version as QMP tells it.
pub(crate) fn version_json() -> serde_json::Value {
    let mut numbers = VERSION.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    json!({
        "qemu": { "major": next(), "minor": next(), "micro": next() },
        "package": format!("umem {VERSION}"),
    })
}

pub(super) fn stop(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.stop().map(|()| Output::done())
}

pub(super) fn cont(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.cont().map(|()| Output::done())
}

/// The session ends the VM, after its answer is on its way.
pub(super) fn quit(_: &dyn VmControl, _: &Args) -> Answer {
    Ok(Output { quit: true, ..Output::done() })
}

pub(super) fn system_reset(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.system_reset().map(|()| Output::done())
}

pub(super) fn system_powerdown(vm: &dyn VmControl, _: &Args) -> Answer {
    vm.system_powerdown().map(|()| Output::done())
}

pub(super) fn commands(_: &dyn VmControl, _: &Args) -> Answer {
    let names = TABLE.iter().filter_map(|row| row.json).map(|name| json!({ "name": name }));
    told(String::new(), names.collect())
}

/// As in QEMU, what the text monitor would print is the answer, refusals too.
pub(super) fn human(vm: &dyn VmControl, args: &Args) -> Answer {
    let line = args.text("command-line").unwrap_or_default();
    match run_line(vm, line) {
        Ok(done) => Ok(Output { json: done.text.into(), quit: done.quit, text: String::new() }),
        Err(error) => told(String::new(), format!("Error: {error}\n").into()),
    }
}

/// The session checks what it negotiates before this is reached.
pub(super) fn negotiated(_: &dyn VmControl, _: &Args) -> Answer {
    Ok(Output::done())
}
