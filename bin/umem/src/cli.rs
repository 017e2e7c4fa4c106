//! The commands of `umem` and how they end.

use crate::{bench, demo, vm};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Postcopy live migration for virtual machines.
#[derive(Debug, Parser)]
#[command(name = "umem", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a virtual machine; options as QEMU has them, see `umem vm -help`
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Vm {
        /// Options of the VM
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        options: Vec<String>,
    },
    /// Move a guest that checks its own memory between two VMs on this host
    Demo(demo::Options),
    /// Measure moves on this host, beside QEMU's and the host's own limits
    Bench(bench::Options),
}

/// Runs the command that the arguments name. Its status: 0 done, 1 failed, 2 wrong arguments.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Vm { options } => vm::main(&options),
        Command::Demo(options) => demo::main(&options),
        Command::Bench(options) => bench::main(&options),
    }
}

/// Prints one line with the chain of causes, for status 1.
pub(crate) fn failed(command: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("umem {command}: {error:#}");
    ExitCode::from(1)
}
