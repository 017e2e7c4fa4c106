//! `cargo xtask bench`: makes ready what measurements need, measures the software CPU and the kernel's boot, and
//! has `umem bench` measure moves.
//!
//! Every figure is the median of runs that alternate between the contenders, so that what else happens on
//! the machine meets all of them. Timings never decide pass or fail; a guest that finds its memory damaged
//! does.

mod boot;
mod cpu;
mod machine;
mod peer;
mod table;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use umem_bench::host;

use crate::{linux, paths, run};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Speed of the software CPU on loops of known length
    Cpu,
    /// Debian's kernel from the start of the process to its init
    Boot,
    /// Moves, by `umem bench --against qemu` with the arguments behind --
    Moves,
    /// All of these
    All,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// Write the figures of CPU and boot there as JSON; moves write theirs by `umem bench --json`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each contender
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Measure this umem instead of building the release
    #[arg(long, value_name = "FILE")]
    umem: Option<PathBuf>,
    /// Arguments of `umem bench`, for example: -- --scenario main --html main.html
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The programs and images measured.
pub(crate) struct Setup {
    pub(crate) umem: PathBuf,
    pub(crate) qemu: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) runs: u32,
    qemu_x86: PathBuf,
}

/// Measures, prints the tables, and writes the JSON.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let setup = prepare(options)?;
    let wants = |part| options.part == part || options.part == Part::All;
    let mut record = Map::new();
    record.insert("host".into(), host::describe(commit().as_deref()));
    record.insert("qemu".into(), host::said(&setup.qemu, &["--version"]).into());
    record.insert("runs".into(), setup.runs.into());
    let mut keep = |name: &str, value: Value| -> Result<()> {
        table::print(name, &value);
        record.insert(name.into(), value);
        // A run of many minutes that breaks off near its end still leaves what it had.
        save(options, &record)
    };
    if wants(Part::Cpu) {
        keep("cpu", cpu::measure(&setup)?)?;
    }
    if wants(Part::Boot) {
        keep("boot", boot::measure(&setup)?)?;
    }
    record.insert("load_average_at_end".into(), host::load().into());
    if options.part != Part::Moves {
        save(options, &record)?;
    }
    if wants(Part::Moves) {
        moves(&setup, options)?;
    }
    Ok(())
}

/// The working copy's commit.
fn commit() -> Option<String> {
    let mut command = run::command("git", ["rev-parse", "HEAD"]);
    let text = run::text(command.current_dir(paths::root())).ok()?;
    Some(text.trim().to_owned())
}

/// Has `umem bench` measure, with everything where it looks for it.
fn moves(setup: &Setup, options: &Options) -> Result<()> {
    let mut command = run::command(&setup.umem, ["bench", "--against", "qemu"]);
    command.args(["--reps", &setup.runs.to_string()]).args(&options.arguments);
    command.env("UMEM_QEMU_SYSTEM", &setup.qemu).env("UMEM_QEMU_X86", &setup.qemu_x86);
    command.env("UMEM_LINUX", paths::linux_out());
    run::run(&mut command)
}

fn save(options: &Options, record: &Map<String, Value>) -> Result<()> {
    let Some(file) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(record)?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn prepare(options: &Options) -> Result<Setup> {
    let peer::Peer { riscv64, x86_64 } = peer::ensure()?;
    linux::build()?;
    let umem = match &options.umem {
        Some(umem) => run::absolute(umem)?,
        None => {
            let mut build = run::command(run::cargo(), ["build", "--release", "--package", "umem"]);
            build.envs(commit().map(|commit| ("UMEM_COMMIT", commit)));
            run::run(build.current_dir(paths::root()))?;
            paths::target()?.join("release/umem")
        }
    };
    let linux = paths::linux_out();
    Ok(Setup {
        umem,
        qemu: riscv64,
        kernel: linux.join("Image"),
        initrd: linux.join("initramfs.cpio"),
        runs: options.runs,
        qemu_x86: x86_64,
    })
}
