//! The JSON monitor: QEMU's machine protocol (QMP).

use crate::command::{self, Args, Output};
use crate::lines::{LINE_MAX, Line, Lines};
use crate::messages::Messages;
use crate::outlet::Outlet;
use crate::report;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use machine::{VmControl, VmEvent};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// A refusal, with QEMU's class.
struct Refusal {
    class: &'static str,
    text: String,
}

impl Refusal {
    fn generic(text: impl Into<String>) -> Self {
        Self { class: "GenericError", text: text.into() }
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self { class: "CommandNotFound", text: text.into() }
    }
}

struct Client {
    vm: Arc<dyn VmControl>,
    outlet: Arc<Outlet>,
    /// Held from `qmp_capabilities` on; the thread that tells events ends with it.
    telling: Option<Sender<()>>,
}

/// Serves a client until it goes away.
pub(crate) fn session(input: impl Read, outlet: Arc<Outlet>, vm: Arc<dyn VmControl>) {
    let mut client = Client { vm, outlet, telling: None };
    let mut lines = Lines::<_, Messages>::new(input);
    let mut sent = client.send(&json!({
        "QMP": { "version": command::version_json(), "capabilities": [] }
    }));
    while sent && let Ok(Some(line)) = lines.next_line() {
        sent = match line {
            Line::Text(line) => client.take(&line),
            Line::TooLong => client.refuse(
                &Refusal::generic(format!("the line is longer than {LINE_MAX} bytes")),
                None,
            ),
            Line::NotText => client.refuse(&Refusal::generic("the line is no UTF-8 text"), None),
        };
    }
}

impl Client {
    /// Answers one line; whether the client is to be heard further.
    fn take(&mut self, line: &str) -> bool {
        let request: Value = match serde_json::from_str(line) {
            Ok(request) => request,
            Err(error) => {
                let refusal = Refusal::generic(format!("the line is no JSON: {error}"));
                return self.refuse(&refusal, None);
            }
        };
        let id = request.get("id").cloned();
        match self.run(&request) {
            Ok(output) => {
                let sent = self.send(&with_id(json!({ "return": output.json }), id));
                if output.quit {
                    self.vm.quit();
                }
                sent && !output.quit
            }
            Err(refusal) => self.refuse(&refusal, id),
        }
    }

    fn run(&mut self, request: &Value) -> Result<Output, Refusal> {
        let (name, arguments) = parse(request)?;
        if self.telling.is_none() && name != "qmp_capabilities" {
            return Err(Refusal::not_found(
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ));
        }
        let row = command::find_json(name).ok_or_else(|| {
            Refusal::not_found(format!(
                "The command {} has not been found",
                command::printable(name)
            ))
        })?;
        let args =
            Args::from_json(row, arguments).map_err(|error| Refusal::generic(error.to_string()))?;
        if name == "qmp_capabilities" {
            self.negotiate(&args)?;
        }
        (row.run)(&*self.vm, &args).map_err(|error| Refusal::generic(error.to_string()))
    }

    /// From now on the client takes commands and is told events.
    fn negotiate(&mut self, args: &Args) -> Result<(), Refusal> {
        if self.telling.is_some() {
            return Err(Refusal::not_found(
                "Capabilities negotiation is already complete, command ignored",
            ));
        }
        if let Some(first) = args.list("enable").first() {
            let shown = command::printable(&first.to_string());
            return Err(Refusal::generic(format!("capability {shown} is not available")));
        }
        let (telling, ended) = bounded(0);
        let (events, outlet) = (self.vm.events(), self.outlet.clone());
        std::thread::Builder::new()
            .name("monitor-events".to_owned())
            .spawn(move || tell(&events, &ended, &outlet))
            .map_err(|error| Refusal::generic(error.to_string()))?;
        self.telling = Some(telling);
        Ok(())
    }

    fn send(&self, message: &Value) -> bool {
        self.outlet.send(format!("{message}\r\n").as_bytes()).is_ok()
    }

    fn refuse(&self, refusal: &Refusal, id: Option<Value>) -> bool {
        let error = json!({ "class": refusal.class, "desc": refusal.text });
        self.send(&with_id(json!({ "error": error }), id))
    }
}

fn with_id(mut message: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        message["id"] = id;
    }
    message
}

/// Name and arguments of a request.
fn parse(request: &Value) -> Result<(&str, &Map<String, Value>), Refusal> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    let members =
        request.as_object().ok_or_else(|| Refusal::generic("QMP input must be a JSON object"))?;
    let mut name = None;
    let mut arguments: &Map<String, Value> = &NONE;
    for (key, value) in members {
        match (key.as_str(), value) {
            ("execute", Value::String(text)) => name = Some(text.as_str()),
            ("execute", _) => {
                return Err(Refusal::generic("QMP input member 'execute' must be a string"));
            }
            ("arguments", Value::Object(given)) => arguments = given,
            ("arguments", _) => {
                return Err(Refusal::generic("QMP input member 'arguments' must be an object"));
            }
            ("id", _) => {}
            (other, _) => {
                return Err(Refusal::generic(format!(
                    "QMP input member '{}' is unexpected",
                    command::printable(other)
                )));
            }
        }
    }
    let name = name.ok_or_else(|| Refusal::generic("QMP input lacks member 'execute'"))?;
    Ok((name, arguments))
}

/// The thread that tells a client events, until the session ends.
fn tell(events: &Receiver<VmEvent>, ended: &Receiver<()>, outlet: &Outlet) {
    loop {
        let event = select! {
            recv(ended) -> _ => return,
            recv(events) -> event => event,
        };
        let Ok(event) = event else { return };
        if outlet.send(format!("{}\r\n", event_json(&event)).as_bytes()).is_err() {
            return;
        }
    }
}

fn event_json(event: &VmEvent) -> Value {
    let (name, data) = match event {
        VmEvent::Stop => ("STOP", None),
        VmEvent::Resume => ("RESUME", None),
        VmEvent::Shutdown { guest } => {
            let reason = if *guest { "guest-shutdown" } else { "host-qmp-quit" };
            ("SHUTDOWN", Some(json!({ "guest": guest, "reason": reason })))
        }
        VmEvent::Reset { guest } => {
            let reason = if *guest { "guest-reset" } else { "host-qmp-system-reset" };
            ("RESET", Some(json!({ "guest": guest, "reason": reason })))
        }
        VmEvent::BalloonChange { actual } => ("BALLOON_CHANGE", Some(json!({ "actual": actual }))),
        VmEvent::MigrationPass { pass } => ("MIGRATION_PASS", Some(json!({ "pass": pass }))),
        VmEvent::Migration { phase } => (
            "MIGRATION",
            Some(json!({ "status": report::qemu_status(phase), "x-umem-phase": phase })),
        ),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut message = json!({
        "event": name,
        "timestamp": { "seconds": now.as_secs(), "microseconds": now.subsec_micros() },
    });
    if let Some(data) = data {
        message["data"] = data;
    }
    message
}
