//! `umem vm`.

mod memory;
mod network;
mod options;
mod parse;
mod run;
mod values;

#[cfg(test)]
mod tests;

use crate::cli;
pub(crate) use memory::page_size as huge_page_size;
use parse::{Asked, parse};
pub(crate) use run::END_WITH_PARENT;
use std::process::ExitCode;
pub(crate) use values::memory as memory_size;

/// Runs `umem vm` with these options.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match parse(arguments) {
        Ok(Asked::Help) => {
            print!("{}", options::help());
            ExitCode::SUCCESS
        }
        Ok(Asked::Version) => {
            println!("umem {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Asked::Run(command)) => match run::run(*command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::failed("vm", &error),
        },
        Err(why) => {
            eprintln!("umem vm: {why}");
            ExitCode::from(2)
        }
    }
}
