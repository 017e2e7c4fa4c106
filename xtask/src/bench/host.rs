//! What the figures were measured on.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};

use super::Setup;
use crate::{paths, run};

fn line_of(file: &str) -> Value {
    match fs::read_to_string(file) {
        Ok(text) => json!(text.trim()),
        Err(_) => Value::Null,
    }
}

fn said(program: &str, arguments: &[&str]) -> Value {
    let mut command = run::command(program, arguments);
    match run::text(command.current_dir(paths::root())) {
        Ok(text) => json!(text.lines().next().unwrap_or_default()),
        Err(_) => Value::Null,
    }
}

/// The load average: how much else went on.
pub(crate) fn load() -> Value {
    line_of("/proc/loadavg")
}

pub(crate) fn describe(setup: &Setup) -> Result<Value> {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let version = run::text(&mut run::command(&setup.qemu, ["--version"]))?;
    // Untracked files change nothing that is measured.
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    Ok(json!({
        "date": said("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]),
        "commit": said("git", &["rev-parse", "HEAD"]),
        "uncommitted_changes": changed.as_str().is_some_and(|text| !text.is_empty()),
        "kernel": line_of("/proc/sys/kernel/osrelease"),
        "cpus": cpus,
        "cpu_model": model.map(|(_, name)| name),
        "memory": memory.lines().next(),
        "tcp_congestion_control": line_of("/proc/sys/net/ipv4/tcp_congestion_control"),
        "transparent_hugepage": line_of("/sys/kernel/mm/transparent_hugepage/enabled"),
        "qemu": version.lines().next(),
        "guest": fs::read_to_string(paths::linux_out().join("version"))
            .ok()
            .map(|text| text.trim().replace('\n', ", ")),
        "runs": setup.runs,
        "load_average_at_start": load(),
    }))
}
