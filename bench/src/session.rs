//! A session: all rows that were asked for, all contenders by turns, as often as was asked for.

use crate::programs::Programs;
use crate::report::{Contended, Measured, Outcome, Report};
use crate::run::{Contender, FaultRun, PREFAULTS, Setup, Way, access, generate, once};
use crate::scenario::{Accel, Link, Move, Placement, Scenario, Work};
use crate::{cores, host, interrupt, limits, warm};
use anyhow::Result;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rows.
    pub scenarios: Vec<Scenario>,
    /// Runs of each contender.
    pub reps: u32,
    /// Whether QEMU is measured too.
    pub against_qemu: bool,
    /// How much the raw limits move.
    pub amount: limits::Amount,
    /// What the guests' content follows from.
    pub seed: u64,
}

/// Measures. `keep` gets the report as far as it is after each row: a session of hours that breaks off leaves what
/// it had.
///
/// # Errors
/// When the host cannot be measured, `keep` fails, or a signal asks for an end. Failed runs are part of the report.
pub fn measure(
    setup: &Setup,
    plan: &Plan,
    report: &mut Report,
    mut keep: impl FnMut(&Report, &Measured) -> Result<()>,
) -> Result<()> {
    let kvm = |row: &Scenario| row.as_move().is_some_and(|it| it.accel == Accel::Kvm);
    report.limits = limits::measure(plan.reps, plan.amount, plan.scenarios.iter().any(kvm))?;
    let goal = limits::fault_goal_us(&report.limits);
    for row in &plan.scenarios {
        let measured = match why_not(setup, row) {
            Some(why) => Measured::left_out(row.clone(), why),
            None => match &row.work {
                Work::Move(it) => moved(setup, plan, row, it, goal)?,
                Work::Faults { threads, mib } => {
                    let run = |way, deadline| generate(way, *threads, *mib << 20, deadline);
                    faulted(plan, row, &Way::ALL.map(|way| (way.name(), way)), run)?
                }
                Work::Accesses { accesses, mib } => {
                    let run =
                        |prefault, deadline| access(*accesses, prefault, *mib << 20, deadline);
                    faulted(plan, row, &PREFAULTS, run)?
                }
            },
        };
        report.scenarios.push(measured.clone());
        report.load_average_at_end = host::load();
        keep(report, &measured)?;
    }
    Ok(())
}

/// Why nobody can be measured in this row here, if so.
fn why_not(setup: &Setup, row: &Scenario) -> Option<String> {
    let needed = row.memory_needed();
    let free = host::available_bytes().unwrap_or(u64::MAX);
    if free < needed {
        let mib = |bytes: u64| bytes >> 20;
        return Some(format!("it needs {} MiB and {} are available", mib(needed), mib(free)));
    }
    let it = row.as_move()?;
    if matches!(it.link, Link::Shaped { .. })
        && let Some(why) = crate::network::Shaped::lacks()
    {
        return Some(why);
    }
    if it.options.placement != Placement::Free
        && let Err(error) = cores::pair()
    {
        return Some(format!("{error:#}"));
    }
    setup.programs.lacks(it)
}

/// Who takes part, and why somebody does not.
fn contenders(programs: &Programs, plan: &Plan, it: &Move) -> (Vec<Contender>, Vec<String>) {
    let (mut who, mut notes) = (Vec::new(), Vec::new());
    match refused(&programs.umem, it.accel) {
        None => who.push(Contender::Umem),
        Some(why) => notes.push(format!("umem: {why}")),
    }
    if plan.against_qemu && !it.peers.is_empty() {
        match programs.qemu(it.accel) {
            Ok(_) => who.extend(it.peers.iter().copied().map(Contender::Qemu)),
            Err(error) => notes.push(format!("qemu: {error}")),
        }
    }
    (who, notes)
}

/// Why this umem has no such accelerator, if so: by its own words.
fn refused(umem: &Path, accel: Accel) -> Option<String> {
    let mut command = Command::new(umem);
    let machine = format!("virt,accel={}", accel.word());
    command.args(["vm", "-machine", &machine, "-help"]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Some(words.lines().next().unwrap_or("no reason given").to_owned())
        }
        Err(error) => Some(format!("{}: {error}", umem.display())),
    }
}

fn moved(
    setup: &Setup,
    plan: &Plan,
    row: &Scenario,
    it: &Move,
    goal: Option<f64>,
) -> Result<Measured> {
    // The round trip of the limits is that of loopback.
    let goal = goal.filter(|_| it.accel == Accel::Kvm && it.link == Link::Loopback);
    let (who, notes) = contenders(&setup.programs, plan, it);
    let mut runs: Vec<Vec<Outcome>> = vec![Vec::new(); who.len()];
    for rep in 1..=plan.reps {
        for (contender, runs) in who.iter().zip(&mut runs) {
            interrupt::check()?;
            eprintln!("bench: {}, run {rep} of {}, {}", row.name, plan.reps, contender.name());
            // Contenders of one repetition move the same content.
            let seed = plan.seed.wrapping_add(u64::from(rep) * 7919);
            let mut run = once(setup, row, *contender, seed);
            if let Ok(run) = &mut run {
                run.figures.set_fault_goal(goal, !it.options.background);
            }
            interrupt::check()?;
            runs.push(Outcome::of(run.map(|run| Outcome::Moved(Box::new(run))), contender.name()));
        }
    }
    let contended = who.iter().zip(runs).map(|(contender, runs)| {
        Contended::new(contender.name(), *contender == Contender::Umem, runs)
    });
    Ok(Measured::new(row.clone(), notes, contended.collect()))
}

/// Runs without a guest, of each way by turns.
fn faulted<W: Copy>(
    plan: &Plan,
    row: &Scenario,
    ways: &[(&'static str, W)],
    run: impl Fn(W, Instant) -> Result<FaultRun>,
) -> Result<Measured> {
    let mut runs: Vec<Vec<Outcome>> = ways.iter().map(|_| Vec::new()).collect();
    for rep in 1..=plan.reps {
        for ((name, way), runs) in ways.iter().zip(&mut runs) {
            interrupt::check()?;
            eprintln!("bench: {}, run {rep} of {}, {name}", row.name, plan.reps);
            warm::memory(row.memory_needed())?;
            let deadline = Instant::now() + Duration::from_secs(row.limit_s);
            runs.push(Outcome::of(run(*way, deadline).map(Outcome::Faulted), name));
        }
    }
    let contended = ways.iter().zip(runs);
    let contended = contended.map(|((name, _), runs)| Contended::new(name, true, runs));
    Ok(Measured::new(row.clone(), Vec::new(), contended.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Selection, select};

    fn setup() -> Setup {
        let programs = Programs {
            umem: "/nowhere/umem".into(),
            qemu_riscv64: None,
            qemu_x86_64: None,
            linux: "/nowhere".into(),
        };
        Setup { programs, perf: false }
    }

    #[test]
    fn a_row_that_cannot_be_measured_says_why_and_is_no_failure() {
        let rows = select(Selection::Named(&["main".to_owned()])).unwrap();
        let plan = Plan {
            scenarios: rows,
            reps: 1,
            against_qemu: true,
            amount: limits::Amount { tcp: 1 << 20, copy: 1 << 20 },
            seed: 1,
        };
        let mut report = Report::default();
        measure(&setup(), &plan, &mut report, |_, _| Ok(())).unwrap();
        let why = report.scenarios[0].left_out.as_deref().unwrap();
        assert!(why.contains("Linux") || why.contains("MiB"), "{why}");
        assert!(report.failures().is_empty());
    }

    #[test]
    fn who_is_missing_is_told() {
        let rows = select(Selection::Named(&["quick".to_owned()])).unwrap();
        let it = rows[0].as_move().unwrap().clone();
        let plan = Plan {
            scenarios: rows,
            reps: 1,
            against_qemu: true,
            amount: limits::Amount::QUICK,
            seed: 1,
        };
        let (who, notes) = contenders(&setup().programs, &plan, &it);
        assert!(who.is_empty());
        assert!(
            notes[0].contains("/nowhere/umem") && notes[1].contains("UMEM_QEMU_SYSTEM"),
            "{notes:?}"
        );
    }
}
