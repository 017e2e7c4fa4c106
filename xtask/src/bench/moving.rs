//! The same Linux guest moved by postcopy, precopy, and a round of precopy before postcopy: by umem and
//! by QEMU, whose postcopy has preemption or not.

use std::{
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use umem_bench::{stats, warm};

use super::{
    Setup, probe,
    probe::Beat,
    vm::{Console, Contender, Heard, Machine},
};

const MEMORY: &str = "1G";
const FILL_MIB: u64 = 716;
const LIMIT: Duration = Duration::from_secs(120);
/// A guest that says nothing for so long stands still: it beats each 10 ms, and checks its memory in seconds.
const SILENT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// More bytes a second than any link here: no limit.
const UNLIMITED: u64 = 1 << 40;

/// Who moves the guest, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// umem's postcopy
    Umem,
    /// QEMU's postcopy
    Qemu,
    /// QEMU's postcopy with demanded pages on a channel of their own
    QemuPreempt,
    /// One round of umem's precopy, then its postcopy
    UmemHybrid,
    /// One round of QEMU's precopy, then its postcopy with preemption
    QemuHybrid,
    /// umem's precopy
    UmemPrecopy,
    /// QEMU's precopy
    QemuPrecopy,
}

/// When pages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Postcopy,
    Hybrid,
    Precopy,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Umem => "umem postcopy",
            Self::Qemu => "qemu postcopy",
            Self::QemuPreempt => "qemu postcopy + preempt",
            Self::UmemHybrid => "umem hybrid",
            Self::QemuHybrid => "qemu hybrid + preempt",
            Self::UmemPrecopy => "umem precopy",
            Self::QemuPrecopy => "qemu precopy",
        }
    }

    const fn way(self) -> Way {
        match self {
            Self::Umem | Self::Qemu | Self::QemuPreempt => Way::Postcopy,
            Self::UmemHybrid | Self::QemuHybrid => Way::Hybrid,
            Self::UmemPrecopy | Self::QemuPrecopy => Way::Precopy,
        }
    }

    fn is_ours(self) -> bool {
        self.contender() == Contender::Umem
    }

    const fn contender(self) -> Contender {
        match self {
            Self::Umem | Self::UmemHybrid | Self::UmemPrecopy => Contender::Umem,
            Self::Qemu | Self::QemuPreempt | Self::QemuHybrid | Self::QemuPrecopy => {
                Contender::Qemu
            }
        }
    }
}

/// One guest, the two machines that it is moved between, and what was heard of it.
struct Move {
    mode: Mode,
    source: Machine,
    destination: Machine,
    console: Console,
    beats: Vec<Beat>,
}

impl Move {
    fn start(setup: &Setup, mode: Mode, rate: u64, seed: u64, folder: &Path) -> Result<Self> {
        let console = Console::new();
        let mut from = setup.machine(mode.contender(), MEMORY);
        let mut to = setup.machine(mode.contender(), MEMORY);
        if !mode.is_ours() {
            // QEMU 10.0 seems not to set the timer again after a move: a guest that was idle at the switch
            // may never wake. Without Sstc that is rarer.
            for command in [&mut from, &mut to] {
                command.args(["-cpu", "rv64,sstc=off"]);
            }
        }
        let append = format!(
            "console=ttyS0 quiet umem.mode=workload umem.seed={seed} umem.fill_mib={FILL_MIB} \
             umem.rate={rate} umem.beat_us=10000"
        );
        setup.linux(&mut from, &append);
        to.args(["-incoming", "defer"]);
        if mode.is_ours() && mode.way() != Way::Precopy {
            to.arg("-postcopy");
        }
        let source = Machine::start(from, "source", folder, &console, 0)?;
        let destination = Machine::start(to, "destination", folder, &console, 1)?;
        Ok(Self { mode, source, destination, console, beats: Vec::new() })
    }

    /// Listens until the guest says a line that begins so.
    fn until_said(&mut self, start: &str) -> Result<Heard> {
        let deadline = Instant::now() + LIMIT;
        let (mut last, mut since) = (String::new(), Instant::now());
        loop {
            let heard = self.console.next(Instant::now() + LOOK * 10);
            match heard {
                Some(heard) if heard.line.starts_with(start) => return Ok(heard),
                Some(heard) => {
                    self.beats.extend(Beat::parse(&heard.line, heard.end, heard.at));
                    (last, since) = (heard.line, heard.at);
                }
                None => {
                    self.source.process.check()?;
                    self.destination.process.check()?;
                }
            }
            if since.elapsed() >= SILENT {
                let silent = SILENT.as_secs();
                bail!("the guest stands still: nothing for {silent} s instead of '{start}'");
            }
            if Instant::now() >= deadline {
                let limit = LIMIT.as_secs();
                bail!("the guest has not said '{start}' after {limit} s, but last: {last}");
            }
        }
    }

    fn listen_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(heard) = self.console.next(until) {
            self.beats.extend(Beat::parse(&heard.line, heard.end, heard.at));
        }
    }

    /// Makes both ends ready; the address that the destination listens on.
    fn prepare(&mut self) -> Result<String> {
        if !self.mode.is_ours() {
            let postcopy = self.mode.way() != Way::Precopy;
            let preempt = postcopy && self.mode != Mode::Qemu;
            for end in [&mut self.source, &mut self.destination] {
                let capabilities = json!([
                    { "capability": "postcopy-ram", "state": postcopy },
                    { "capability": "postcopy-preempt", "state": preempt },
                ]);
                let capabilities = json!({ "capabilities": capabilities });
                end.qmp.run("migrate-set-capabilities", &capabilities)?;
                let parameters = json!({ "max-bandwidth": UNLIMITED, "max-postcopy-bandwidth": 0 });
                end.qmp.run("migrate-set-parameters", &parameters)?;
            }
        }
        let free = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
        let uri = format!("tcp:127.0.0.1:{}", free.local_addr()?.port());
        drop(free);
        self.destination.qmp.run("migrate-incoming", &json!({ "uri": uri }))?;
        Ok(uri)
    }

    /// Begins the move. QEMU has to be told when its postcopy phase begins: at once, or after a round.
    fn begin(&mut self, uri: &str) -> Result<()> {
        let way = self.mode.way();
        if self.mode.is_ours() {
            let arguments = match way {
                Way::Postcopy => json!({ "uri": uri, "postcopy": true }),
                Way::Hybrid => json!({ "uri": uri, "postcopy": true, "precopy": 1 }),
                Way::Precopy => json!({ "uri": uri }),
            };
            return self.source.qmp.run("migrate", &arguments).map(drop);
        }
        self.source.qmp.run("migrate", &json!({ "uri": uri }))?;
        match way {
            Way::Postcopy => {}
            Way::Hybrid => self.until_first_round()?,
            Way::Precopy => return Ok(()),
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.source.qmp.run("migrate-start-postcopy", &json!({})) {
                Ok(_) => return Ok(()),
                // Precopy was enough before it could be told.
                Err(_) if way == Way::Hybrid && self.is_complete()? => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Waits until QEMU has sent all memory once.
    fn until_first_round(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let status = self.source.qmp.run("query-migrate", &json!({}))?;
            if status["ram"]["dirty-sync-count"].as_u64() >= Some(2) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("the first round takes longer than {} s", LIMIT.as_secs());
    }

    fn is_complete(&mut self) -> Result<bool> {
        let status = self.source.qmp.run("query-migrate", &json!({}))?;
        Ok(status["status"] == "completed")
    }

    /// Waits until both ends say that the move is complete; their last words.
    fn until_complete(&mut self) -> Result<[Value; 2]> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ends = [&mut self.source, &mut self.destination];
            let [from, to] = ends.map(|end| end.qmp.run("query-migrate", &json!({})));
            let both = [from?, to?];
            let phases = both.each_ref().map(|end| {
                let ours = end["x-umem"]["phase"].as_str();
                ours.or(end["status"].as_str()).unwrap_or("none").to_owned()
            });
            if phases.iter().all(|phase| phase == "completed") {
                return Ok(both);
            }
            // A handover whose answer is on its way is no failure; one that stays so meets the limit.
            let bad = ["failed", "cancelled", "postcopy-paused"];
            if phases.iter().any(|phase| bad.contains(&phase.as_str())) {
                bail!(
                    "the move ended {} at the source, {} at the destination",
                    phases[0],
                    phases[1]
                );
            }
            if Instant::now() >= deadline {
                bail!("the move is still {} after {} s", phases[0], LIMIT.as_secs());
            }
            thread::sleep(LOOK);
        }
    }

    fn run(&mut self) -> Result<Value> {
        self.until_said("ready ")?;
        let uri = self.prepare()?;
        warm::memory()?;
        self.listen_for(probe::BEFORE + Duration::from_millis(300));
        self.source.send(b'm')?;
        self.until_said("mark ")?;
        let start = Instant::now();
        self.begin(&uri)?;
        let ends = self.until_complete()?;
        let done = Instant::now();
        self.listen_for(probe::AFTER);
        self.destination.send(b'v')?;
        let line = self.until_said("verdict ")?.line;
        let verdict = probe::verdict(&line).ok_or_else(|| anyhow!("cannot read: {line}"))?;
        let mut row = probe::analyse(&self.beats, start, done)?;
        row["total_ms"] = json!(stats::rounded((done - start).as_secs_f64() * 1e3));
        for name in ["touch_us_p50", "touch_us_p99", "touch_us_max"] {
            row[name] = verdict[name].clone();
        }
        row["guest_gap_ms"] = json!(verdict["max_gap_us"].as_f64().map(|us| us / 1e3));
        row["verified"] = verdict["ok"].clone();
        row["verdict"] = verdict;
        let [source, destination] = ends;
        self.own_figures(&mut row, &source, &destination);
        Ok(row)
    }

    /// What the mover tells of itself.
    fn own_figures(&self, row: &mut Value, source: &Value, destination: &Value) {
        if self.mode.is_ours() {
            let (from, to) = (&source["x-umem"], &destination["x-umem"]);
            row["wire_bytes"] = from["wire-bytes"].clone();
            row["faults"] = to["faults"]["count"].clone();
            row["own"] = json!({
                "downtime_ms": from["downtime"]["total"],
                "total_ms": from["total-ms"],
                "faults": to["faults"],
                "pages": to["pages"],
            });
        } else {
            row["wire_bytes"] = source["ram"]["transferred"].clone();
            row["faults"] = source["ram"]["postcopy-requests"].clone();
            row["own"] = json!({
                "downtime_ms": source["downtime"],
                "total_ms": source["total-time"],
                "ram": source["ram"],
            });
        }
    }
}

fn once(setup: &Setup, mode: Mode, rate: u64, seed: u64) -> Value {
    let result = tempfile::tempdir()
        .context("no folder for sockets")
        .and_then(|folder| Move::start(setup, mode, rate, seed, folder.path())?.run());
    result.unwrap_or_else(|error| {
        eprintln!("bench: {}: {error:#}", mode.name());
        json!({ "error": format!("{error:#}") })
    })
}

const FIGURES: [&str; 14] = [
    "total_ms",
    "gap_at_switch_ms",
    "longest_gap_ms",
    "stall_ms",
    "stall_before_ms",
    "rate_before",
    "back_to_90_ms",
    "first_second_percent",
    "guest_gap_ms",
    "touch_us_p50",
    "touch_us_p99",
    "touch_us_max",
    "faults",
    "wire_bytes",
];

fn summary(rate: u64, mode: Mode, runs: &[Value]) -> Value {
    let mut row = json!({ "rate": rate, "mode": mode.name() });
    for name in FIGURES {
        row[name] = stats::median_of(runs, name);
    }
    let verified = runs.iter().filter(|run| run["verified"] == true).count();
    row["verified_runs"] = json!(format!("{verified}/{}", runs.len()));
    row["all_verified"] = json!(verified == runs.len());
    row["runs"] = json!(runs);
    row
}

/// Medians of each mode at each rate, and QEMU's figures by ours.
pub(crate) fn measure(setup: &Setup, rates: &[u64], modes: &[Mode]) -> Result<Value> {
    let mut rows = Vec::new();
    for &rate in rates {
        let mut runs = vec![Vec::new(); modes.len()];
        for run in 1..=setup.runs {
            for (&mode, runs) in modes.iter().zip(&mut runs) {
                eprintln!("bench: move, run {run} of {}, {rate}/s, {}", setup.runs, mode.name());
                runs.push(once(setup, mode, rate, u64::from(run) * 7919));
            }
        }
        let medians = modes.iter().zip(&runs).map(|(&mode, runs)| summary(rate, mode, runs));
        let mut medians: Vec<Value> = medians.collect();
        for way in [Way::Postcopy, Way::Hybrid, Way::Precopy] {
            let ours = modes.iter().position(|mode| mode.is_ours() && mode.way() == way);
            let Some(ours) = ours.and_then(|place| medians.get(place)).cloned() else { continue };
            let same_way = modes.iter().zip(&mut medians).filter(|(mode, _)| mode.way() == way);
            for (_, row) in same_way.filter(|(mode, _)| !mode.is_ours()) {
                row["by_umem"] = by(row, &ours);
            }
        }
        rows.append(&mut medians);
    }
    Ok(json!(rows))
}

fn by(theirs: &Value, ours: &Value) -> Value {
    let mut ratios = json!({});
    for name in ["total_ms", "gap_at_switch_ms", "stall_ms", "back_to_90_ms", "touch_us_p99"] {
        ratios[name] = stats::ratio(&theirs[name], &ours[name]);
    }
    ratios
}
