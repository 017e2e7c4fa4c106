//! One move of one guest by one contender, and what is read off it.

mod pinning;
mod reading;

use super::contender::{Contender, Look, look};
use super::counts::{Counting, perf_works};
use super::figures::Figures;
use crate::guest::{AFTER, Assembler, BEFORE, Beat, Beats, End, GuestLine, Heard, Verdict};
use crate::network::{DelayProxy, Shaped};
use crate::programs::Programs;
use crate::scenario::{Accel, HostPages, Link, Mode, Move, Scenario};
use crate::vm::{Machine, huge};
use crate::warm::{self, Warm};
use crate::{host, interrupt};
use anyhow::{Context as _, Result, anyhow, bail};
use crossbeam_channel::unbounded;
use pinning::Pinning;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use umem_memory::HugePages;

/// Between two looks at a move; the same for everybody.
const LOOK: Duration = Duration::from_millis(10);
/// How long a guest whose background is off is watched after the switch.
const STILL: Duration = Duration::from_secs(3);
/// A guest that beats and says nothing for so long stands still.
const SILENT: Duration = Duration::from_secs(30);
const BYTES_PER_MIB: u64 = 1 << 20;

/// What all runs share.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The programs.
    pub programs: Programs,
    /// Whether perf counts system calls and context switches.
    pub perf: bool,
}

impl Setup {
    /// With these programs, and perf if it works here.
    #[must_use]
    pub fn new(programs: Programs) -> Self {
        Self { programs, perf: perf_works() }
    }
}

/// What one run found.
#[derive(Debug, Clone, Serialize)]
pub struct MoveRun {
    /// Its figures.
    pub figures: Figures,
    /// The guest found all its memory well.
    pub verified: bool,
    /// Its words.
    pub verdict: Verdict,
    /// Parts of the downtime in milliseconds, where the mover tells them.
    pub downtime_parts: Vec<(String, f64)>,
    /// Heartbeats around the switch: milliseconds from the last at the source, whether at the destination, and pages
    /// written since the first of them.
    pub beats: Vec<(f64, bool, u64)>,
    /// Milliseconds from the command, and pages still to come.
    pub pages: Vec<(f64, u64)>,
    /// Bytes of memory that were touched before, so that the host had really given them.
    pub warmed_bytes: u64,
    /// Who paced the senders.
    pub congestion: Option<String>,
    /// What about this run was not as it should be, though it counts.
    pub remarks: Vec<String>,
    /// Both ends' own last words.
    pub own: [Value; 2],
}

/// The ends' way to each other; it goes with this.
enum Joined {
    Loopback,
    Delayed(Option<DelayProxy>, Duration),
    Shaped(Shaped),
}

impl Joined {
    fn new(link: Link) -> Result<Self> {
        Ok(match link {
            Link::Loopback => Self::Loopback,
            Link::Delayed { round_trip_ms } => {
                Self::Delayed(None, Duration::from_secs_f64(round_trip_ms / 1e3))
            }
            Link::Shaped { mbit, congestion } => Self::Shaped(Shaped::new(mbit, congestion)?),
        })
    }

    fn congestion(&self, link: Link) -> Option<String> {
        match link {
            Link::Shaped { congestion, .. } => Some(congestion.to_owned()),
            _ => host::congestion_control(),
        }
    }
}

/// A run under way.
struct Run<'a> {
    it: &'a Move,
    contender: Contender,
    // Machines end before their network.
    source: Machine,
    destination: Machine,
    joined: Joined,
    /// Given back when both have ended.
    _huge_pages: Vec<HugePages>,
    assembler: Assembler,
    beats: Beats,
    said: Vec<Heard>,
    deadline: Instant,
    pages: Vec<(Instant, u64)>,
}

/// When things happened.
struct Times {
    start: Instant,
    done: Instant,
    /// The guest was listened to so far.
    until: Instant,
}

/// Moves the guest of this row once.
///
/// # Errors
/// When something is missing, a program fails, or the run takes longer than it may. Damaged memory is no error here but a
/// result.
pub fn once(setup: &Setup, row: &Scenario, contender: Contender, seed: u64) -> Result<MoveRun> {
    let it = row.as_move().context("this row moves no guest")?;
    let folder = tempfile::Builder::new()
        .prefix("umem-bench-")
        .tempdir()
        .context("no folder for sockets")?;
    let deadline = Instant::now() + Duration::from_secs(row.limit_s);
    Run::start(setup, it, contender, seed, folder.path(), deadline)?.run(setup, folder.path())
}

impl<'a> Run<'a> {
    fn start(
        setup: &Setup,
        it: &'a Move,
        contender: Contender,
        seed: u64,
        folder: &Path,
        deadline: Instant,
    ) -> Result<Self> {
        let joined = Joined::new(it.link)?;
        let pages = it.host_pages.map(HostPages::size);
        let huge_pages = huge::set_aside(pages, it.memory_mib * BYTES_PER_MIB)?;
        let mut from = contender.command(&setup.programs, it, End::Source)?;
        setup.programs.boot(&mut from, it, seed, folder)?;
        let mut to = contender.command(&setup.programs, it, End::Destination)?;
        contender.wait(&mut to, it);
        if let Joined::Shaped(shaped) = &joined {
            from = shaped.enter(End::Source, &from);
            to = shaped.enter(End::Destination, &to);
        }
        let (chunks, receiver) = unbounded();
        let words = contender.words(it);
        let source = Machine::start(End::Source, from, folder, chunks.clone(), words, deadline)?;
        let destination = Machine::start(End::Destination, to, folder, chunks, words, deadline)?;
        Ok(Self {
            it,
            contender,
            source,
            destination,
            joined,
            _huge_pages: huge_pages,
            assembler: Assembler::new(receiver),
            beats: Beats::default(),
            said: Vec::new(),
            deadline,
            pages: Vec::new(),
        })
    }

    /// Listens to the guest until `until` or a little longer.
    fn hear(&mut self, until: Instant) -> Result<()> {
        interrupt::check()?;
        let mut heard = Vec::new();
        self.assembler.listen(until, &mut heard);
        self.beats.take(heard, &mut self.said)
    }

    fn check(&mut self, what: &str) -> Result<()> {
        for end in [&mut self.source, &mut self.destination] {
            end.process.check()?;
        }
        if Instant::now() >= self.deadline {
            bail!("not done in the time that a run may take: {what}{}", self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let words = self.assembler.last_words();
        if words.is_empty() { words } else { format!(" (the guest: {words})") }
    }

    fn listen_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.hear(until.min(Instant::now() + LOOK))?;
        }
        self.check("the guest runs")
    }

    /// Listens until the guest has said what is waited for; `silent` is how long it may say nothing at all.
    fn until_said(
        &mut self,
        what: &str,
        silent: Option<Duration>,
        wanted: impl Fn(&GuestLine) -> bool,
    ) -> Result<GuestLine> {
        let (mut beats, mut since) = (self.beats.count(), Instant::now());
        loop {
            if let Some(place) = self.said.iter().position(|heard| wanted(&heard.line)) {
                return Ok(self.said.swap_remove(place).line);
            }
            self.hear(Instant::now() + 5 * LOOK)?;
            self.check(what)?;
            if self.beats.count() > beats {
                (beats, since) = (self.beats.count(), Instant::now());
            }
            if silent.is_some_and(|silent| since.elapsed() >= silent) {
                bail!(
                    "the guest stands still: nothing for {} s while it was to {what}",
                    since.elapsed().as_secs()
                );
            }
        }
    }

    /// Listens until the guest beats at the destination, later than `since`.
    fn until_beat(&mut self, since: Instant) -> Result<()> {
        let is_well = |beat: &&Beat| beat.end == End::Destination && beat.at >= since - AFTER;
        let deadline = Instant::now() + SILENT;
        while self.beats.last().filter(is_well).is_none() {
            self.hear(Instant::now() + LOOK)?;
            self.check("the guest is to run at the destination")?;
            if Instant::now() >= deadline {
                bail!(
                    "the guest stands still at the destination: no heartbeat for {} s",
                    SILENT.as_secs()
                );
            }
        }
        Ok(())
    }

    /// Makes the destination listen; where the source connects to.
    fn listen(&mut self) -> Result<String> {
        if let Joined::Shaped(shaped) = &self.joined {
            let uri = shaped.uri();
            self.destination.qmp.run("migrate-incoming", &json!({ "uri": uri }))?;
            return Ok(uri);
        }
        let mut last = anyhow!("no port is free");
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
            let address = free.local_addr()?;
            // Someone may take the port before the destination does: then another is tried.
            drop(free);
            let arguments = json!({ "uri": format!("tcp:{address}") });
            match self.destination.qmp.run("migrate-incoming", &arguments) {
                Ok(_) => return self.way_to(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn way_to(&mut self, address: SocketAddr) -> Result<String> {
        if let Joined::Delayed(proxy, round_trip) = &mut self.joined {
            let started = DelayProxy::start(address, *round_trip)?;
            let uri = format!("tcp:{}", started.address());
            *proxy = Some(started);
            return Ok(uri);
        }
        Ok(format!("tcp:{address}"))
    }

    /// Asks both ends how far they are.
    fn look(&mut self) -> Result<[Look; 2]> {
        let ends = [&mut self.source, &mut self.destination].map(|end| {
            look(&mut end.qmp).or_else(|error| {
                // A monitor that closes belongs to a VM that ends: its last words say more.
                end.process.wait(Instant::now() + 50 * LOOK);
                end.process.check()?;
                Err(error)
            })
        });
        let [from, to] = ends;
        Ok([from?, to?])
    }

    /// Watches the move until both ends are in this phase or complete; their last words.
    fn watch(&mut self, phase: &str) -> Result<[Look; 2]> {
        loop {
            self.hear(Instant::now() + LOOK)?;
            let [from, to] = self.look()?;
            let now = Instant::now();
            // The destination knows of postcopy's pages what the source only believes; QEMU's does not tell.
            let known = to.remaining.filter(|left| *left > 0).or(from.remaining);
            self.pages.extend(known.map(|left| (now, left)));
            for (end, look) in [("source", &from), ("destination", &to)] {
                if let Some(why) = look.failure() {
                    bail!("the move is {why}, says the {end}");
                }
            }
            let there = |look: &Look| look.phase == phase || look.is_complete();
            if there(&from) && there(&to) {
                return Ok([from, to]);
            }
            self.check(&format!("{} at the source, {} at the destination", from.phase, to.phase))?;
        }
    }

    fn run(mut self, setup: &Setup, folder: &Path) -> Result<MoveRun> {
        self.until_said("fill its memory", None, |line| matches!(line, GuestLine::Ready { .. }))?;
        let warm = warm::hold((self.it.fill_mib + 256) * BYTES_PER_MIB)?;
        let warmed_bytes = warm.bytes();
        self.contender.prepare(self.it, [&mut self.source.qmp, &mut self.destination.qmp])?;
        let uri = self.listen()?;
        self.listen_for(BEFORE)?;
        self.let_go(warm)?;
        let processes = [self.source.process.id(), self.destination.process.id()];
        let counting = Counting::start(&processes, folder, setup.perf)?;
        self.source.port.send(b'm')?;
        self.until_said("mark", Some(SILENT), |line| *line == GuestLine::Mark)?;
        let pinning = Pinning::start(self.destination.process.id(), self.it.options.placement)?;
        let start = Instant::now();
        self.contender.begin(self.it, &mut self.source.qmp, &uri, self.deadline)?;
        let blackout = self.blackout(start)?;
        let background = self.it.options.background;
        let mut ends = self.watch(if background { "completed" } else { "postcopy-active" })?;
        if !background {
            self.listen_for(STILL)?;
            ends = self.look()?;
        }
        let counts = counting.stop();
        let remarks = pinning.map_or_else(Vec::new, Pinning::end);
        let told = [&self.source, &self.destination].map(|end| end.qmp.completed());
        // Both ends tell when they were complete; one that does not was seen to be.
        let done = match told {
            [Some(from), Some(to)] if background => from.max(to),
            _ => Instant::now(),
        };
        self.listen_for(if background { AFTER } else { Duration::ZERO })?;
        self.until_beat(done)?;
        let until = Instant::now();
        let verdict = self.verify()?;
        let times = Times { start, done, until };
        let mut figures = self.figures(&times, &verdict)?;
        figures.set("blackout_ms", blackout);
        let [from, to] = &ends;
        self.contender.own_figures(&mut figures, from, to);
        self.set_counts(&mut figures, counts);
        self.set_raw(&mut figures);
        let filled = (self.it.fill_mib as f64).max(1.0);
        figures.set("wire_by_filled", figures.get("wire_mib").map(|wire| wire / filled));
        Ok(MoveRun {
            verified: verdict.ok,
            verdict,
            downtime_parts: self.contender.downtime_parts(from, to),
            beats: self.kept_beats(until),
            pages: self
                .pages
                .iter()
                .map(|(at, left)| (ms(at.duration_since(start)), *left))
                .collect(),
            warmed_bytes,
            congestion: self.joined.congestion(self.it.link),
            remarks,
            own: ends.map(|end| end.answer),
            figures,
        })
    }

    /// The longest time without a timer interrupt, milliseconds, around the switch, by a guest that counts them: up to
    /// its first heartbeat at the destination, or a little more.
    fn blackout(&mut self, start: Instant) -> Result<Option<f64>> {
        if self.it.accel != Accel::Kvm || self.it.mode != Mode::Postcopy {
            return Ok(None);
        }
        self.until_beat(start)?;
        self.destination.port.send(b'g')?;
        let gap = |line: &GuestLine| matches!(line, GuestLine::Gap { .. });
        let GuestLine::Gap { tick_gap_us } = self.until_said("gap", Some(SILENT), gap)? else {
            return Ok(None);
        };
        Ok(Some(tick_gap_us as f64 / 1e3))
    }

    /// Frees memory, which takes a while, and goes on listening.
    fn let_go(&mut self, warm: Warm) -> Result<()> {
        let freeing =
            thread::Builder::new().name("free".into()).spawn(|| drop(warm)).context("no thread")?;
        while !freeing.is_finished() {
            self.listen_for(LOOK)?;
        }
        Ok(())
    }

    /// Has the guest check its memory. What nobody asked for until now comes meanwhile.
    fn verify(&mut self) -> Result<Verdict> {
        self.destination.port.send(b'v')?;
        if !self.it.options.background {
            let on = json!({ "x-umem-postcopy-background": true });
            self.source.qmp.run("migrate-set-parameters", &on)?;
            self.watch("completed")?;
        }
        let said = |line: &GuestLine| matches!(line, GuestLine::Verdict(_));
        match self.until_said("check its memory", None, said)? {
            GuestLine::Verdict(verdict) => Ok(verdict),
            other => bail!("the guest said {other:?}"),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
