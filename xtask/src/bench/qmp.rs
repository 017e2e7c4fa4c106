//! Client of a JSON monitor: QEMU's and umem's are spoken to alike.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to a monitor.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    name: String,
}

impl Qmp {
    pub(crate) fn new(stream: UnixStream, name: &str) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut client = Self { stream: BufReader::new(stream), name: name.to_owned() };
        client.hear()?;
        client.run("qmp_capabilities", &json!({}))?;
        Ok(client)
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self
            .stream
            .read_line(&mut line)
            .with_context(|| format!("the monitor of {} does not answer", self.name))?;
        if count == 0 {
            bail!("the monitor of {} has closed", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("the monitor of {}", self.name))
    }

    /// Runs a command; what it returns. Events on the way are dropped.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.hear()?;
            if let Some(error) = answer.get("error") {
                bail!("{} refuses {command}: {}", self.name, error["desc"]);
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
