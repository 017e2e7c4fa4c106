//! Client of a VM's JSON monitor.

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A monitor answers at once; one that does not in this time has a fault.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages by cause, as the monitor tells them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Pages {
    pub(super) demand: u64,
    pub(super) prefault: u64,
    pub(super) background: u64,
    pub(super) precopy: u64,
    pub(super) fill: u64,
    pub(super) total: u64,
    pub(super) remaining: u64,
}

/// Rounds of precopy.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Rounds {
    pub(super) passes: u32,
    pub(super) copies: u64,
    pub(super) discarded: u64,
    pub(super) dirty_pages_rate: f64,
    pub(super) send_rate: f64,
    /// Missing while nothing tells the link's rate.
    pub(super) expected_downtime_ms: Option<f64>,
    pub(super) throttle: u8,
}

/// Fault latency in microseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(super) struct Faults {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// Time without a running guest.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Downtime {
    pub(super) parts: Vec<(String, f64)>,
    pub(super) total: Option<f64>,
}

/// A migration at one end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Status {
    pub(super) phase: String,
    pub(super) mode: String,
    pub(super) total_ms: f64,
    pub(super) drain_ms: Option<f64>,
    pub(super) downtime: Downtime,
    pub(super) pages: Pages,
    pub(super) rounds: Option<Rounds>,
    pub(super) faults: Faults,
    pub(super) wire_bytes: u64,
    pub(super) rate: f64,
    pub(super) verified: bool,
    pub(super) digest: Option<String>,
    pub(super) error: Option<String>,
}

/// A connection to a JSON monitor.
pub(super) struct Qmp {
    input: BufReader<UnixStream>,
    name: &'static str,
    /// Phases of migrations that it told of, in their order.
    phases: Vec<String>,
}

impl Qmp {
    /// Connects to a monitor that the VM may be yet to start.
    pub(super) fn connect(
        name: &'static str,
        path: &Path,
        deadline: Instant,
    ) -> anyhow::Result<Self> {
        let stream = super::child::connect(path, deadline)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("monitor")?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).context("monitor")?;
        let mut client = Self { input: BufReader::new(stream), name, phases: Vec::new() };
        client.hear()?;
        client.run("qmp_capabilities", &json!({}))?;
        Ok(client)
    }

    fn hear(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let count = self
            .input
            .read_line(&mut line)
            .with_context(|| format!("the {}'s monitor does not answer", self.name))?;
        if count == 0 {
            bail!("the {}'s monitor has closed", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("the {}'s monitor", self.name))
    }

    /// Phases that the migration has been in.
    pub(super) fn phases(&self) -> &[String] {
        &self.phases
    }

    /// Runs a command; of events on the way only the migration's phases are kept.
    pub(super) fn run(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.input
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("the {}'s monitor", self.name))?;
        loop {
            let mut answer = self.hear()?;
            if let Some(error) = answer.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(anyhow!("the {} refuses {command}: {why}", self.name));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            let phase = answer.pointer("/data/x-umem-phase").and_then(Value::as_str);
            self.phases.extend(phase.map(str::to_owned));
        }
    }

    /// The newest migration; all defaults before the first.
    pub(super) fn migration(&mut self) -> anyhow::Result<(Status, Value)> {
        let mut answer = self.run("query-migrate", &json!({}))?;
        let ours = answer.get_mut("x-umem").map(Value::take).unwrap_or_default();
        if ours.is_null() {
            return Ok((Status::default(), ours));
        }
        let status = Status::deserialize(&ours)
            .with_context(|| format!("the {}'s migration status", self.name))?;
        Ok((status, ours))
    }
}
