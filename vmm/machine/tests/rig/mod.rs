//! VMs in this process that run the bare-metal test guest.
#![allow(dead_code, clippy::unwrap_used)] // Each test program uses a part.

use machine::{
    ConsoleBackend, FaultPath, Incoming, MigrateRequest, RunState, VmConfig, VmControl, VmHandle,
};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Only so that a failure shows.
const NEVER: Duration = Duration::from_secs(60);

/// The bare-metal guest's image.
pub(crate) fn guest_image() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../guest/test-guest/image/umem-test-guest.elf")
}

/// A small guest; a destination gets no kernel.
pub(crate) fn config(incoming: bool, path: FaultPath) -> VmConfig {
    VmConfig {
        memory_bytes: 16 << 20,
        kernel: (!incoming).then(guest_image),
        command_line: "fill=50 rate=2000 beat_us=2000".to_owned(),
        incoming: if incoming { Incoming::Defer } else { Incoming::No },
        postcopy: incoming,
        fault_path: Some(path),
        ..VmConfig::default()
    }
}

/// What a guest has printed.
#[derive(Clone, Default)]
pub(crate) struct Screen(Arc<(Mutex<String>, Condvar)>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    /// Length of the text so far.
    pub(crate) fn mark(&self) -> usize {
        self.0.0.lock().unwrap().len()
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits for a whole line that begins with `start`, after `mark`.
    pub(crate) fn line(&self, mark: usize, start: &str) -> String {
        let deadline = Instant::now() + NEVER;
        let mut text = self.0.0.lock().unwrap();
        loop {
            let whole = text[mark..].rfind('\n').map_or("", |end| &text[mark..mark + end]);
            if let Some(line) = whole.lines().find(|line| line.starts_with(start)) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never printed: {start}; last: {:?}", &text[mark..]);
            text = self.0.1.wait_timeout(text, left).unwrap().0;
        }
    }
}

struct Keys(crossbeam_channel::Receiver<u8>);

impl Read for Keys {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.recv() {
            Ok(key) => {
                buffer[0] = key;
                Ok(1)
            }
            Err(_) => Ok(0),
        }
    }
}

/// A VM, its screen and its keyboard. It is quit when it goes.
pub(crate) struct Machine {
    pub(crate) vm: VmHandle,
    pub(crate) screen: Screen,
    keys: crossbeam_channel::Sender<u8>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vm.quit();
    }
}

impl Machine {
    pub(crate) fn launch(config: VmConfig) -> Self {
        let screen = Screen::default();
        let (keys, pressed) = crossbeam_channel::unbounded();
        let console = ConsoleBackend {
            output: Box::new(screen.clone()),
            input: Some(Box::new(Keys(pressed))),
        };
        Self { vm: VmHandle::launch(config, console).unwrap(), screen, keys }
    }

    /// A guest that has filled its memory and writes.
    pub(crate) fn ready() -> Self {
        let machine = Self::launch(config(false, FaultPath::Vcpu));
        machine.screen.line(0, "ready");
        machine
    }

    /// A VM that listens; where.
    pub(crate) fn listening(config: VmConfig) -> (Self, String) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("umem-machine-{}-{number}", std::process::id());
        let uri = format!("unix:{}", std::env::temp_dir().join(name).display());
        let machine = Self::launch(config);
        machine.vm.migrate_incoming(&uri).unwrap();
        (machine, uri)
    }

    pub(crate) fn press(&self, key: u8) {
        self.keys.send(key).unwrap();
    }

    /// Has the guest check all its memory.
    pub(crate) fn verify(&self) {
        let mark = self.screen.mark();
        self.press(b'v');
        let verdict = self.screen.line(mark, "verdict");
        assert!(verdict.starts_with("verdict ok "), "{verdict}");
    }

    pub(crate) fn lives(&self) {
        let mark = self.screen.mark();
        self.screen.line(mark, "h ");
    }

    pub(crate) fn until(&self, what: &str, done: impl Fn(&VmHandle) -> bool) {
        let deadline = Instant::now() + NEVER;
        while !done(&self.vm) {
            assert!(
                Instant::now() < deadline,
                "never: {what}; {:?}; {:?}",
                self.vm.status(),
                self.vm.migration()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn until_state(&self, state: RunState) {
        self.until(state.word(), |vm| vm.status().status == state);
    }

    pub(crate) fn until_phase(&self, phase: &str) {
        self.until(phase, |vm| vm.migration().is_some_and(|status| status.phase == phase));
    }
}

/// A precopy to there.
pub(crate) fn precopy_to(uri: &str) -> MigrateRequest {
    MigrateRequest { mode: machine::MigrateMode::Precopy, ..to(uri) }
}

/// A postcopy to there.
pub(crate) fn to(uri: &str) -> MigrateRequest {
    MigrateRequest {
        uri: uri.to_owned(),
        mode: machine::MigrateMode::Postcopy,
        background: true,
        move_background: false,
        prefault_adaptive: false,
        prefault_forward: 0,
        prefault_backward: 0,
    }
}
