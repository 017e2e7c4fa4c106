//! A VM from its start to its end.

use super::parse::VmCommand;
use crate::console::{self, RawTerminal, SerialSpec};
use crate::launch::launch;
use anyhow::{Context as _, anyhow};
use machine::{ExitReason, VmControl};
use monitor::{Kind, Place};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the last words of a guest that has powered off may take to be printed.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Set by a parent whose VMs must not outlive it, however it ends.
pub(crate) const END_WITH_PARENT: &str = "UMEM_END_WITH_PARENT";

/// Removes the file when the VM ends.
struct PidFile(PathBuf);

impl Drop for PidFile {
    fn drop(&mut self) {
        // Someone else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs the VM; an error is why it could not start or why it failed.
pub(super) fn run(command: VmCommand) -> anyhow::Result<()> {
    machine::give_large_blocks_back();
    let VmCommand { config, serial, monitors, pidfile } = command;
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen to signals")?;
    if std::env::var_os(END_WITH_PARENT).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("cannot ask for a signal at the parent's end")?;
    }
    let _pidfile = pidfile.map(write_pid).transpose()?;
    let (mut port, streams) = serial.open()?;
    let running = launch(config, streams)?;
    let vm = running.control.clone();
    end_on_signal(signals, vm.clone())?;

    let on_stdio = monitors.iter().position(|spec| spec.place == Place::Stdio);
    let text_stdio = on_stdio.and_then(|at| monitors.get(at)).is_some_and(|m| m.kind == Kind::Text);
    let raw = match serial {
        SerialSpec::WithMonitor => RawTerminal::enter(false),
        SerialSpec::Stdio => RawTerminal::enter(true),
        _ if text_stdio => RawTerminal::enter(true),
        _ => Ok(None),
    }
    .context("cannot set up the terminal")?;
    let mut servers = Vec::new();
    for spec in &monitors {
        // On a terminal, lines are edited here.
        if spec.place == Place::Stdio && spec.kind == Kind::Text && raw.is_some() {
            console::run_monitor(vm.clone(), None).context("cannot start the monitor")?;
        } else {
            let server = monitor::serve(spec, vm.clone())
                .with_context(|| format!("cannot start the monitor on {}", spec.place))?;
            servers.push(server);
        }
    }
    if let Some(keys) = port.keys.take() {
        console::run_monitor(vm.clone(), Some(keys)).context("cannot start the monitor")?;
    }

    match running.wait() {
        ExitReason::Quit => Ok(()),
        ExitReason::GuestShutdown => {
            std::thread::sleep(LAST_WORDS);
            Ok(())
        }
        ExitReason::Failed(why) => Err(anyhow!(why)),
    }
}

fn write_pid(path: PathBuf) -> anyhow::Result<PidFile> {
    std::fs::write(&path, format!("{}\n", std::process::id()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(PidFile(path))
}

/// The first signal ends the VM; one more ends the process, whatever the VM waits for.
fn end_on_signal(mut signals: Signals, vm: Arc<dyn VmControl>) -> anyhow::Result<()> {
    let work = move || {
        let mut asked = false;
        for _ in signals.forever() {
            if std::mem::replace(&mut asked, true) {
                console::restore();
                std::process::exit(1);
            }
            vm.quit();
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .context("cannot start a thread for signals")?;
    Ok(())
}
