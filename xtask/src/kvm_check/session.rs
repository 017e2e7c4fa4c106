//! A guest, the VMs that it is in by turns, and what is asked of them. Every wait has a limit.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use umem_bench::{
    guest::{Beat, Beats, End, GuestLine, Port, Verdict},
    interrupt,
    vm::{Qmp, Status, VmProcess},
};

use super::{
    console::{Consoles, Told},
    guest::{Boot, DISK_BYTES, Setup},
};

/// Between two looks at anything.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks at whether the VMs are well.
const PULSE: Duration = Duration::from_secs(1);
/// Words of a monitor for a move that will not become complete.
const BAD: [&str; 4] = ["failed", "cancelled", "postcopy-paused", "handover-unknown"];
/// What a VM is called, by its end of the first move.
const NAMES: [&str; 2] = ["first VM", "second VM"];

/// A VM's process and the sockets by which it is spoken to.
pub(super) struct Vm {
    process: VmProcess,
    pub(super) qmp: Qmp,
    pub(super) port: Port,
}

impl Vm {
    fn start(
        end: End,
        mut command: Command,
        folder: &Path,
        consoles: &Consoles,
        deadline: Instant,
    ) -> Result<Self> {
        let name = NAMES[usize::from(end == End::Destination)];
        let place = |kind: &str| folder.join(format!("{}.{kind}", end.name()));
        let (serial, qmp) = (place("serial"), place("qmp"));
        command.arg("-serial").arg(format!("unix:{},server", serial.display()));
        command.arg("-qmp").arg(format!("unix:{},server,nowait", qmp.display()));
        command.stdout(Stdio::null());
        let mut process = VmProcess::start(name, command)?;
        for socket in [&serial, &qmp] {
            // A VM that ended at once never makes its sockets.
            while !socket.exists() && Instant::now() < deadline {
                process.check()?;
                interrupt::check()?;
                std::thread::sleep(LOOK);
            }
        }
        let port = Port::connect(&serial, end, consoles.sender.clone(), deadline)?;
        Ok(Self { process, qmp: Qmp::connect(name, &qmp, deadline)?, port })
    }
}

impl Vm {
    /// Ends it, for it says why its guest stands on standard error alone.
    fn last_words(&mut self) -> String {
        // It may have ended by itself.
        let _ = self.qmp.run("quit", &json!({}));
        self.process.wait(Instant::now() + 5 * PULSE);
        self.process.check().err().map_or_else(String::new, |words| format!("{words:#}"))
    }
}

/// How a guest moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Postcopy,
    /// Postcopy of nothing but what the guest asks for, until it is told otherwise.
    OnDemand,
    Precopy,
    Hybrid,
}

impl Way {
    fn arguments(self, uri: &str) -> Value {
        match self {
            Self::Postcopy => json!({ "uri": uri, "postcopy": true }),
            Self::OnDemand => json!({ "uri": uri, "postcopy": true, "no-background": true }),
            Self::Precopy => json!({ "uri": uri }),
            Self::Hybrid => json!({ "uri": uri, "postcopy": true, "precopy": 1 }),
        }
    }
}

/// A guest and its VMs; all of it ends with this.
pub(super) struct Session {
    vms: Vec<Vm>,
    /// Which of them has the guest.
    here: usize,
    pub(super) consoles: Consoles,
    pub(super) beats: Beats,
    said: Vec<GuestLine>,
    limit: Duration,
    pulse: Instant,
    disk: PathBuf,
    folder: PathBuf,
}

impl Session {
    /// Starts a VM that boots the guest, and one that it can move to and back.
    pub(super) fn boot(setup: &Setup, boot: &Boot, folder: &Path, limit: Duration) -> Result<Self> {
        let disk = folder.join("disk.raw");
        let file = fs::File::create(&disk).context("cannot make a disk")?;
        file.set_len(DISK_BYTES).context("no room for a disk")?;
        let mut from = setup.machine(boot, &disk);
        setup.boot(&mut from, boot);
        let mut to = setup.machine(boot, &disk);
        to.args(["-incoming", "defer"]);
        let mut session = Self::new(folder, disk, limit);
        session.add(End::Source, from)?;
        session.add(End::Destination, to)?;
        Ok(session)
    }

    /// Starts a VM that loads a saved guest, with a disk of its own.
    pub(super) fn load(
        setup: &Setup,
        boot: &Boot,
        folder: &Path,
        saved: &Saved,
        postcopy: bool,
        limit: Duration,
    ) -> Result<Self> {
        let disk = folder.join("disk.raw");
        fs::copy(&saved.disk, &disk).context("cannot copy the disk")?;
        let mut command = setup.machine(boot, &disk);
        command.args(["-incoming", &saved.uri]);
        if postcopy {
            command.arg("-postcopy");
        }
        let mut session = Self::new(folder, disk, limit);
        session.add(End::Source, command)?;
        Ok(session)
    }

    fn new(folder: &Path, disk: PathBuf, limit: Duration) -> Self {
        Self {
            vms: Vec::new(),
            here: 0,
            consoles: Consoles::new(),
            beats: Beats::default(),
            said: Vec::new(),
            limit,
            pulse: Instant::now(),
            disk,
            folder: folder.to_owned(),
        }
    }

    fn add(&mut self, end: End, command: Command) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        self.vms.push(Vm::start(end, command, &self.folder, &self.consoles, deadline)?);
        Ok(())
    }

    fn vm(&mut self) -> Result<&mut Vm> {
        self.vms.get_mut(self.here).context("no VM")
    }

    /// Runs a command on the monitor of the VM that has the guest.
    pub(super) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.vm()?.qmp.run(command, arguments)
    }

    pub(super) fn status(&mut self) -> Result<String> {
        let status = self.run("query-status", &json!({}))?;
        Ok(status["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Each VM's name and the newest lines of its console.
    pub(super) fn last_lines(&self) -> Vec<(String, Vec<String>)> {
        let ends = [End::Source, End::Destination].into_iter().take(self.vms.len());
        let named = ends.zip(NAMES);
        named.map(|(end, name)| (format!("the {name}"), self.consoles.last_lines(end))).collect()
    }

    /// Listens to the guest until `until` or a little longer.
    fn hear(&mut self, until: Instant) -> Result<()> {
        interrupt::check()?;
        for heard in self.consoles.listen(until) {
            match heard.line {
                GuestLine::Beat { writes, .. } => {
                    self.beats.push(Beat { end: heard.end, at: heard.at, writes });
                }
                GuestLine::Failed(why) => bail!("the guest cannot go on: {why}"),
                line => self.said.push(line),
            }
        }
        ensure!(!self.consoles.told.panicked, "the guest's kernel has given up");
        Ok(())
    }

    /// Fails past `deadline`, and when a VM has ended or its guest stands.
    fn check(&mut self, what: &str, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        if now >= self.pulse + PULSE {
            self.pulse = now;
            for vm in &mut self.vms {
                vm.process.check()?;
                let status = vm.qmp.run("query-status", &json!({}))?;
                let status = status["status"].as_str().unwrap_or_default();
                let bad = ["internal-error", "guest-panicked", "io-error", "shutdown"];
                if bad.contains(&status) {
                    bail!("a VM is {status} instead of: {what}; {}", vm.last_words());
                }
            }
        }
        if now >= deadline {
            let (limit, silent) = (self.limit.as_secs(), self.consoles.last.elapsed().as_secs());
            let words = self.consoles.last_words();
            bail!(
                "not in {limit} s: {what}; nothing on the consoles for {silent} s, last: {words}"
            );
        }
        Ok(())
    }

    pub(super) fn listen_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.hear(until.min(Instant::now() + LOOK))?;
        }
        self.check("the guest runs", Instant::now() + self.limit)
    }

    /// Waits until `probe` has something.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + self.limit;
        loop {
            self.hear(Instant::now() + LOOK)?;
            if let Some(found) = probe(self)? {
                return Ok(found);
            }
            self.check(what, deadline)?;
        }
    }

    fn until_said(&mut self, what: &str, wanted: fn(&GuestLine) -> bool) -> Result<GuestLine> {
        self.until(what, |session| {
            let place = session.said.iter().position(wanted);
            Ok(place.map(|place| session.said.swap_remove(place)))
        })
    }

    pub(super) fn send(&mut self, key: u8) -> Result<()> {
        self.vm()?.port.send(key)
    }

    /// Waits until the guest has filled its memory, and beats.
    pub(super) fn until_ready(&mut self) -> Result<()> {
        let ready = |line: &GuestLine| matches!(line, GuestLine::Ready { .. });
        self.until_said("the guest fills its memory", ready)?;
        self.until_beats()
    }

    /// Waits for heartbeats: the guest runs.
    pub(super) fn until_beats(&mut self) -> Result<()> {
        let wanted = self.beats.count() + 20;
        self.until("20 heartbeats", |session| Ok((session.beats.count() >= wanted).then_some(())))
    }

    /// Has the guest measure anew.
    pub(super) fn mark(&mut self) -> Result<()> {
        self.send(b'm')?;
        self.until_said("the guest's mark", |line| *line == GuestLine::Mark).map(drop)
    }

    /// Waits for the guest's verdict, which was asked for.
    pub(super) fn verdict(&mut self) -> Result<Verdict> {
        let is = |line: &GuestLine| matches!(line, GuestLine::Verdict(_));
        match self.until_said("the guest checks its memory", is)? {
            GuestLine::Verdict(verdict) => Ok(verdict),
            other => bail!("the guest said {other:?}"),
        }
    }

    /// Has the guest check its memory and what else it watches, which must be well.
    pub(super) fn verify(&mut self) -> Result<Verdict> {
        self.send(b'v')?;
        let verdict = self.verdict()?;
        ensure!(verdict.ok, "the guest found its memory or its processors altered: {verdict:?}");
        Ok(verdict)
    }

    /// Waits until Linux has used disk and random numbers a few times more, and all went well so far.
    pub(super) fn until_devices(&mut self) -> Result<u64> {
        let wanted = self.consoles.told.rounds + 20;
        self.until("disk and random numbers go on", |session| {
            Ok((session.consoles.told.rounds >= wanted).then_some(()))
        })?;
        let told = self.consoles.told;
        let bad = told.bad_rounds;
        ensure!(bad == 0, "the disk gave something else than was written, {bad} times");
        Ok(told.rounds)
    }

    /// What is heard from now on belongs to the next move.
    pub(super) fn prepare(&mut self) -> Result<()> {
        self.consoles.turn(if self.here == 0 { End::Source } else { End::Destination });
        self.beats = Beats::default();
        self.until_beats()
    }

    /// The guest begins anew, and with it what its devices have done.
    pub(super) fn forget(&mut self) {
        self.consoles.told = Told::default();
        self.said.clear();
    }

    /// Begins a move to the other VM.
    pub(super) fn go(&mut self, way: Way) -> Result<()> {
        let postcopy = json!({ "capability": "postcopy-ram", "state": way != Way::Precopy });
        let capabilities = json!({ "capabilities": [postcopy] });
        let free = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
        let uri = format!("tcp:{}", free.local_addr()?);
        drop(free);
        let other = self.other()?;
        other.qmp.run("migrate-set-capabilities", &capabilities)?;
        other.qmp.run("migrate-incoming", &json!({ "uri": uri }))?;
        self.run("migrate-set-capabilities", &capabilities)?;
        self.run("migrate", &way.arguments(&uri)).map(drop)
    }

    /// Waits until both ends of a move are in this phase or complete: what they say, the guest's VM last.
    pub(super) fn watch(&mut self, phase: &str) -> Result<[Status; 2]> {
        let (here, there) = (self.here, 1 - self.here);
        self.until(&format!("the move is {phase}"), |session| {
            let mut look = |place: usize| {
                Ok::<_, anyhow::Error>(
                    session.vms.get_mut(place).context("no VM")?.qmp.migration()?.0,
                )
            };
            let both = [look(here)?, look(there)?];
            for (status, name) in both.iter().zip(["source", "destination"]) {
                if BAD.contains(&status.phase.as_str()) {
                    let why = status.error.as_deref().unwrap_or("no reason given");
                    bail!("the move is {} at the {name}: {why}", status.phase);
                }
            }
            let there = |status: &Status| status.phase == phase || status.phase == "completed";
            Ok(both.iter().all(there).then_some(both))
        })
    }

    /// Waits for the end of a move; the guest is in the other VM from then on.
    pub(super) fn complete(&mut self) -> Result<[Status; 2]> {
        let both = self.until("both ends agree on all pages", |session| {
            let both = session.watch("completed")?;
            Ok(both.iter().all(|status| status.verified).then_some(both))
        })?;
        let [from, to] = &both;
        ensure!(from.digest == to.digest, "the ends' digests differ: {from:?} {to:?}");
        ensure!(to.pages.remaining == 0, "{} pages are missing", to.pages.remaining);
        let status = self.status()?;
        ensure!(status == "postmigrate", "the source is {status}");
        self.here = 1 - self.here;
        Ok(both)
    }

    /// Where the guest is going, or was before.
    pub(super) fn other(&mut self) -> Result<&mut Vm> {
        self.vms.get_mut(1 - self.here).context("no other VM")
    }

    /// Saves the guest to a file while it runs; it stands then.
    pub(super) fn save(&mut self) -> Result<Saved> {
        let uri = format!("file:{}", self.folder.join("snapshot").display());
        self.run("migrate", &json!({ "uri": uri }))?;
        let status = self.until_migration("completed")?;
        Ok(Saved { uri, disk: self.disk.clone(), status })
    }

    /// Waits until the only end of a migration, a snapshot's, is in this phase.
    pub(super) fn until_migration(&mut self, phase: &str) -> Result<Status> {
        self.until(&format!("the snapshot is {phase}"), |session| {
            let (status, _) = session.vm()?.qmp.migration()?;
            if BAD.contains(&status.phase.as_str()) {
                bail!("the snapshot is {}: {}", status.phase, status.error.unwrap_or_default());
            }
            Ok((status.phase == phase).then_some(status))
        })
    }

    /// Has the guest switch its machine off; the VM ends by that.
    pub(super) fn power_off(&mut self) -> Result<()> {
        self.send(b'q')?;
        self.until_said("the guest's last word", |line| *line == GuestLine::Bye)?;
        let deadline = Instant::now() + self.limit;
        let process = &mut self.vm()?.process;
        ensure!(process.wait(deadline), "the guest has not switched its machine off");
        Ok(())
    }
}

/// A guest in a file.
pub(super) struct Saved {
    uri: String,
    disk: PathBuf,
    pub(super) status: Status,
}
