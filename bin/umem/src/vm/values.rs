//! Values of options.

use super::network;
use super::parse::Draft;
use crate::console::SerialSpec;
use machine::{AcceleratorKind, BalloonConfig, CpuConfig, DriveConfig, Incoming};
use std::path::PathBuf;

/// Splits at single commas; two stand for one.
pub(super) fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
}

pub(super) fn machine(draft: &mut Draft, text: &str) -> Result<(), String> {
    for (place, part) in parts(text).iter().enumerate() {
        match part.split_once('=') {
            None if place == 0 => board(part)?,
            Some(("type", name)) => board(name)?,
            Some(("accel", name)) => accelerator(draft, name)?,
            Some(("memory-backend", id)) => draft.memory_backend = Some(id.to_owned()),
            _ => return Err(format!("'{part}' is not known; use virt,accel=kvm|tcg")),
        }
    }
    Ok(())
}

fn board(name: &str) -> Result<(), String> {
    match name {
        "virt" => Ok(()),
        _ => Err(format!("there is no machine '{name}'; this version has virt")),
    }
}

/// Takes the first of `kvm:tcg` that works here, or the last.
pub(super) fn accelerator(draft: &mut Draft, names: &str) -> Result<(), String> {
    let mut named = Vec::new();
    for name in names.split(':') {
        named.push(match name {
            "tcg" => AcceleratorKind::Tcg,
            "kvm" => AcceleratorKind::Kvm,
            _ => return Err(format!("there is no accelerator '{name}'; there are kvm and tcg")),
        });
    }
    let works = |kind: &&AcceleratorKind| kind.works().is_ok();
    if let Some(kind) = named.iter().find(works).or(named.last()) {
        draft.config.accelerator = *kind;
    }
    Ok(())
}

/// `host`, then features as `-avx512f`, `avx512f=off`, and `kvm-asyncpf=off`.
pub(super) fn cpu(draft: &mut Draft, text: &str) -> Result<(), String> {
    let mut cpu = CpuConfig::default();
    for (place, part) in parts(text).iter().enumerate() {
        if place == 0 {
            if part != "host" {
                return Err(format!("there is no processor '{part}'; use host"));
            }
            continue;
        }
        let (name, on) =
            match (part.strip_prefix('-'), part.strip_prefix('+'), part.split_once('=')) {
                (Some(name), ..) => (name, false),
                (_, Some(name), _) => (name, true),
                (.., Some((name, "off"))) => (name, false),
                (.., Some((name, "on"))) => (name, true),
                (.., Some((_, value))) => return Err(format!("'{value}' is neither on nor off")),
                _ => (part.as_str(), true),
            };
        match (name, on) {
            ("", _) => return Err(format!("'{part}' names no feature")),
            ("kvm-asyncpf", on) => cpu.async_page_faults = on,
            // All that the host has is there already.
            (_, true) => {}
            (name, false) => cpu.without.push(name.to_owned()),
        }
    }
    draft.config.cpu = Some(cpu);
    Ok(())
}

/// Bytes of `1G`, `512M`, `size=1024`; a bare number counts MiB.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; use 1G, 512M or a number of MiB");
    let size = text.strip_prefix("size=").unwrap_or(text);
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match size.get(digits.len()..).unwrap_or_default() {
        "" | "M" | "m" => 20,
        "b" | "B" => 0,
        "K" | "k" => 10,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(wrong()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes == 0 || !bytes.is_multiple_of(4096) {
        return Err(format!("{bytes} bytes is no whole number of 4 KiB pages, 1 or more"));
    }
    Ok(bytes)
}

/// `4`, `cpus=4`, or a topology, whose product is the number: the board has no levels to tell apart.
pub(super) fn vcpus(draft: &mut Draft, text: &str) -> Result<(), String> {
    let mut cpus = None;
    let mut product: Option<u32> = None;
    for (place, part) in parts(text).iter().enumerate() {
        let (name, number) = part.split_once('=').unwrap_or(("cpus", part));
        let bare = !part.contains('=');
        let value = number.parse::<u32>().ok().filter(|&number| number > 0);
        let value =
            value.ok_or_else(|| format!("'{part}' is no number of vCPUs; use 1 or more"))?;
        match name {
            "cpus" if !bare || place == 0 => cpus = Some(value),
            "sockets" | "dies" | "clusters" | "cores" | "threads" => {
                product = Some(product.unwrap_or(1).saturating_mul(value));
            }
            "maxcpus" => {
                return Err("vCPUs cannot be added later: there is no maxcpus, use cpus".into());
            }
            _ => return Err(format!("'{part}' is not known; use cpus=N")),
        }
    }
    if let (Some(cpus), Some(product)) = (cpus, product)
        && cpus != product
    {
        return Err(format!("{cpus} vCPUs, but sockets, cores and threads make {product}"));
    }
    draft.config.vcpus = cpus.or(product).unwrap_or(1);
    Ok(())
}

pub(super) fn drive(draft: &mut Draft, text: &str) -> Result<(), String> {
    let number = draft.config.drives.len();
    let mut drive =
        DriveConfig { id: format!("virtio{number}"), path: PathBuf::new(), read_only: false };
    for part in parts(text) {
        match part.split_once('=').unwrap_or((part.as_str(), "")) {
            ("file", file) if !file.is_empty() => drive.path = PathBuf::from(file),
            ("format", "raw") | ("if", "virtio" | "none") => {}
            ("format", other) => {
                return Err(format!("format '{other}' is not known; use raw"));
            }
            ("if", other) => return Err(format!("interface '{other}' is not known; use virtio")),
            ("readonly" | "read-only", "on" | "") => drive.read_only = true,
            ("readonly" | "read-only", "off") => drive.read_only = false,
            ("id", id) if !id.is_empty() => drive.id = id.to_owned(),
            _ => {
                return Err(format!(
                    "'{part}' is not known; use file=FILE,format=raw,if=virtio[,readonly=on]"
                ));
            }
        }
    }
    if drive.path.as_os_str().is_empty() {
        return Err("file=FILE is missing".to_owned());
    }
    if draft.config.drives.iter().any(|other| other.id == drive.id) {
        return Err(format!("there are two drives '{}'", drive.id));
    }
    draft.config.drives.push(drive);
    Ok(())
}

pub(super) fn device(draft: &mut Draft, text: &str) -> Result<(), String> {
    if text == network::DEVICE || text.starts_with("virtio-net-device,") {
        return network::device(draft, text);
    }
    if text == BALLOON || text.starts_with("virtio-balloon-device,") {
        return balloon(draft, text);
    }
    let slot = match text {
        "virtio-rng-device" => &mut draft.config.rng,
        "virtio-serial-device" => &mut draft.config.virtio_console,
        _ => {
            return Err(format!(
                "there is no device '{text}'; use virtio-rng-device, virtio-serial-device, \
                 virtio-balloon-device or virtio-net-device,netdev=ID"
            ));
        }
    };
    if std::mem::replace(slot, true) {
        return Err(format!("there can be only one {text}"));
    }
    Ok(())
}

const BALLOON: &str = "virtio-balloon-device";

fn balloon(draft: &mut Draft, text: &str) -> Result<(), String> {
    let mut balloon = BalloonConfig::default();
    for part in parts(text).iter().skip(1) {
        let slot = match part.split_once('=') {
            Some(("free-page-reporting", word)) => (&mut balloon.free_page_reporting, word),
            Some(("deflate-on-oom", word)) => (&mut balloon.deflate_on_oom, word),
            _ => {
                return Err(format!(
                    "'{part}' is not known; use {BALLOON}[,free-page-reporting=on][,deflate-on-oom=on]"
                ));
            }
        };
        *slot.0 = on_off(part, slot.1)?;
    }
    match draft.config.balloon.replace(balloon) {
        None => Ok(()),
        Some(_) => Err(format!("there can be only one {BALLOON}")),
    }
}

/// `on` or `off`, as QEMU takes them.
pub(super) fn on_off(part: &str, word: &str) -> Result<bool, String> {
    match word {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => Err(format!("'{part}' is neither on nor off")),
    }
}

pub(super) fn serial(text: &str) -> Result<SerialSpec, String> {
    let wrong = || {
        format!(
            "'{text}' is no place for a serial port; use stdio, mon:stdio, null, none, file:FILE \
             or unix:PATH,server[,nowait]"
        )
    };
    match text {
        "stdio" => return Ok(SerialSpec::Stdio),
        "mon:stdio" => return Ok(SerialSpec::WithMonitor),
        "null" | "none" => return Ok(SerialSpec::Null),
        _ => {}
    }
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(SerialSpec::File(path.into())),
        Some(("unix", rest)) => {
            let mut parts = rest.split(',');
            let path = parts.next().filter(|path| !path.is_empty()).ok_or_else(wrong)?;
            let (mut server, mut wait) = (false, true);
            for part in parts {
                match part {
                    "server" | "server=on" => server = true,
                    "nowait" | "wait=off" => wait = false,
                    "wait" | "wait=on" => wait = true,
                    _ => return Err(wrong()),
                }
            }
            if server { Ok(SerialSpec::Unix { path: path.into(), wait }) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

pub(super) fn incoming(text: &str) -> Result<Incoming, String> {
    if text == "defer" {
        return Ok(Incoming::Defer);
    }
    if umem_link::snapshot_path(text).is_some() {
        return Ok(Incoming::Uri(text.to_owned()));
    }
    let endpoint: umem_link::Endpoint =
        text.parse().map_err(|error: umem_link::UriError| error.to_string())?;
    drop(endpoint);
    Ok(Incoming::Uri(text.to_owned()))
}

pub(super) fn postcopy_flags(text: &str) -> Result<u32, String> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err(format!("'{text}' is neither 0 nor 1")),
    }
}
