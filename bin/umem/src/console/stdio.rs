//! Threads that read standard input: for the monitor alone, or for guest and monitor.

use super::desk::Desk;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use machine::VmControl;
use monitor::TerminalMonitor;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
            Some(keys) => shared(vm, &keys.0),
        })
        .map(drop)
}

fn show(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
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

/// Hands `take` a line for each migration that ends, for as long as the VM lives.
fn on_outcomes(
    vm: Arc<dyn VmControl>,
    mut take: impl FnMut(String) + Send + 'static,
) -> io::Result<()> {
    let outcomes = monitor::outcomes(vm);
    std::thread::Builder::new()
        .name("outcomes".to_owned())
        .spawn(move || outcomes.for_each(&mut take))
        .map(drop)
}

/// What is shown is shown under this lock, so that lines do not cut into each other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alone(vm: Arc<dyn VmControl>) {
    let monitor = Arc::new(Mutex::new(TerminalMonitor::new(vm.clone())));
    show(&lock(&monitor).greeting());
    let told = monitor.clone();
    let telling = on_outcomes(vm, move |line| {
        let monitor = lock(&told);
        show(&monitor.notice(&line));
    });
    if let Err(error) = telling {
        log::warn!("the monitor will not tell how migrations end: {error}");
    }
    for_each_key(|key| {
        let mut monitor = lock(&monitor);
        show(&monitor.key(key));
        !monitor.ended()
    });
    show(b"\n");
}

fn shared(vm: Arc<dyn VmControl>, keys: &Sender<u8>) {
    let terminal = io::stdin().is_terminal();
    let desk = Arc::new(Mutex::new(Desk::new(vm.clone())));
    if terminal {
        let told = desk.clone();
        let telling = on_outcomes(vm, move |line| {
            let mut desk = lock(&told);
            show(&desk.notice(line));
        });
        if let Err(error) = telling {
            log::warn!("the monitor will not tell how migrations end: {error}");
        }
    }
    for_each_key(|byte| {
        let guest = {
            let mut desk = lock(&desk);
            let outcome = desk.key(byte);
            show(&outcome.show);
            outcome.guest
        };
        if let Some(byte) = guest {
            key_for_guest(keys, byte, terminal);
        }
        true
    });
}

/// A person at a terminal must get through to Ctrl-A x even when the guest takes no keys, so theirs
/// are dropped then; a pipe waits.
fn key_for_guest(keys: &Sender<u8>, byte: u8, terminal: bool) {
    match keys.try_send(byte) {
        Err(TrySendError::Full(byte)) if !terminal => {
            // The guest's end of the queue may be gone, with the guest.
            let _ = keys.send(byte);
        }
        _ => {}
    }
}
