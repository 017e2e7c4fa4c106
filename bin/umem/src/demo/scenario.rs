//! The course of the demo: two VMs, one guest, one move.

use super::Options;
use super::options::Mode;
use super::progress::Progress;
use super::report::{PageReport, Report, RoundReport, downtime, ends_agree};
use anyhow::{Context as _, anyhow, bail};
use crossbeam_channel::{Sender, unbounded};
use machine::HugePages;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use umem_bench::guest::{Assembler, Beats, Chunk, End, GuestLine, Heard, Verdict};
use umem_bench::interrupt;
use umem_bench::vm::{Machine, Status, Words};

/// How long the VMs have to start.
const START: Duration = Duration::from_secs(20);
/// How long the guest runs undisturbed before and after the move.
const SETTLE: Duration = Duration::from_secs(1);
/// Time between two looks at the migration.
const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Scenario<'o> {
    options: &'o Options,
    seed: u64,
    source: Machine,
    destination: Machine,
    assembler: Assembler,
    beats: Beats,
    /// What was heard beside heartbeats and not asked for yet.
    said: Vec<Heard>,
    progress: Progress,
    deadline: Instant,
    /// Most of the vCPUs' time that was seen to be taken, in percent.
    throttle_most: u8,
    /// Given back when both VMs have ended: fields are dropped in their order.
    _huge_pages: Vec<HugePages>,
}

/// When things happened.
struct Times {
    start: Instant,
    /// The migration is complete, or all but the pages that nobody asks for.
    moved: Instant,
    /// The check begins.
    until: Instant,
}

impl<'o> Scenario<'o> {
    /// Starts both VMs; sockets are made in `folder`.
    pub(super) fn start(options: &'o Options, folder: &Path) -> anyhow::Result<Self> {
        let began = Instant::now();
        let deadline = began + Duration::from_secs(options.timeout);
        let seed = options.seed()?;
        let mut progress = Progress::new(options.json);
        progress.show("start", "two VMs on this host");
        let huge_pages = options.set_aside()?;
        let (chunks, receiver) = unbounded();
        let guest = options.guest_options(folder, seed)?;
        let starting = deadline.min(began + START);
        let source = start(End::Source, &guest, folder, chunks.clone(), starting)?;
        let waiting = options.destination_options();
        let destination = start(End::Destination, &waiting, folder, chunks, starting)?;
        Ok(Self {
            options,
            seed,
            source,
            destination,
            assembler: Assembler::new(receiver),
            beats: Beats::default(),
            said: Vec::new(),
            progress,
            deadline,
            throttle_most: 0,
            _huge_pages: huge_pages,
        })
    }

    /// Goes through all of it.
    pub(super) fn run(&mut self) -> anyhow::Result<Report> {
        let ready = self.until_said("fill", |line| matches!(line, GuestLine::Ready { .. }))?;
        if let GuestLine::Ready { fill_us } = ready {
            self.progress.show("fill", &format!("done in {:.1} s", fill_us as f64 / 1e6));
        }
        self.run_for("run", SETTLE)?;
        self.source.port.send(b'm')?;
        self.until_said("run", |line| *line == GuestLine::Mark)?;
        let uri = self.listen()?;
        let start = Instant::now();
        for (command, arguments) in self.options.settings() {
            self.source.qmp.run(command, &arguments)?;
        }
        self.source.qmp.run("migrate", &self.options.migrate_arguments(&uri))?;
        // Without background, it is the check that asks for most of the memory.
        let awaited = if self.options.no_background { "postcopy-active" } else { "completed" };
        let mut statuses = self.watch(awaited)?;
        let moved = Instant::now();
        self.run_for("run", SETTLE)?;
        let until = Instant::now();
        let verdict = self.verify()?;
        if self.options.no_background {
            // What the guest never touches is asked for by nobody.
            self.source.qmp.run(
                "x-umem-migrate-set-parameter",
                &json!({ "parameter": "postcopy-background", "value": "on" }),
            )?;
            statuses = self.watch("completed")?;
        }
        let memory = self.destination.qmp.run("x-umem-query-memory", &json!({}))?;
        self.end()?;
        let mut report = self.report(&Times { start, moved, until }, verdict, &statuses);
        report.huge_pages_joined = serde_json::from_value(memory["collapsed"].clone())?;
        Ok(report)
    }

    /// Has the guest check its memory.
    fn verify(&mut self) -> anyhow::Result<Verdict> {
        if self.options.inject_damage {
            self.destination.port.send(b'd')?;
        }
        self.destination.port.send(b'v')?;
        match self.until_said("verify", |line| matches!(line, GuestLine::Verdict(_)))? {
            GuestLine::Verdict(verdict) => Ok(verdict),
            other => bail!("the guest said {other:?}"),
        }
    }

    /// Makes the destination listen; where.
    fn listen(&mut self) -> anyhow::Result<String> {
        let mut last = anyhow!("no port is free");
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
            let uri = format!("tcp:127.0.0.1:{}", free.local_addr()?.port());
            // Someone may take the port before the destination does: then another is tried.
            drop(free);
            match self.destination.qmp.run("migrate-incoming", &json!({ "uri": uri })) {
                Ok(_) => return Ok(uri),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Watches the migration until both ends are in this phase or done; their last status.
    fn watch(&mut self, phase: &str) -> anyhow::Result<[(Status, Value); 2]> {
        loop {
            self.hear(Instant::now() + LOOK)?;
            let source = self.source.qmp.migration()?;
            let destination = self.destination.qmp.migration()?;
            let (at, to) = (&source.0, &destination.0);
            self.throttle_most =
                self.throttle_most.max(at.rounds.map_or(0, |rounds| rounds.throttle));
            let detail = detail(at, to);
            self.progress.show("migrate", &detail);
            for (end, status) in [("source", at), ("destination", to)] {
                let bad = matches!(
                    status.phase.as_str(),
                    "failed" | "cancelled" | "postcopy-paused" | "handover-unknown"
                );
                if bad {
                    let why = status.error.as_deref().unwrap_or("no reason given");
                    bail!("the migration is {} at the {end}: {why}", status.phase);
                }
            }
            let there = |end: &Status| end.phase == phase || end.phase == "completed";
            if there(at) && there(to) {
                return Ok([source, destination]);
            }
            self.check_time(&detail)?;
        }
    }

    fn check_time(&self, what: &str) -> anyhow::Result<()> {
        interrupt::check()?;
        if Instant::now() >= self.deadline {
            let hint = match self.options.mode {
                Mode::Precopy => "--auto-converge, --downtime-limit and --timeout",
                Mode::Postcopy | Mode::Hybrid => "--timeout",
            };
            bail!("not done after {} s ({what}); see {hint}", self.options.timeout);
        }
        Ok(())
    }

    /// Listens to the guest until `until` or a little longer.
    fn hear(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut heard = Vec::new();
        while Instant::now() < until {
            interrupt::check()?;
            self.assembler.listen(until.min(Instant::now() + LOOK), &mut heard);
        }
        self.beats.take(heard, &mut self.said)?;
        for side in [&mut self.source, &mut self.destination] {
            side.process.check().map_err(|error| {
                let words = self.assembler.last_words();
                if words.is_empty() { error } else { anyhow!("{error:#} (the guest: {words})") }
            })?;
        }
        Ok(())
    }

    fn run_for(&mut self, step: &'static str, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.hear(until.min(Instant::now() + LOOK))?;
            self.progress.show(step, &format!("{} heartbeats", self.beats.count()));
        }
        self.check_time("the guest runs")
    }

    /// Listens until the guest has said what is waited for.
    fn until_said(
        &mut self,
        step: &'static str,
        wanted: impl Fn(&GuestLine) -> bool,
    ) -> anyhow::Result<GuestLine> {
        let began = Instant::now();
        loop {
            if let Some(place) = self.said.iter().position(|heard| wanted(&heard.line)) {
                return Ok(self.said.swap_remove(place).line);
            }
            self.progress.show(step, &format!("{:.1} s", began.elapsed().as_secs_f64()));
            self.check_time("the guest has not answered")?;
            self.hear(Instant::now() + LOOK / 5)?;
        }
    }

    /// Ends guest and VMs; what does not end is killed with its [`Machine`].
    fn end(&mut self) -> anyhow::Result<()> {
        self.destination.port.send(b'q')?;
        let until = Instant::now() + Duration::from_secs(5);
        if !self.destination.process.wait(until) {
            log::warn!("the guest did not power off");
        }
        // The source may have closed before its answer was read.
        let _ = self.source.qmp.run("quit", &json!({}));
        if !self.source.process.wait(until + Duration::from_secs(1)) {
            log::warn!("the source did not end");
        }
        Ok(())
    }

    fn report(
        &self,
        times: &Times,
        verdict: Verdict,
        [source, destination]: &[(Status, Value); 2],
    ) -> Report {
        let Times { start, moved, until } = *times;
        let (from, to) = (&source.0, &destination.0);
        let (downtime_ms, phases_ms) = downtime(from, to);
        Report {
            verified: verdict.ok && ends_agree(from, to),
            mode: from.mode.clone(),
            phases: self.source.qmp.phases(),
            guest: if self.options.linux { "linux" } else { "bare-metal" },
            target: self.options.accelerator().target(),
            memory_bytes: self.options.memory,
            dirty_rate: self.options.dirty_rate,
            seed: self.seed,
            downtime_ms,
            total_ms: from.total_ms,
            drain_ms: to.drain_ms.or(from.drain_ms),
            heartbeat_gap_ms: self.beats.longest_gap_ms(start, until),
            heartbeat_gap_switch_ms: self.beats.gap_at_switch_ms(),
            stall_ms: self.beats.stall_ms(start, moved, until),
            heartbeat_gap_guest_ms: verdict.max_gap_us as f64 / 1e3,
            fault_us: to.faults.clone(),
            rounds: from.rounds.map(|rounds| RoundReport::new(&rounds, self.throttle_most)),
            pages: PageReport {
                precopy: to.pages.precopy,
                demand: to.pages.demand,
                prefault: to.pages.prefault,
                background: to.pages.background,
                zero: to.pages.fill,
                total: to.pages.total,
            },
            wire_bytes: from.wire_bytes,
            rate_100ms: self.beats.rate(start, until),
            phases_ms,
            huge_pages_joined: None,
            verdict,
            source: source.1.clone(),
            destination: destination.1.clone(),
        }
    }
}

/// Where the migration is, for people.
fn detail(source: &Status, destination: &Status) -> String {
    let at_source = source.pages.remaining;
    let left = if destination.pages.total > 0 && source.phase != "active" {
        destination.pages.remaining
    } else {
        at_source
    };
    let rate = source.rate.max(destination.rate) / f64::from(1 << 20);
    let mut text = source.phase.clone();
    match source.rounds {
        Some(rounds) if source.phase == "active" => {
            let _ = write!(
                text,
                ", round {}: {left} pages left, the guest writes {:.0} pages/s",
                rounds.passes, rounds.dirty_pages_rate
            );
            if let Some(expected) = rounds.expected_downtime_ms {
                let _ = write!(text, ", expected downtime {expected:.0} ms");
            }
            if rounds.throttle > 0 {
                let _ = write!(text, ", throttle {} %", rounds.throttle);
            }
        }
        _ => {
            let _ = write!(text, ": {left} pages left, {} faults", destination.faults.count);
        }
    }
    let _ = write!(text, ", {rate:.0} MiB/s");
    text
}

/// Starts this program as a VM.
fn start(
    end: End,
    options: &[OsString],
    folder: &Path,
    chunks: Sender<Chunk>,
    deadline: Instant,
) -> anyhow::Result<Machine> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(program);
    command.arg("vm").args(["-name", end.name()]).args(options);
    command.env(crate::vm::END_WITH_PARENT, "1").stdout(Stdio::null());
    Machine::start(end, command, folder, chunks, Words::Serial, deadline)
}
