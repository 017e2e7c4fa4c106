//! Two ends of a connection in memory, with latency, cuts and damage, for tests of the real lanes and
//! runners without sockets.

use super::pipe::{Behaviour, Pipe};
use super::{ByteCounts, Channel, ChannelControl};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// How one direction of a [`pair`] misbehaves; the default does not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Time from writing to readability.
    pub latency: Duration,
    /// Number of the first byte that does not get through: the link breaks there.
    pub cut_at: Option<u64>,
    /// Number of a byte that arrives with all its bits inverted.
    pub damage_at: Option<u64>,
    /// A cut is not noticed: writers go on, readers wait.
    pub silent: bool,
}

/// Bytes that one direction holds, as a socket's buffers would.
const CAPACITY: usize = 256 * 1024;

struct Control {
    out: Arc<Pipe>,
    incoming: Arc<Pipe>,
    name: &'static str,
}

impl ChannelControl for Control {
    fn shutdown(&self) {
        // As with a socket: what was sent still arrives, what comes in is lost.
        self.out.finish();
        self.incoming.close();
    }

    fn counts(&self) -> ByteCounts {
        ByteCounts { sent: self.out.counts().0, received: self.incoming.counts().1 }
    }

    fn peer(&self) -> String {
        self.name.to_owned()
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

pub(super) struct PipeReader(pub(super) Arc<Pipe>);

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

struct PipeWriter(Arc<Pipe>);

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection's two ends; `there` is what happens to bytes from the first to the second.
#[must_use]
pub fn pair(there: Faults, back: Faults) -> (Channel, Channel) {
    let pipe = |faults: Faults| {
        let Faults { latency, cut_at, damage_at, silent } = faults;
        Arc::new(Pipe::new(CAPACITY, Behaviour { latency, cut_at, damage_at, silent }))
    };
    let (there, back) = (pipe(there), pipe(back));
    let first = end(&there, &back, "memory pair, second end");
    let second = end(&back, &there, "memory pair, first end");
    (first, second)
}

fn end(out: &Arc<Pipe>, incoming: &Arc<Pipe>, name: &'static str) -> Channel {
    Channel {
        reader: Box::new(PipeReader(Arc::clone(incoming))),
        writer: Box::new(PipeWriter(Arc::clone(out))),
        control: Arc::new(Control { out: Arc::clone(out), incoming: Arc::clone(incoming), name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn bytes_arrive_in_order_and_late() {
        let latency = Duration::from_millis(20);
        let (mut a, mut b) = pair(Faults { latency, ..Faults::default() }, Faults::default());
        let start = Instant::now();
        a.writer.write_all(b"page").unwrap();
        a.writer.write_all(b" bytes").unwrap();
        let mut read = [0; 10];
        b.reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"page bytes");
        assert!(start.elapsed() >= latency);
        assert_eq!(b.control.counts(), ByteCounts { sent: 0, received: 10 });
    }

    #[test]
    fn a_cut_loses_exactly_what_comes_after_it() {
        let (mut a, mut b) =
            pair(Faults { cut_at: Some(3), ..Faults::default() }, Faults::default());
        a.writer.write_all(b"abcdef").unwrap();
        let mut read = Vec::new();
        b.reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"abc");
    }

    #[test]
    fn a_damaged_byte_is_one_byte() {
        let (mut a, mut b) =
            pair(Faults { damage_at: Some(1), ..Faults::default() }, Faults::default());
        a.writer.write_all(&[0, 0, 0]).unwrap();
        let mut read = [1; 3];
        b.reader.read_exact(&mut read).unwrap();
        assert_eq!(read, [0, 255, 0]);
    }

    #[test]
    fn shutdown_frees_a_blocked_reader_and_a_blocked_writer() {
        let (mut a, b) = pair(Faults::default(), Faults::default());
        let control = Arc::clone(&a.control);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| a.reader.read(&mut [0; 1]).unwrap());
            let writer = scope.spawn(|| a.writer.write_all(&vec![7; 4 * CAPACITY]));
            std::thread::sleep(Duration::from_millis(20));
            control.shutdown();
            assert_eq!(reader.join().unwrap(), 0);
            assert!(writer.join().unwrap().is_err());
        });
        drop(b);
    }
}
