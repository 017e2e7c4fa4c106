//! `cargo xtask kvm-check`: everything of umem that needs a KVM with the hardware's help, run and reported.
//!
//! ```text
//!  host.rs     what the host has and is; probe.rs measures whether the hardware helps KVM
//!  guest.rs    which guest, and how its VMs are started
//!  session.rs  a guest and the two VMs that it moves between; console.rs is what they say
//!  checks.rs   boot, moves in every mode and back, snapshot, reset, power-off
//!  asyncpf.rs  async page faults on and off
//!  report.rs   all of it as JSON and Markdown
//! ```
//! Timings never decide whether a check passes. Everything that is started ends with this process, and nothing
//! but the report is left.

mod asyncpf;
mod checks;
mod console;
mod guest;
mod host;
#[cfg(target_arch = "x86_64")]
mod probe;
mod report;
mod session;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use umem_bench::interrupt;

use crate::{paths, run};
use guest::{Guest, Setup};
use report::{Check, Outcome, Report};

/// Options of `cargo xtask kvm-check`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write everything that was found there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report there, as Markdown, instead of printing it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The guest's memory: 2G, 512M or a number of MiB
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = memory)]
    memory: u64,
    /// Pairs of moves with async page faults on and off, with background and without; 0: none
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=99))]
    reps: u32,
    /// How many vCPUs the guests have, one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u32).range(1..=32))]
    vcpus: Vec<u32>,
    /// What to move
    #[arg(long, value_enum, default_value_t = Guest::Debian)]
    guest: Guest,
    /// Longest time for one step: a boot, a move, a check of the memory
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    /// Go on without the hardware's help
    #[arg(long)]
    anyway: bool,
    /// Check this umem instead of building the release
    #[arg(long, value_name = "FILE")]
    umem: Option<PathBuf>,
}

/// Bytes of a size; at least what a Linux guest can start in, and no more than addresses.
fn memory(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 30),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 20),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    let wanted = 64 << 20..=1 << 40;
    bytes
        .filter(|bytes| wanted.contains(bytes))
        .ok_or_else(|| format!("'{text}' is no size from 64M to 1024G"))
}

/// Checks, prints as it goes, and writes the report. Fails when anything has failed.
pub(crate) fn check(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let mut report = Report { host: host::describe(), ..Report::default() };
    let result = perform(options, &mut report);
    report.ended = result.err().map(|error| format!("{error:#}"));
    write(options, &report)?;
    if !report.all_well() {
        bail!("kvm-check: {}", report.verdict());
    }
    println!("kvm-check: {}", report.verdict());
    Ok(())
}

fn write(options: &Options, report: &Report) -> Result<()> {
    let into = |file: &Path, text: String| {
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(file) = &options.json {
        into(file, serde_json::to_string_pretty(&report.json())? + "\n")?;
    }
    match &options.report {
        Some(file) => into(file, report.markdown()),
        None if options.json.is_none() => {
            println!("\n{}", report.markdown());
            Ok(())
        }
        None => Ok(()),
    }
}

fn perform(options: &Options, report: &mut Report) -> Result<()> {
    if options.guest.is_kvm() {
        let help_needed = options.guest.is_linux();
        let checks = host::prerequisites(options.memory, help_needed, &mut report.host);
        checks.iter().for_each(Check::print);
        let missing = host::require(&checks, options.anyway);
        report.checks.extend(checks);
        missing?;
    }
    let folder = tempfile::Builder::new()
        .prefix("umem-kvm-check-")
        .tempdir()
        .context("no folder for sockets and snapshots")?;
    let umem = match &options.umem {
        Some(umem) => run::absolute(umem)?,
        None => build()?,
    };
    let setup = Setup::new(umem, options.guest, options.memory, folder.path())?;
    report.plan = setup.describe();
    report.plan["vcpus"] = json!(options.vcpus);
    report.plan["pairs"] = json!(options.reps);
    let limit = Duration::from_secs(options.limit);
    for &vcpus in &options.vcpus {
        checks::run(&setup, vcpus, folder.path(), limit, report)?;
    }
    if options.reps == 0 {
        return Ok(());
    }
    // A guest that does not even boot is not tried so many times.
    let why = if !options.guest.is_kvm() {
        "they are KVM's"
    } else if report.checks.iter().any(|check| check.name == "postcopy" && check.is_well()) {
        return asyncpf::compare(&setup, options.reps, folder.path(), limit, report);
    } else {
        "no guest has moved by postcopy"
    };
    report.add(Check::new("async page faults", "on and off", Outcome::Skipped(why.into())));
    Ok(())
}

fn build() -> Result<PathBuf> {
    println!("kvm-check: cargo build --release -p umem");
    let build = ["build", "--release", "--package", "umem"];
    run::run(run::command(run::cargo(), build).current_dir(paths::root()))?;
    Ok(paths::target()?.join("release/umem"))
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        assert_eq!(memory("2G"), Ok(2 << 30));
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("512"), Ok(512 << 20));
        for wrong in
            ["", "G", "1", "63M", "-1G", "99999999999999999999", "2T", "18014398509481984M"]
        {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
