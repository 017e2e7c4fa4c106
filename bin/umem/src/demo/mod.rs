//! `umem demo`: a guest that checks its own memory moves between two VMs on this host.

mod child;
mod options;
mod progress;
mod protocol;
mod qmp;
mod report;
mod scenario;
mod serial;
mod series;

pub(crate) use options::Options;

use crate::cli;
use anyhow::Context as _;
use report::Report;
use scenario::Scenario;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// Which VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Set by a signal that asks this process to end.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Fails once a signal has asked this process to end, so that every wait leaves by its usual way and
/// takes the VMs with it.
fn interrupted() -> anyhow::Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

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
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, INTERRUPTED.clone())
            .context("cannot listen to signals")?;
    }
    let folder = tempfile::Builder::new()
        .prefix("umem-demo-")
        .tempdir()
        .context("cannot make a folder for sockets")?;
    Scenario::start(options, folder.path())?.run()
}
