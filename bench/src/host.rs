//! What figures were measured on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

fn line_of(file: &str) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

/// The first line that a program prints; `None` when it cannot be run, or fails.
#[must_use]
pub fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// The load average: how much else went on.
#[must_use]
pub fn load() -> Option<String> {
    line_of("/proc/loadavg")
}

/// The congestion control that new TCP connections get here.
#[must_use]
pub fn congestion_control() -> Option<String> {
    line_of("/proc/sys/net/ipv4/tcp_congestion_control")
}

/// Memory that can be had without taking it from anybody, in bytes.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// A line of `/proc/meminfo`, which tells KiB.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The host, and the working copy if this is run in one: the build's own commit where it is known.
#[must_use]
pub fn describe(commit: Option<&str>) -> Value {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let hypervisor = cpu.lines().any(|line| {
        line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "date": said(Path::new("date"), &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]),
        "unix_time": since,
        "commit": commit,
        "kernel": line_of("/proc/sys/kernel/osrelease"),
        "cpus": cpus,
        "cpu_model": model.map(|(_, name)| name),
        "is_virtual": hypervisor,
        "memory_bytes": meminfo(&memory, "MemTotal:"),
        "tcp_congestion_control": congestion_control(),
        "transparent_hugepage": line_of("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average_at_start": load(),
    })
}

#[cfg(test)]
mod tests {
    use super::{available_bytes, describe, meminfo, said};
    use std::path::Path;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24 kB\nMemAvailable:     1048576 kB\nBroken: x kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(1 << 30));
        assert_eq!(meminfo(text, "Broken:"), None);
        assert_eq!(meminfo(text, "Missing:"), None);
        assert!(available_bytes() > Some(0));
    }

    #[test]
    fn a_program_that_fails_or_is_missing_says_nothing() {
        assert_eq!(said(Path::new("echo"), &["a b"]), Some("a b".to_owned()));
        assert_eq!(said(Path::new("false"), &[]), None);
        assert_eq!(said(Path::new("/nowhere/program"), &[]), None);
    }

    #[test]
    fn the_hosts_kernel_and_congestion_control_are_told() {
        let host = describe(Some("abc"));
        assert!(host["kernel"].is_string() && host["tcp_congestion_control"].is_string(), "{host}");
        assert_eq!(host["commit"], "abc");
    }
}
