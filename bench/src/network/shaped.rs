//! Two network namespaces and a link of a given rate between them.
//!
//! ```text
//! umem-bench-a-n: eth0 10.78.0.1 ══ veth, a token bucket at each end ══ eth0 10.78.0.2 :umem-bench-b-n
//! ```

use crate::guest::End;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::process::{Command, Stdio};

/// The destination's address.
const DESTINATION: &str = "10.78.0.2";
/// It alone is there, so any port is free.
const PORT: u16 = 4444;

/// Where the kernel's settings are.
const SYSCTL: &str = "/proc/sys/net/ipv4";

/// Has namespaces be given a congestion control that is not the host's own, for a moment.
struct Allowed {
    before: Option<String>,
}

impl Allowed {
    fn new(congestion: &str) -> Result<Self> {
        let has = |text: &str| text.split_whitespace().any(|word| word == congestion);
        let read = |name: &str| fs::read_to_string(format!("{SYSCTL}/{name}"));
        let available = read("tcp_available_congestion_control")?;
        ensure!(
            has(&available),
            "no congestion control '{congestion}' here, only {}; modprobe tcp_{congestion} may help",
            available.trim()
        );
        let before = read("tcp_allowed_congestion_control")?;
        if has(&before) {
            return Ok(Self { before: None });
        }
        let more = format!("{} {congestion}", before.trim());
        fs::write(format!("{SYSCTL}/tcp_allowed_congestion_control"), more)
            .context("cannot allow it to namespaces")?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Then it stays allowed, which harms nobody.
            let _ = fs::write(format!("{SYSCTL}/tcp_allowed_congestion_control"), before);
        }
    }
}

/// The namespaces; they go with it.
#[derive(Debug)]
pub struct Shaped {
    names: [String; 2],
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program}: is iproute2 installed?"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} {}: {why}", arguments.join(" "));
    }
    Ok(())
}

fn words(program: &str, line: &str) -> Result<()> {
    run(program, &line.split_whitespace().collect::<Vec<_>>())
}

impl Shaped {
    /// Why such a link cannot be made here, if so.
    #[must_use]
    pub fn lacks() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("a shaped link needs root, for network namespaces".to_owned());
        }
        let missing: Vec<&str> =
            ["ip", "tc"].into_iter().filter(|tool| words(tool, "-V").is_err()).collect();
        (!missing.is_empty()).then(|| format!("no {}: install iproute2", missing.join(", no ")))
    }

    /// Makes them, with so many Mbit/s each way and this congestion control for all their connections.
    ///
    /// # Errors
    /// When this user may not, or the kernel lacks a part.
    pub fn new(mbit: u32, congestion: &str) -> Result<Self> {
        let number = std::process::id();
        let names = ["a", "b"].map(|end| format!("umem-bench-{end}-{number}"));
        // What was made before an error goes with this.
        let shaped = Self { names };
        let [near, far] = &shaped.names;
        for name in [near, far] {
            words("ip", &format!("netns add {name}"))?;
        }
        words("ip", &format!("-n {near} link add eth0 type veth peer name eth0 netns {far}"))?;
        for (name, address) in [(near, "10.78.0.1"), (far, DESTINATION)] {
            words("ip", &format!("-n {name} addr add {address}/24 dev eth0"))?;
            words("ip", &format!("-n {name} link set lo up"))?;
            words("ip", &format!("-n {name} link set eth0 up"))?;
            // A bucket of 2 ms, and a queue of 20 ms behind it.
            let burst = u64::from(mbit) * 250;
            let shape = format!("rate {mbit}mbit burst {burst} latency 20ms");
            words("tc", &format!("-n {name} qdisc add dev eth0 root tbf {shape}"))?;
        }
        let _allowed = Allowed::new(congestion)?;
        for name in [near, far] {
            let script = format!("echo {congestion} > {SYSCTL}/tcp_congestion_control");
            run("ip", &["netns", "exec", name, "sh", "-c", &script])
                .with_context(|| format!("cannot choose congestion control '{congestion}'"))?;
        }
        Ok(shaped)
    }

    /// Where the destination listens and the source connects to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp:{DESTINATION}:{PORT}")
    }

    /// The same command, in the namespace of this end.
    #[must_use]
    pub fn enter(&self, end: End, command: &Command) -> Command {
        let [near, far] = &self.names;
        let name = if end == End::Source { near } else { far };
        // It becomes the program: the process is the same.
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", name]).arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = words("ip", &format!("netns del {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_into_the_namespace_of_its_end() {
        let shaped = Shaped { names: ["a-x".to_owned(), "b-x".to_owned()] };
        let mut command = Command::new("/bin/umem");
        command.args(["vm", "-m", "1 G"]);
        let inside = shaped.enter(End::Destination, &command);
        let words: Vec<_> = inside.get_args().collect();
        assert_eq!(inside.get_program(), "ip");
        assert_eq!(words, ["netns", "exec", "b-x", "/bin/umem", "vm", "-m", "1 G"]);
    }

    #[test]
    fn a_link_has_the_congestion_control_that_was_asked_for() {
        if let Some(why) = Shaped::lacks() {
            eprintln!("skipped: {why}");
            return;
        }
        let why = Shaped::new(1000, "none-such").unwrap_err().to_string();
        assert!(why.contains("none-such"), "{why}");
        let allowed = || fs::read_to_string(format!("{SYSCTL}/tcp_allowed_congestion_control"));
        let before = allowed().unwrap();
        let shaped = match Shaped::new(1000, "cubic") {
            Ok(shaped) => shaped,
            Err(error) => return eprintln!("skipped: {error:#}"),
        };
        assert_eq!(allowed().unwrap(), before, "the host is as it was");
        let mut command = Command::new("cat");
        command.arg(format!("{SYSCTL}/tcp_congestion_control"));
        for end in [End::Source, End::Destination] {
            let output = shaped.enter(end, &command).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "cubic");
        }
        let names = shaped.names.clone();
        drop(shaped);
        for name in names {
            assert!(words("ip", &format!("netns exec {name} true")).is_err(), "{name} is left");
        }
    }
}
