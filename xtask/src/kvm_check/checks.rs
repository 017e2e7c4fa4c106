//! What is done with one guest: booted, moved in every mode and back, saved, reset, switched off.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umem_bench::{guest::Verdict, interrupt, stats::rounded, vm::Status};

use super::{
    guest::{Boot, Setup},
    report::{Check, Outcome, Report},
    session::{Session, Way},
};

/// How long the guest's rate is taken before a move, and after the switch.
const BEFORE: Duration = Duration::from_secs(1);
/// How long a guest is stopped by the monitor.
const STOPPED: Duration = Duration::from_millis(500);
/// Pages written a second by each vCPU.
const RATE: u64 = 4000;

/// What a step says of itself, and what it measured.
type Step = Result<(String, Value)>;

/// One guest's checks; the first that fails ends them, since what follows would tell nothing.
struct Series<'a> {
    setup: &'a Setup,
    boot: Boot,
    folder: &'a Path,
    limit: Duration,
    report: &'a mut Report,
    group: String,
    failed: bool,
}

impl Series<'_> {
    fn step(&mut self, session: &mut Session, name: &str, act: impl FnOnce(&mut Session) -> Step) {
        let mut check =
            Check::new(&self.group, name, Outcome::Skipped("an earlier check failed".into()));
        if !self.failed {
            let start = Instant::now();
            let done = act(session);
            check.seconds = start.elapsed().as_secs_f64();
            check.outcome = match done {
                Ok((words, figures)) => {
                    check.figures = figures;
                    Outcome::Passed(words)
                }
                Err(error) => {
                    self.failed = true;
                    check.consoles = session.last_lines();
                    Outcome::Failed(format!("{error:#}"))
                }
            };
        }
        self.report.add(check);
    }

    fn all(&mut self, session: &mut Session) {
        let is_linux = self.setup.guest.is_linux();
        let vcpus = self.boot.vcpus;
        self.step(session, "boot", |session| booted(session, vcpus, is_linux));
        self.step(session, "stop and cont", |session| stopped(session, is_linux));
        let moves = [
            ("postcopy", Way::Postcopy),
            ("precopy, back", Way::Precopy),
            ("hybrid", Way::Hybrid),
            ("hybrid, back", Way::Hybrid),
        ];
        for (name, way) in moves {
            self.step(session, name, |session| moved(session, way, is_linux));
        }
        let (setup, boot, limit) = (self.setup, self.boot.clone(), self.limit);
        let folder = self.folder.join("loaded");
        self.step(session, "snapshot", |session| kept(session, setup, &boot, &folder, limit));
        self.step(session, "reset", |session| reset(session, is_linux));
        self.step(session, "power-off", |session| {
            session.power_off()?;
            Ok(("the guest switched its machine off".into(), Value::Null))
        });
    }
}

/// All checks of a guest with so many vCPUs.
pub(super) fn run(
    setup: &Setup,
    vcpus: u32,
    folder: &Path,
    limit: Duration,
    report: &mut Report,
) -> Result<()> {
    interrupt::check()?;
    let boot = Boot { vcpus, threads: vcpus, rate: RATE * u64::from(vcpus), seed: 7919, cpu: "" };
    let folder = folder.join(format!("vcpus-{vcpus}"));
    fs::create_dir(&folder).context("no folder for sockets")?;
    let group = if vcpus == 1 { "1 vCPU".to_owned() } else { format!("{vcpus} vCPUs") };
    match Session::boot(setup, &boot, &folder, limit) {
        Ok(mut session) => {
            let mut series =
                Series { setup, boot, folder: &folder, limit, report, group, failed: false };
            series.all(&mut session);
        }
        Err(error) => {
            report.add(Check::new(&group, "start", Outcome::Failed(format!("{error:#}"))));
        }
    }
    // Memory of a snapshot is no longer needed.
    fs::remove_dir_all(&folder).context("cannot remove a folder of sockets")?;
    interrupt::check()
}

/// The guest's memory, processors and devices are well.
fn well(session: &mut Session, is_linux: bool) -> Result<Verdict> {
    let verdict = session.verify()?;
    session.until_beats()?;
    if is_linux {
        session.until_devices()?;
    }
    Ok(verdict)
}

fn checked(verdict: &Verdict) -> String {
    format!("{} pages and {} writes verified", verdict.checked_pages, verdict.writes)
}

fn booted(session: &mut Session, vcpus: u32, is_linux: bool) -> Step {
    let start = Instant::now();
    session.until_ready()?;
    let ready = start.elapsed().as_secs_f64();
    let verdict = well(session, is_linux)?;
    let workers = verdict.workers;
    ensure!(workers == u64::from(vcpus), "{workers} of {vcpus} processors or threads write");
    let told = session.consoles.told;
    let started = told.processors.unwrap_or(vcpus);
    ensure!(started == vcpus, "the kernel has started {started} of {vcpus} processors");
    let words = format!("ready after {ready:.1} s; {}", checked(&verdict));
    let figures = json!({
        "ready_s": rounded(ready),
        "processors_by_kernel": told.processors,
        "async_page_faults": told.async_page_faults,
        "verdict": verdict,
    });
    Ok((words, figures))
}

fn stopped(session: &mut Session, is_linux: bool) -> Step {
    session.run("stop", &json!({}))?;
    ensure!(session.status()? == "paused", "the VM is {} after stop", session.status()?);
    // What was on its way has come.
    session.listen_for(STOPPED)?;
    let before = session.beats.count();
    session.listen_for(STOPPED)?;
    let meanwhile = session.beats.count() - before;
    ensure!(meanwhile == 0, "{meanwhile} heartbeats of a guest that is stopped");
    session.run("cont", &json!({}))?;
    session.until_beats()?;
    Ok((checked(&well(session, is_linux)?), Value::Null))
}

/// What is told of a move in one line, and all of it.
fn figures(
    session: &Session,
    ends: &[Status; 2],
    verdict: &Verdict,
    start: Instant,
) -> (String, Value) {
    let [from, to] = ends;
    let beats = &session.beats;
    let before = start.checked_sub(BEFORE).and_then(|begin| beats.per_second(begin, BEFORE));
    let after = beats.switch().and_then(|switch| beats.per_second(switch, BEFORE));
    let share = before.zip(after).map(|(before, after)| rounded(100.0 * after / before));
    let (gap, down) = (beats.gap_at_switch_ms().map(rounded), from.downtime.total.map(rounded));
    let or_unknown = |value: Option<f64>| value.map_or("unknown".into(), |value| value.to_string());
    let words = format!(
        "{} in {:.0} ms, silent for {} ms, {} faults, {} % of the writes in the first second",
        checked(verdict),
        from.total_ms,
        or_unknown(gap),
        to.faults.count,
        or_unknown(share),
    );
    let pages = to.pages;
    let figures = json!({
        "total_ms": rounded(from.total_ms),
        "downtime_ms": down,
        "gap_at_switch_ms": gap,
        "writes_per_second_before": before.map(rounded),
        "writes_per_second_first_second": after.map(rounded),
        "first_second_percent": share,
        "faults": to.faults,
        "pages": {
            "total": pages.total,
            "precopy": pages.precopy,
            "demand": pages.demand,
            "prefault": pages.prefault,
            "background": pages.background,
            "fill": pages.fill,
        },
        "passes": from.rounds.map(|rounds| rounds.passes),
        "wire_mib": from.wire_bytes >> 20,
        "verdict": verdict,
    });
    (words, figures)
}

fn moved(session: &mut Session, way: Way, is_linux: bool) -> Step {
    let writes = session.verify()?.writes;
    session.prepare()?;
    session.listen_for(BEFORE + Duration::from_millis(200))?;
    session.mark()?;
    let start = Instant::now();
    session.go(way)?;
    let ends = session.complete()?;
    // The first second after the switch, and a heartbeat behind it.
    session.listen_for(BEFORE + Duration::from_millis(200))?;
    let verdict = well(session, is_linux)?;
    ensure!(verdict.writes > writes, "{} writes, and {writes} before the move", verdict.writes);
    Ok(figures(session, &ends, &verdict, start))
}

fn kept(session: &mut Session, setup: &Setup, boot: &Boot, folder: &Path, limit: Duration) -> Step {
    let is_linux = setup.guest.is_linux();
    let saved = session.save()?;
    let mut pages = Vec::new();
    for postcopy in [false, true] {
        let folder = folder.with_extension(if postcopy { "postcopy" } else { "whole" });
        fs::create_dir(&folder).context("no folder for sockets")?;
        let load = || -> Result<Verdict> {
            let mut loaded = Session::load(setup, boot, &folder, &saved, postcopy, limit)?;
            let verdict = loaded.until_beats().and_then(|()| well(&mut loaded, is_linux));
            let verdict =
                verdict.with_context(|| format!("consoles: {:?}", loaded.last_lines()))?;
            loaded.until_migration("completed")?;
            Ok(verdict)
        };
        let how = if postcopy { "page by page" } else { "whole" };
        pages.push(load().with_context(|| format!("loaded {how}"))?.checked_pages);
    }
    session.run("cont", &json!({}))?;
    session.until_beats()?;
    let verdict = well(session, is_linux)?;
    let words = format!("loaded whole and page by page, and gone on with; {}", checked(&verdict));
    let status = &saved.status;
    Ok((words, json!({ "total_ms": rounded(status.total_ms), "checked_pages": pages })))
}

fn reset(session: &mut Session, is_linux: bool) -> Step {
    session.forget();
    session.run("system_reset", &json!({}))?;
    session.until_ready()?;
    Ok((checked(&well(session, is_linux)?), Value::Null))
}
