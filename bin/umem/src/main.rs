//! `umem`: command line.

mod bench;
mod cli;
mod console;
mod demo;
mod launch;
mod log;
mod vm;

use std::process::ExitCode;

fn main() -> ExitCode {
    log::init();
    cli::run()
}
