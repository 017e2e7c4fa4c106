//! Guest and monitor at one terminal: who is given a key, and what of the monitor is shown when.

use super::mux::{Focus, HELP, Meaning, Mux};
use machine::VmControl;
use monitor::TerminalMonitor;
use std::sync::Arc;

/// Lines kept for when the terminal comes back to the monitor; the newest count.
const MISSED_MAX: usize = 8;

/// What comes of a key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// For the terminal.
    pub(super) show: Vec<u8>,
    /// For the guest.
    pub(super) guest: Option<u8>,
}

pub(super) struct Desk {
    vm: Arc<dyn VmControl>,
    mux: Mux,
    /// Made when first switched to, and again after Ctrl-D.
    monitor: Option<TerminalMonitor>,
    /// What the monitor has to say and the guest has the terminal.
    missed: Vec<String>,
}

impl Desk {
    pub(super) fn new(vm: Arc<dyn VmControl>) -> Self {
        Self { vm, mux: Mux::default(), monitor: None, missed: Vec::new() }
    }

    pub(super) fn key(&mut self, byte: u8) -> Outcome {
        let mut outcome = Outcome::default();
        match self.mux.key(byte) {
            Meaning::Guest(byte) => outcome.guest = Some(byte),
            Meaning::Monitor(byte) => outcome.show = self.key_for_monitor(byte),
            Meaning::Switched(Focus::Monitor) => outcome.show = self.enter_monitor(),
            Meaning::Switched(Focus::Guest) => outcome.show.push(b'\n'),
            Meaning::Help => outcome.show.extend_from_slice(HELP.as_bytes()),
            Meaning::Quit => self.vm.quit(),
            Meaning::Nothing => {}
        }
        outcome
    }

    fn enter_monitor(&mut self) -> Vec<u8> {
        let mut show = b"\n".to_vec();
        for line in self.missed.drain(..) {
            show.extend_from_slice(format!("{line}\n").as_bytes());
        }
        match &self.monitor {
            Some(monitor) => show.extend(monitor.redraw()),
            None => {
                let monitor = TerminalMonitor::new(self.vm.clone());
                show.extend(monitor.greeting());
                self.monitor = Some(monitor);
            }
        }
        show
    }

    fn key_for_monitor(&mut self, byte: u8) -> Vec<u8> {
        let Some(monitor) = &mut self.monitor else { return Vec::new() };
        let mut show = monitor.key(byte);
        if monitor.ended() {
            self.monitor = None;
            self.mux.focus_on_guest();
            show.push(b'\n');
        }
        show
    }

    /// A line that nobody asked for: what to show of it now.
    pub(super) fn notice(&mut self, line: String) -> Vec<u8> {
        match &self.monitor {
            Some(monitor) if self.mux.focus() == Focus::Monitor => monitor.notice(&line),
            _ => {
                if self.missed.len() >= MISSED_MAX {
                    self.missed.remove(0);
                }
                self.missed.push(line);
                Vec::new()
            }
        }
    }
}
