//! `umem bench`: measures moves of umem's, and of QEMU's beside them, on this host.

mod options;

pub(crate) use options::Options;

use crate::cli;
use anyhow::{Context as _, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use umem_bench::limits::Amount;
use umem_bench::programs::Programs;
use umem_bench::report::{self, Report};
use umem_bench::run::Setup;
use umem_bench::scenario::{Scenario, Selection, all, select};
use umem_bench::session::{self, Plan};
use umem_bench::{host, interrupt};

/// Runs the command. Its status: 0 measured, 1 failed or memory was damaged, 2 wrong arguments.
pub(crate) fn main(options: &Options) -> ExitCode {
    if options.list {
        print!("{}", report::list(&all()));
        return ExitCode::SUCCESS;
    }
    let rows = match rows(options) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("umem bench: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(options, rows) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failed("bench", &error),
    }
}

fn rows(options: &Options) -> anyhow::Result<Vec<Scenario>> {
    let mut rows = match (&options.scenarios[..], options.quick) {
        ([], true) => select(Selection::Quick)?,
        ([], false) => select(Selection::All)?,
        (names, _) => select(Selection::Named(names))?,
    };
    if let Some(accel) = options.accel() {
        rows.retain(|row| row.as_move().is_none_or(|it| it.accel == accel));
    }
    if rows.is_empty() {
        bail!("no scenario is left; umem bench --list shows all");
    }
    Ok(rows)
}

fn run(options: &Options, scenarios: Vec<Scenario>) -> anyhow::Result<()> {
    let began = Instant::now();
    interrupt::listen()?;
    let umem = match &options.umem {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot find this program's file")?,
    };
    let setup = Setup::new(Programs::find(umem));
    if !setup.perf {
        eprintln!(
            "bench: perf cannot count system calls here (missing, or not allowed): calls, switches and kernel \
             faults per page are left out"
        );
    }
    let mut found = Report {
        host: host::describe(option_env!("UMEM_COMMIT")),
        programs: programs(&setup.programs),
        reps: options.reps(),
        ..Report::default()
    };
    let plan = Plan {
        scenarios,
        reps: options.reps(),
        against_qemu: options.against.is_some(),
        amount: if options.quick { Amount::QUICK } else { Amount::FULL },
        seed: options.seed,
    };
    let mut limits_shown = false;
    let measured = session::measure(&setup, &plan, &mut found, |report, row| {
        if !std::mem::replace(&mut limits_shown, true) {
            print!("{}", report.limits_text());
        }
        print!("{}", report::text(row));
        save(options, report)
    });
    // What was measured until then is kept, whatever it ended by.
    save(options, &found)?;
    measured?;
    eprintln!("bench: {} s in all", began.elapsed().as_secs());
    let failures = found.failures();
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

/// What is measured: versions as the programs tell them, and the guest's packages.
fn programs(programs: &Programs) -> serde_json::Value {
    let version = |program: &Option<PathBuf>| {
        program.as_deref().and_then(|program| host::said(program, &["--version"]))
    };
    let working_copy = host::said(Path::new("git"), &["rev-parse", "HEAD"]);
    let changed = host::said(Path::new("git"), &["status", "--porcelain", "--untracked-files=no"]);
    let linux = fs::read_to_string(programs.linux.join("version")).ok();
    serde_json::json!({
        "umem": host::said(&programs.umem, &["--version"]),
        "umem_is_optimised": !cfg!(debug_assertions),
        "working_copy": working_copy,
        "working_copy_has_changes": changed.map(|line| !line.is_empty()),
        "qemu_riscv64": version(&programs.qemu_riscv64),
        "qemu_x86_64": version(&programs.qemu_x86_64),
        "linux_guest": linux.map(|text| text.trim().replace('\n', ", ")),
    })
}

fn save(options: &Options, report: &Report) -> anyhow::Result<()> {
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> anyhow::Result<String>| {
        let Some(file) = file else { return Ok(()) };
        fs::write(file, text()?).with_context(|| format!("cannot write {}", file.display()))
    };
    write(&options.json, &|| Ok(serde_json::to_string_pretty(report)? + "\n"))?;
    write(&options.csv, &|| Ok(report::csv(report)))?;
    write(&options.html, &|| Ok(report::html(report)))
}
