//! Clients of a VM's monitors. An answer that does not come in time is a monitor that hangs.

use crate::lab::Log;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest wait for a monitor's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const PROMPT: &[u8] = b"(umem) ";

/// The text monitor.
pub struct Text {
    name: String,
    stream: UnixStream,
    log: Log,
}

impl Text {
    pub(crate) fn new(stream: UnixStream, name: &str, log: Log) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
        let mut text = Self { name: name.to_owned(), stream, log };
        text.answer("greeting");
        text
    }

    /// One command; what it prints.
    ///
    /// # Panics
    /// When the monitor does not answer.
    pub fn command(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("the monitor listens");
        let answer = self.answer(line);
        if !line.starts_with("info") {
            self.log.add(&self.name, format!("(umem) {line}\n{answer}"));
        }
        answer
    }

    /// A command after which the monitor may go away.
    pub fn last_command(&mut self, line: &str) {
        self.log.add(&self.name, format!("(umem) {line}"));
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    fn answer(&mut self, asked: &str) -> String {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while !heard.ends_with(PROMPT) {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => panic!("{}: the monitor went away at '{asked}'", self.name),
                Ok(count) => count,
                Err(_) => 0,
            };
            heard.extend_from_slice(&buffer[..count]);
            let late = Instant::now() > deadline;
            assert!(!late, "{}: the monitor hangs at '{asked}'", self.name);
        }
        heard.truncate(heard.len() - PROMPT.len());
        String::from_utf8(heard).expect("the monitor prints UTF-8")
    }
}

/// The JSON monitor.
pub struct Qmp {
    name: String,
    stream: BufReader<UnixStream>,
    /// Events so far, by name.
    pub events: Vec<Value>,
}

impl Qmp {
    pub(crate) fn new(stream: UnixStream, name: &str) -> Self {
        stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("a time limit");
        let mut qmp =
            Self { name: name.to_owned(), stream: BufReader::new(stream), events: Vec::new() };
        let greeting = qmp.next("greeting");
        assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64(), "{greeting}");
        qmp.command("qmp_capabilities", json!({})).expect("capabilities");
        qmp
    }

    /// One command: what it returns, or its error's text.
    ///
    /// # Errors
    /// The monitor's refusal.
    ///
    /// # Panics
    /// When the monitor does not answer.
    #[allow(clippy::needless_pass_by_value, reason = "callers write json!({...})")]
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({ "execute": name, "arguments": arguments });
        let line = format!("{request}\n");
        self.stream.get_mut().write_all(line.as_bytes()).expect("the monitor listens");
        loop {
            let mut answer = self.next(name);
            if answer.get("event").is_some() {
                self.events.push(answer);
            } else if let Some(desc) = answer["error"]["desc"].as_str() {
                return Err(desc.to_owned());
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    fn next(&mut self, asked: &str) -> Value {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(count) if count > 0 => serde_json::from_str(&line).expect("the monitor speaks JSON"),
            other => panic!("{}: the JSON monitor at '{asked}': {other:?}", self.name),
        }
    }
}
