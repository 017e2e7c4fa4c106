//! `cargo xtask bench`: umem beside QEMU, on the same images, in one run.
//!
//! Every figure is the median of runs that alternate between the contenders, so that what else happens on
//! the machine meets all of them. Timings never decide pass or fail; a guest that finds its memory damaged
//! does.

mod boot;
mod cpu;
mod demo;
mod host;
mod moving;
mod probe;
mod qmp;
mod table;
mod vm;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use umem_bench::limits;

use crate::{linux, paths, qemu, run};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Speed of the software CPU on loops of known length
    Cpu,
    /// Debian's kernel from the start of the process to its init
    Boot,
    /// The demo's bare-metal guest
    Demo,
    /// The same on small and on huge pages
    Pages,
    /// A Linux guest moved by postcopy
    Move,
    /// All of these
    All,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// Write all figures there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each contender
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Measure this umem instead of building the release
    #[arg(long, value_name = "FILE")]
    umem: Option<PathBuf>,
    /// Random pages that the guest writes in a second while it is moved
    #[arg(long, value_name = "PAGES", value_delimiter = ',', default_values_t = [2000, 20_000])]
    rates: Vec<u64>,
    /// Who moves it
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_values = ["umem", "qemu", "qemu-preempt"])]
    modes: Vec<moving::Mode>,
}

/// The programs and images measured.
pub(crate) struct Setup {
    pub(crate) umem: PathBuf,
    pub(crate) qemu: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) runs: u32,
}

/// Measures, prints the tables, and writes the JSON.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let setup = prepare(options)?;
    let mut record = Map::new();
    record.insert("host".into(), host::describe(&setup)?);
    let wants = |part| options.part == part || options.part == Part::All;
    let mut keep = |name: &str, value: Value| -> Result<()> {
        table::print(name, &value);
        record.insert(name.into(), value);
        // A run of many minutes that breaks off near its end still leaves what it had.
        save(options, &record)
    };
    if wants(Part::Move) {
        keep("limits", limits::measure(setup.runs)?)?;
    }
    if wants(Part::Cpu) {
        keep("cpu", cpu::measure(&setup)?)?;
    }
    if wants(Part::Boot) {
        keep("boot", boot::measure(&setup)?)?;
    }
    if wants(Part::Demo) {
        keep("demo", demo::measure(&setup)?)?;
    }
    if wants(Part::Pages) {
        keep("pages", demo::measure_pages(&setup)?)?;
    }
    if wants(Part::Move) {
        keep("move", moving::measure(&setup, &options.rates, &options.modes)?)?;
    }
    record.insert("load_average_at_end".into(), host::load());
    save(options, &record)?;
    well(&record)
}

/// QEMU's failures are figures; ours are failures.
fn well(record: &Map<String, Value>) -> Result<()> {
    let moves = record.get("move").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for row in moves {
        let ours = row["mode"].as_str().is_some_and(|mode| mode.starts_with("umem"));
        if ours && row["all_verified"] != true {
            bail!("{} moves at {}/s were verified", row["verified_runs"], row["rate"]);
        }
    }
    Ok(())
}

fn save(options: &Options, record: &Map<String, Value>) -> Result<()> {
    let Some(file) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(record)?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn prepare(options: &Options) -> Result<Setup> {
    let qemu = qemu::ensure()?.system;
    linux::build()?;
    let umem = match &options.umem {
        Some(umem) => umem.clone(),
        None => {
            let build = ["build", "--release", "--package", "umem"];
            run::run(run::command(run::cargo(), build).current_dir(paths::root()))?;
            paths::target()?.join("release/umem")
        }
    };
    let linux = paths::linux_out();
    Ok(Setup {
        umem,
        qemu,
        kernel: linux.join("Image"),
        initrd: linux.join("initramfs.cpio"),
        runs: options.runs,
    })
}
