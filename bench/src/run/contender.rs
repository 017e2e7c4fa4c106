//! Who moves the guest: what each must be told, and what it tells.

use super::figures::Figures;
use crate::guest::End;
use crate::programs::Programs;
use crate::scenario::{Accel, Mode, Move, Peer};
use crate::vm::{Qmp, Words};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// More bytes a second than any link here: no limit.
const UNLIMITED: u64 = 1 << 40;
/// Words of a monitor for a move that will not become complete.
const BAD: [&str; 4] = ["failed", "cancelled", "postcopy-paused", "handover-unknown"];

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// umem.
    Umem,
    /// QEMU, in one of its ways.
    Qemu(Peer),
}

impl Contender {
    /// In tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Umem => "umem",
            Self::Qemu(peer) => peer.name(),
        }
    }

    /// A VM for this guest at this end.
    pub(super) fn command(self, programs: &Programs, it: &Move, end: End) -> Result<Command> {
        match self {
            Self::Umem => Ok(programs.umem_vm(it, end)),
            Self::Qemu(_) => programs.qemu_vm(it, end),
        }
    }

    /// Makes of a VM one that waits for a guest.
    pub(super) fn wait(self, command: &mut Command, it: &Move) {
        command.args(["-incoming", "defer"]);
        if self == Self::Umem && it.mode != Mode::Precopy {
            command.arg("-postcopy");
            if it.options.kernel_faults {
                command.args(["-postcopy-fault", "uffd"]);
            }
        }
    }

    /// How its guest is listened to.
    pub(super) const fn words(self, it: &Move) -> Words {
        match (self, it.accel) {
            (Self::Umem, _) => Words::Serial,
            (Self::Qemu(_), Accel::Tcg) => Words::Dropped,
            (Self::Qemu(_), Accel::Kvm) => Words::DebugPort,
        }
    }

    /// What both ends are told before the move.
    pub(super) fn prepare(self, it: &Move, ends: [&mut Qmp; 2]) -> Result<()> {
        let bandwidth = it.options.bandwidth_mib << 20;
        let [source, destination] = ends;
        let Self::Qemu(peer) = self else {
            let mut parameters = json!({
                "multifd-channels": it.options.connections,
                "multifd-compression": it.options.compression,
                "max-postcopy-bandwidth": bandwidth,
            });
            if it.options.idle_states {
                parameters["x-umem-low-cpu-latency"] = "off".into();
                destination.run("migrate-set-parameters", &parameters)?;
            }
            return source.run("migrate-set-parameters", &parameters).map(drop);
        };
        let postcopy = peer.mode() != Mode::Precopy;
        let capability = |name: &str, state: bool| json!({ "capability": name, "state": state });
        let all = [
            capability("events", true),
            capability("postcopy-ram", postcopy),
            capability("postcopy-preempt", matches!(peer, Peer::Preempt | Peer::Hybrid)),
            capability("multifd", peer == Peer::Multifd),
        ];
        let mut parameters =
            json!({ "max-bandwidth": UNLIMITED, "max-postcopy-bandwidth": bandwidth });
        if peer == Peer::Multifd {
            parameters["multifd-channels"] = 2.into();
        }
        if postcopy {
            // It counts what the guest waited for; a kernel may lack what it needs for that.
            let blocktime = json!({ "capabilities": [capability("postcopy-blocktime", true)] });
            let _ = destination.run("migrate-set-capabilities", &blocktime);
        }
        for end in [source, destination] {
            end.run("migrate-set-capabilities", &json!({ "capabilities": all }))?;
            end.run("migrate-set-parameters", &parameters)?;
        }
        Ok(())
    }

    /// Begins the move. QEMU has to be told when its postcopy phase begins: at once, or after a round.
    pub(super) fn begin(
        self,
        it: &Move,
        source: &mut Qmp,
        uri: &str,
        limit: Instant,
    ) -> Result<()> {
        let Self::Qemu(peer) = self else {
            return source.run("migrate", &arguments(it, uri)).map(drop);
        };
        source.run("migrate", &json!({ "uri": uri }))?;
        match peer.mode() {
            Mode::Precopy => return Ok(()),
            Mode::Postcopy => {}
            Mode::Hybrid => until_first_round(source, it.fill_mib << 20, limit)?,
        }
        loop {
            match source.run("migrate-start-postcopy", &json!({})) {
                Ok(_) => return Ok(()),
                // Precopy was enough before it could be told.
                Err(_) if look(source)?.is_complete() => return Ok(()),
                Err(error) if Instant::now() >= limit => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// What the mover tells of itself.
    pub(super) fn own_figures(self, figures: &mut Figures, from: &Look, to: &Look) {
        if self == Self::Umem {
            let (from, to) = (&from.answer["x-umem"], &to.answer["x-umem"]);
            let downtime = &from["downtime"]["total"];
            figures.set("downtime_ms", downtime.as_f64().or(to["downtime"]["total"].as_f64()));
            set_faults(figures, &to["faults"]);
            figures.set("wire_mib", from["wire-bytes"].as_f64().map(mib));
            return;
        }
        let (from, to) = (&from.answer, &to.answer);
        figures.set("downtime_ms", from["downtime"].as_f64());
        figures.set("faults", from["ram"]["postcopy-requests"].as_f64());
        figures.set("wire_mib", from["ram"]["transferred"].as_f64().map(mib));
        // From QEMU 10.2 on, in nanoseconds.
        let latency = to["postcopy-latency"].as_f64();
        figures.set("fault_mean_us", latency.filter(|latency| *latency > 0.0).map(|ns| ns / 1e3));
    }

    /// Parts of the downtime, where it is told in parts.
    pub(super) fn downtime_parts(self, from: &Look, to: &Look) -> Vec<(String, f64)> {
        let parts = |look: &Look| {
            let parts = look.answer["x-umem"]["downtime"]["parts"].clone();
            serde_json::from_value::<Vec<(String, f64)>>(parts).unwrap_or_default()
        };
        // The source's clock sees all of it, if it knows.
        let known = parts(from);
        if known.is_empty() { parts(to) } else { known }
    }
}

/// Sets what a run of ours says of its faults; nothing of a move without any.
pub(super) fn set_faults(figures: &mut Figures, faults: &Value) {
    figures.set("faults", faults["count"].as_f64());
    if faults["count"].as_f64() > Some(0.0) {
        for (name, field) in [
            ("fault_mean_us", "mean"),
            ("fault_p50_us", "p50"),
            ("fault_p99_us", "p99"),
            ("fault_max_us", "max"),
        ] {
            figures.set(name, faults[field].as_f64());
        }
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn arguments(it: &Move, uri: &str) -> Value {
    if it.mode == Mode::Precopy {
        return json!({ "uri": uri });
    }
    let mut arguments = json!({
        "uri": uri,
        "postcopy": true,
        "no-background": !it.options.background,
        "move-background": it.options.move_background,
    });
    for (name, count) in [("forward", it.options.forward), ("backward", it.options.backward)] {
        if count > 0 {
            arguments[name] = count.into();
        }
    }
    if it.mode == Mode::Hybrid {
        arguments["precopy"] = 1.into();
    }
    arguments
}

/// Waits until QEMU has sent all memory once: its own count of rounds begins before the first one.
fn until_first_round(source: &mut Qmp, filled: u64, limit: Instant) -> Result<()> {
    while Instant::now() < limit {
        let look = look(source)?;
        if has_sent(&look.answer, filled) || look.is_complete() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("the first round takes longer than a run may")
}

/// Whether as much was sent as the guest has filled, less what a round leaves to the next.
fn has_sent(answer: &Value, filled: u64) -> bool {
    answer["ram"]["transferred"].as_u64() >= Some(filled - filled / 50)
}

/// One end's migration at a moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// Where it is, in our words or QEMU's.
    pub(super) phase: String,
    /// Pages still to come, where it is told.
    pub(super) remaining: Option<u64>,
    /// The whole answer.
    pub(super) answer: Value,
}

impl Look {
    pub(super) fn is_complete(&self) -> bool {
        self.phase == "completed"
    }

    /// Why it will not become complete, if so.
    pub(super) fn failure(&self) -> Option<String> {
        let why = self.answer["x-umem"]["error"].as_str().or(self.answer["error-desc"].as_str());
        BAD.contains(&self.phase.as_str())
            .then(|| format!("{}: {}", self.phase, why.unwrap_or("no reason given")))
    }
}

/// Asks one end.
pub(super) fn look(end: &mut Qmp) -> Result<Look> {
    let answer = end.run("query-migrate", &json!({})).context("query-migrate")?;
    Ok(read(answer))
}

fn read(answer: Value) -> Look {
    let ours = &answer["x-umem"];
    let phase = ours["phase"].as_str().or(answer["status"].as_str()).unwrap_or("none").to_owned();
    let ram = &answer["ram"];
    let remaining = match (ours["pages"]["remaining"].as_u64(), ram["remaining"].as_u64()) {
        (Some(pages), _) => Some(pages),
        (None, Some(bytes)) => bytes.checked_div(ram["page-size"].as_u64().unwrap_or(4096)),
        (None, None) => None,
    };
    Look { phase, remaining, answer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::all;

    #[test]
    fn both_contenders_answers_are_read_alike() {
        let ours = read(json!({
            "status": "setup",
            "x-umem": { "phase": "handover-unknown", "error": "link lost", "pages": { "remaining": 5 } },
        }));
        assert_eq!((ours.phase.as_str(), ours.remaining), ("handover-unknown", Some(5)));
        assert!(ours.failure().unwrap().contains("link lost"));
        let theirs =
            read(json!({ "status": "completed", "ram": { "remaining": 8192, "page-size": 4096 } }));
        assert!(theirs.is_complete() && theirs.remaining == Some(2) && theirs.failure().is_none());
        assert_eq!(read(json!({})).phase, "none");
    }

    #[test]
    fn each_mode_is_begun_in_its_own_way() {
        let all = all();
        let of = |mode: Mode| all.iter().filter_map(|row| row.as_move()).find(|it| it.mode == mode);
        assert_eq!(arguments(of(Mode::Precopy).unwrap(), "x"), json!({ "uri": "x" }));
        let postcopy = arguments(of(Mode::Postcopy).unwrap(), "x");
        assert_eq!(
            (&postcopy["postcopy"], &postcopy["no-background"]),
            (&json!(true), &json!(false))
        );
        assert!(postcopy["precopy"].is_null());
        assert_eq!(arguments(of(Mode::Hybrid).unwrap(), "x")["precopy"], 1);
        let still = all.iter().filter_map(|row| row.as_move()).find(|it| !it.options.background);
        assert_eq!(arguments(still.unwrap(), "x")["no-background"], true);
    }

    #[test]
    fn a_round_is_over_when_what_is_filled_was_sent_whatever_qemu_counts() {
        let answer = |bytes: u64| json!({ "ram": { "transferred": bytes, "dirty-sync-count": 2 } });
        assert!(!has_sent(&answer(500), 1000) && has_sent(&answer(985), 1000));
        assert!(!has_sent(&json!({}), 1000));
    }

    #[test]
    fn a_move_without_faults_has_no_latency() {
        let mut figures = Figures::default();
        set_faults(&mut figures, &json!({ "count": 0, "mean": 0.0, "p50": 0.0 }));
        assert_eq!((figures.get("faults"), figures.get("fault_mean_us")), (Some(0.0), None));
        set_faults(
            &mut figures,
            &json!({ "count": 2, "mean": 7.5, "p50": 7.0, "p99": 9.0, "max": 9.5 }),
        );
        assert_eq!(
            (figures.get("fault_mean_us"), figures.get("fault_max_us")),
            (Some(7.5), Some(9.5))
        );
    }
}
