//! `umem demo`: a guest that checks its own memory moves between two VMs on this host.

mod options;
mod progress;
mod report;
mod scenario;

pub(crate) use options::Options;

use crate::cli;
use anyhow::Context as _;
use report::Report;
use scenario::Scenario;
use std::process::ExitCode;
use umem_bench::interrupt;

/// Runs the demo.
pub(crate) fn main(options: &Options) -> ExitCode {
    if let Err(why) = options.check() {
        eprintln!("umem demo: {why}");
        return ExitCode::from(2);
    }
    match run(options) {
        Ok(report) => {
            if options.json {
                match serde_json::to_string(&report) {
                    Ok(line) => println!("{line}"),
                    Err(error) => return cli::failed("demo", &error.into()),
                }
            } else {
                print!("{}", report.text());
            }
            if report.verified { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            if options.json {
                let why = format!("{error:#}");
                println!("{}", serde_json::json!({ "verified": false, "error": why }));
            }
            cli::failed("demo", &error)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<Report> {
    interrupt::listen()?;
    let folder = tempfile::Builder::new()
        .prefix("umem-demo-")
        .tempdir()
        .context("cannot make a folder for sockets")?;
    Scenario::start(options, folder.path())?.run()
}
