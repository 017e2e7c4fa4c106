//! Client of a JSON monitor: umem's and QEMU's are spoken to alike.

use super::process::connect;
use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use umem_link::{DowntimeParts, FaultLatency, PageCounts, RoundsStatus};

/// A monitor answers at once; one that does not in this time has a fault.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A migration at one end of ours.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Where it is.
    pub phase: String,
    /// Precopy, postcopy or hybrid.
    pub mode: String,
    /// From its begin until now or its end.
    pub total_ms: f64,
    /// From the switch until all pages had come.
    pub drain_ms: Option<f64>,
    /// Time without a running guest.
    pub downtime: DowntimeParts,
    /// Pages by cause.
    pub pages: PageCounts,
    /// Missing in pure postcopy.
    pub rounds: Option<RoundsStatus>,
    /// At the destination: pages that the guest waited for.
    pub faults: FaultLatency,
    /// Bytes on all connections.
    pub wire_bytes: u64,
    /// Bytes a second, lately.
    pub rate: f64,
    /// Both ends agree on all pages.
    pub verified: bool,
    /// Of all pages.
    pub digest: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What a monitor told by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// When it happened, as its VM says.
    pub at: Instant,
    /// More of it.
    pub data: Value,
}

/// A connection to a JSON monitor.
#[derive(Debug)]
pub struct Qmp {
    input: BufReader<UnixStream>,
    name: String,
    events: Vec<Event>,
    /// The same moment by both clocks: events carry the host's time of day.
    zero: (SystemTime, Instant),
}

impl Qmp {
    /// Connects to a monitor that the VM may be yet to start.
    ///
    /// # Errors
    /// When there is none by then.
    pub fn connect(name: &str, path: &Path, deadline: Instant) -> anyhow::Result<Self> {
        let stream = connect(path, deadline)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("monitor")?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).context("monitor")?;
        let zero = (SystemTime::now(), Instant::now());
        let input = BufReader::new(stream);
        let mut client = Self { input, name: name.to_owned(), events: Vec::new(), zero };
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

    /// What it told by itself, in its order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// When an event of this name happened last.
    #[must_use]
    pub fn when(&self, name: &str) -> Option<Instant> {
        self.events.iter().rfind(|event| event.name == name).map(|event| event.at)
    }

    /// Phases that a migration of umem's has been in.
    #[must_use]
    pub fn phases(&self) -> Vec<String> {
        let words = self.events.iter().filter_map(|event| event.data["x-umem-phase"].as_str());
        words.map(str::to_owned).collect()
    }

    /// When a migration told that it was complete; QEMU tells it with the capability `events`.
    #[must_use]
    pub fn completed(&self) -> Option<Instant> {
        let complete = |event: &&Event| event.data["status"] == "completed";
        self.events.iter().rfind(complete).map(|event| event.at)
    }

    /// Runs a command; events on the way are kept.
    ///
    /// # Errors
    /// When the VM refuses it, or does not answer.
    pub fn run(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
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
            let zero = self.zero;
            self.events.extend(event(&mut answer, zero));
        }
    }

    /// umem's newest migration; all defaults before the first.
    ///
    /// # Errors
    /// When the VM does not answer, or says what no status is.
    pub fn migration(&mut self) -> anyhow::Result<(Status, Value)> {
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

/// Reads an event; its time becomes one of this process's clock.
fn event(answer: &mut Value, (day, zero): (SystemTime, Instant)) -> Option<Event> {
    let name = answer["event"].as_str()?.to_owned();
    let stamp = &answer["timestamp"];
    let part = |name: &str| stamp[name].as_u64();
    let since = Duration::from_secs(part("seconds")?)
        .checked_add(Duration::from_micros(part("microseconds")?))?;
    let at = match UNIX_EPOCH.checked_add(since)?.duration_since(day) {
        Ok(later) => zero.checked_add(later)?,
        Err(earlier) => zero.checked_sub(earlier.duration())?,
    };
    Some(Event { name, at, data: answer["data"].take() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_time_is_told_by_this_processes_clock() {
        let (day, zero) = (UNIX_EPOCH + Duration::from_secs(1000), Instant::now());
        let told = |seconds: u64, microseconds: u64| {
            let stamp = json!({ "seconds": seconds, "microseconds": microseconds });
            let mut answer = json!({ "event": "STOP", "timestamp": stamp, "data": { "a": 1 } });
            event(&mut answer, (day, zero)).unwrap()
        };
        let later = told(1002, 500_000);
        assert_eq!(later.at, zero + Duration::from_millis(2500));
        assert_eq!((later.name.as_str(), &later.data["a"]), ("STOP", &json!(1)));
        assert_eq!(zero - told(999, 0).at, Duration::from_secs(1));
        let mut nothing = json!({ "event": "STOP" });
        assert!(event(&mut nothing, (day, zero)).is_none());
    }
}
