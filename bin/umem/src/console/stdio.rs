//! Threads that read standard input: for the monitor alone, or for guest and monitor.

use super::mux::{Focus, HELP, Meaning, Mux};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use machine::VmControl;
use monitor::TerminalMonitor;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::sync::Arc;

/// Keys that may wait for the guest.
const KEYS_WAITING_MAX: usize = 4096;

/// Where keys for the guest go.
pub(crate) struct Keys(Sender<u8>);

/// Keys on their way to the guest.
pub(super) struct GuestInput(Receiver<u8>);

/// A queue of keys for the guest.
pub(super) fn guest_keys() -> (Keys, GuestInput) {
    let (sender, receiver) = bounded(KEYS_WAITING_MAX);
    (Keys(sender), GuestInput(receiver))
}

impl Read for GuestInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        let Ok(byte) = self.0.recv() else { return Ok(0) };
        *first = byte;
        let mut count = 1;
        for (slot, byte) in buffer.iter_mut().skip(1).zip(self.0.try_iter()) {
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}

/// Serves the text monitor on standard input and output, with the guest's serial port if `keys` are
/// given, in a thread of its own.
pub(crate) fn run_monitor(vm: Arc<dyn VmControl>, keys: Option<Keys>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("stdio".to_owned())
        .spawn(move || match keys {
            None => alone(vm),
            Some(keys) => Shared::new(vm, keys).run(),
        })
        .map(drop)
}

fn show(bytes: &[u8]) {
    let mut output = io::stdout().lock();
    // Nobody may be reading any more; the VM goes on without them.
    let _ = output.write_all(bytes).and_then(|()| output.flush());
}

/// The keys of standard input, until its end.
fn for_each_key(mut take: impl FnMut(u8) -> bool) {
    let mut input = io::stdin().lock();
    let mut chunk = [0; 256];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                if !chunk.iter().take(count).all(|byte| take(*byte)) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn alone(vm: Arc<dyn VmControl>) {
    let mut monitor = TerminalMonitor::new(vm);
    show(&monitor.greeting());
    for_each_key(|key| {
        show(&monitor.key(key));
        !monitor.ended()
    });
    show(b"\n");
}

struct Shared {
    vm: Arc<dyn VmControl>,
    keys: Sender<u8>,
    mux: Mux,
    /// Made when first switched to, and again after Ctrl-D.
    monitor: Option<TerminalMonitor>,
    terminal: bool,
}

impl Shared {
    fn new(vm: Arc<dyn VmControl>, keys: Keys) -> Self {
        let terminal = io::stdin().is_terminal();
        Self { vm, keys: keys.0, mux: Mux::default(), monitor: None, terminal }
    }

    fn run(mut self) {
        for_each_key(|byte| {
            match self.mux.key(byte) {
                Meaning::Guest(byte) => self.key_for_guest(byte),
                Meaning::Monitor(byte) => self.key_for_monitor(byte),
                Meaning::Switched(Focus::Monitor) => match &self.monitor {
                    Some(monitor) => show(&[b"\n", &monitor.redraw()[..]].concat()),
                    None => {
                        let monitor = TerminalMonitor::new(self.vm.clone());
                        show(&[b"\n", &monitor.greeting()[..]].concat());
                        self.monitor = Some(monitor);
                    }
                },
                Meaning::Switched(Focus::Guest) => show(b"\n"),
                Meaning::Help => show(HELP.as_bytes()),
                Meaning::Quit => self.vm.quit(),
                Meaning::Nothing => {}
            }
            true
        });
    }

    /// A person at a terminal must get through to Ctrl-A x even when the guest takes no keys, so
    /// theirs are dropped then; a pipe waits.
    fn key_for_guest(&self, byte: u8) {
        match self.keys.try_send(byte) {
            Err(TrySendError::Full(byte)) if !self.terminal => {
                // The guest's end of the queue may be gone, with the guest.
                let _ = self.keys.send(byte);
            }
            _ => {}
        }
    }

    fn key_for_monitor(&mut self, byte: u8) {
        let Some(monitor) = &mut self.monitor else { return };
        show(&monitor.key(byte));
        if monitor.ended() {
            self.monitor = None;
            self.mux.focus_on_guest();
            show(b"\n");
        }
    }
}
