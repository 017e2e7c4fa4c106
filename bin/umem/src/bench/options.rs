//! Options of `umem bench`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use umem_bench::scenario;

/// Who else is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// QEMU with the same guests: $UMEM_QEMU_SYSTEM, $UMEM_QEMU_X86, or in PATH
    Qemu,
}

/// What runs the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// The software CPU, riscv64
    Tcg,
    /// The host's x86-64 processor
    Kvm,
}

/// Measure moves on this host, beside QEMU's and the host's own limits. Installs nothing.
///
/// Prints tables in Markdown. Memory is warmed before each run and the guest's memory verified after it: damage
/// fails the command, timings never do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Show the scenarios and end
    #[arg(long)]
    pub(super) list: bool,
    /// Measure these scenarios or groups of them (NAME, or START*) instead of all, which takes hours
    #[arg(long = "scenario", value_name = "NAME", value_delimiter = ',')]
    pub(super) scenarios: Vec<String>,
    /// One run of the small scenarios
    #[arg(long)]
    pub(super) quick: bool,
    /// Only guests of this accelerator
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Measure this too, by turns with umem
    #[arg(long, value_enum)]
    pub(super) against: Option<Against>,
    /// Runs of each contender (5; with --quick 1)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=99))]
    reps: Option<u32>,
    /// What the guests' memory follows from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
    /// Measure this umem instead of the one that measures
    #[arg(long, value_name = "FILE")]
    pub(super) umem: Option<PathBuf>,
    /// Write all figures and runs there as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write a line for each figure of each run there
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
    /// Write a page with tables and plots there, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

impl Options {
    pub(super) fn reps(&self) -> u32 {
        self.reps.unwrap_or(if self.quick { 1 } else { 5 })
    }

    pub(super) fn accel(&self) -> Option<scenario::Accel> {
        self.accel.map(|accel| match accel {
            Accel::Tcg => scenario::Accel::Tcg,
            Accel::Kvm => scenario::Accel::Kvm,
        })
    }
}
