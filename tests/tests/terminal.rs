//! The text monitor on a terminal: a line is edited, and what comes meanwhile does not break it.
#![allow(missing_docs)]

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umem_tests::moving::guest;
use umem_tests::{program, test_guest, until};

/// A VM whose standard input and output are a terminal; it ends with this.
struct Terminal {
    child: Child,
    keyboard: File,
    heard: Arc<Mutex<Vec<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminal {
    fn start(options: &str) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let name = name.into_string().expect("its name is text");
        let theirs = OpenOptions::new().read(true).write(true).open(name).expect("its other end");
        let mut command = Command::new(program());
        command.args(["vm", "-m", "64M", "-append", &guest(71)]).arg("-kernel").arg(test_guest());
        command.args(options.split(' ')).stderr(Stdio::null());
        command.stdin(theirs.try_clone().expect("a descriptor")).stdout(theirs);
        let child = command.spawn().expect("umem starts");
        drop(command);
        let keyboard = File::from(ours);
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut screen, all) = (keyboard.try_clone().expect("a descriptor"), heard.clone());
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Reading fails once the VM has closed its end.
            while let Ok(count) = screen.read(&mut chunk) {
                lock(&all).extend_from_slice(&chunk[..count]);
            }
        });
        Self { child, keyboard, heard }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the VM takes keys");
    }

    /// Waits for `text` behind `from`; the place behind it.
    fn wait(&self, from: usize, text: &str) -> usize {
        let found = until(format!("{text:?} on the terminal"), || {
            let heard = lock(&self.heard);
            heard[from..].windows(text.len()).position(|part| part == text.as_bytes())
        });
        from + found + text.len()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let heard = lock(&self.heard);
            eprintln!("the terminal showed: {}", String::from_utf8_lossy(&heard).escape_debug());
        }
    }
}

/// Begins a migration to a peer that says nothing. It fails when what this returns is dropped.
fn migrate(terminal: &mut Terminal, from: usize) -> (TcpStream, usize) {
    let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = peer.local_addr().expect("it is bound");
    terminal.type_in(&format!("migrate -p tcp:{address}\r"));
    let (silent, _) = peer.accept().expect("the source connects");
    (silent, terminal.wait(from, "(umem) "))
}

#[test]
fn the_end_of_a_migration_is_told_above_the_line_being_typed() {
    let mut terminal = Terminal::start("-monitor stdio");
    let place = terminal.wait(0, "(umem) ");
    let (silent, place) = migrate(&mut terminal, place);
    terminal.type_in("info stX\x1b[D");
    let place = terminal.wait(place, "info stX");
    drop(silent);
    let place = terminal.wait(place, "\r\x1b[Kmigration failed after ");
    let place = terminal.wait(place, "\r\n\r(umem) info stX\x1b[K\x1b[1D");
    // The line and the place in it are as they were.
    terminal.type_in("atus\x1b[3~\r");
    terminal.wait(place, "VM status: running\r\n");
}

#[test]
fn the_end_of_a_migration_waits_until_the_terminal_is_the_monitors() {
    let mut terminal = Terminal::start("-nographic");
    terminal.wait(0, "ready ");
    terminal.type_in("\x01c");
    let place = terminal.wait(0, "(umem) ");
    let (silent, place) = migrate(&mut terminal, place);
    // Back to the guest, which answers.
    terminal.type_in("\x01cv");
    let place = terminal.wait(place, "verdict ok ");
    drop(silent);
    terminal.type_in("\x01c");
    let place = terminal.wait(place, "migration failed after ");
    terminal.wait(place, "(umem) ");
}
