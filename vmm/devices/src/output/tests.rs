use super::*;
use std::sync::mpsc;
use std::time::Duration;

/// A host's writer that tests look into, and whose calls block while a gate is closed.
#[derive(Clone, Default)]
pub(crate) struct Terminal {
    text: Arc<Mutex<Vec<u8>>>,
    gate: Arc<Mutex<()>>,
}

impl Terminal {
    pub(crate) fn text(&self) -> Vec<u8> {
        self.text.lock().unwrap().clone()
    }

    /// While the guard lives nothing is written: nobody reads.
    pub(crate) fn blocked(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    pub(crate) fn await_text(&self, expected: &[u8]) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.text() != expected {
            assert!(Instant::now() < end, "{:?}", String::from_utf8_lossy(&self.text()));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.gate.lock().unwrap());
        self.text.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn port(terminal: &Terminal, capacity: usize) -> OutputPort {
    OutputPort::start("test-out", capacity, Box::new(terminal.clone())).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Pushes until the thread has taken something out and sits in the writer.
fn push_and_await_writing(port: &OutputPort, bytes: &[u8]) {
    assert_eq!(port.push(bytes), bytes.len());
    while !port.pending().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn bytes_come_out_in_order() {
    let terminal = Terminal::default();
    let port = port(&terminal, 64);
    port.push(b"one ");
    port.push(b"two");
    terminal.await_text(b"one two");
}

#[test]
fn a_terminal_that_nobody_reads_fills_the_queue_and_blocks_nobody() {
    let terminal = Terminal::default();
    let blocked = terminal.blocked();
    let port = port(&terminal, 16);
    push_and_await_writing(&port, b"first ");
    assert_eq!(port.push(b"0123456789abcdefXXXX"), 16);
    assert_eq!((port.push(b"Y"), port.room()), (0, 0));
    drop(blocked);
    terminal.await_text(b"first 0123456789abcdef");
}

#[test]
fn the_device_is_told_of_room() {
    let terminal = Terminal::default();
    let port = port(&terminal, 16);
    let (sender, drained) = mpsc::channel();
    port.on_drained(Box::new(move || sender.send(()).unwrap()));
    port.push(b"x");
    drained.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn parked_output_moves_and_is_printed_once() {
    let (source, destination) = (Terminal::default(), Terminal::default());
    let (from, to) = (port(&source, 64), port(&destination, 64));
    from.push(b"before ");
    source.await_text(b"before ");
    assert!(from.park(soon()));
    from.push(b"after");
    assert!(to.restore_parked(from.pending()));
    assert_eq!(destination.text(), b"");
    to.unpark();
    destination.await_text(b"after");
    drop(from);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(source.text(), b"before ");
}

#[test]
fn parking_does_not_wait_for_ever_and_what_was_taken_stays_here() {
    let terminal = Terminal::default();
    let port = port(&terminal, 64);
    let blocked = terminal.blocked();
    push_and_await_writing(&port, b"taken ");
    assert!(!port.finish(Instant::now() + Duration::from_millis(5)));
    assert!(!port.park(Instant::now() + Duration::from_secs(1 << 20)), "a guest stands still");
    port.push(b"queued");
    assert_eq!(port.pending(), b"queued");
    drop(blocked);
    assert!(port.park(soon()));
    assert_eq!(terminal.text(), b"taken ");
    port.unpark();
    terminal.await_text(b"taken queued");
}

#[test]
fn what_was_accepted_is_written_after_the_port_is_dropped() {
    let terminal = Terminal::default();
    let port = port(&terminal, 64);
    let blocked = terminal.blocked();
    port.push(b"last words");
    drop(port);
    drop(blocked);
    terminal.await_text(b"last words");
}

#[test]
fn a_broken_writer_swallows() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let port = OutputPort::start("test-out", 4, Box::new(Broken)).unwrap();
    let end = soon();
    let mut pushed = 0;
    while pushed < 100 {
        assert!(Instant::now() < end);
        pushed += port.push(b"abcd");
    }
}

#[test]
fn more_than_the_queue_holds_is_not_restored() {
    let port = port(&Terminal::default(), 4);
    assert!(!port.restore_parked(vec![0; 5]));
}
