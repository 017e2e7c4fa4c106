//! One guest, heard through the serial ports of two VMs.

use super::End;
use super::protocol::{GuestLine, parse};
use crate::vm::connect;
use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest line taken; what is longer is none of the guest's.
const LINE_MAX: usize = 16 * 1024;

/// Lines kept to tell what the guest said last.
const LINES_KEPT: usize = 3;

/// Bytes of a serial port, stamped as they arrived.
#[derive(Debug)]
pub struct Chunk {
    /// Whose port.
    pub end: End,
    /// When they were read.
    pub at: Instant,
    /// What was read.
    pub bytes: Vec<u8>,
}

/// A line of the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// Where its end was heard.
    pub end: End,
    /// When its end was heard.
    pub at: Instant,
    /// What it says.
    pub line: GuestLine,
}

/// A connection to a VM's serial port; what it says goes to `chunks`.
#[derive(Debug)]
pub struct Port(UnixStream);

impl Port {
    /// Connects to a socket that the VM may be yet to make.
    ///
    /// # Errors
    /// When there is none by then.
    pub fn connect(
        path: &Path,
        end: End,
        chunks: Sender<Chunk>,
        deadline: Instant,
    ) -> anyhow::Result<Self> {
        let stream = connect(path, deadline)?;
        let mut reader = stream.try_clone().context("serial port")?;
        std::thread::Builder::new()
            .name("serial".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count) = reader.read(&mut buffer) {
                    let at = Instant::now();
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    if count == 0 || chunks.send(Chunk { end, at, bytes }).is_err() {
                        return;
                    }
                }
            })
            .context("serial port")?;
        stream.set_write_timeout(Some(Duration::from_secs(5))).context("serial port")?;
        Ok(Self(stream))
    }

    /// Sends the guest a key.
    ///
    /// # Errors
    /// When the VM has ended or takes none for 5 s.
    pub fn send(&mut self, key: u8) -> anyhow::Result<()> {
        self.0.write_all(&[key]).context("serial port: the VM takes no keys")
    }
}

/// Puts lines together. The line that the guest was printing at the switch begins at the source and
/// ends at the destination.
#[derive(Debug)]
pub struct Assembler {
    chunks: Receiver<Chunk>,
    source: Vec<u8>,
    destination: Vec<u8>,
    /// Whether a whole line came from the destination.
    switched: bool,
    /// The newest lines that are none of the protocol's.
    other: VecDeque<String>,
}

impl Assembler {
    /// Of what is read there.
    #[must_use]
    pub fn new(chunks: Receiver<Chunk>) -> Self {
        Self {
            chunks,
            source: Vec::new(),
            destination: Vec::new(),
            switched: false,
            other: VecDeque::new(),
        }
    }

    /// Waits for the guest until `deadline`; appends what it said to `heard`.
    pub fn listen(&mut self, deadline: Instant, heard: &mut Vec<Heard>) {
        if let Ok(chunk) = self.chunks.recv_deadline(deadline) {
            self.take(&chunk, heard);
            while let Ok(chunk) = self.chunks.try_recv() {
                self.take(&chunk, heard);
            }
        }
    }

    /// The newest of what the guest said beside the protocol, for when it fails.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words: Vec<&str> = self.other.iter().map(String::as_str).collect();
        words.join("; ")
    }

    fn remember(&mut self, line: &[u8]) {
        if self.other.len() >= LINES_KEPT {
            self.other.pop_front();
        }
        let text = String::from_utf8_lossy(line);
        let shown = text.chars().filter(|letter| !letter.is_control()).take(200);
        self.other.push_back(shown.collect());
    }

    fn take(&mut self, chunk: &Chunk, heard: &mut Vec<Heard>) {
        for byte in &chunk.bytes {
            let buffer = match chunk.end {
                End::Source => &mut self.source,
                End::Destination => &mut self.destination,
            };
            if *byte != b'\n' {
                if buffer.len() < LINE_MAX {
                    buffer.push(*byte);
                }
                continue;
            }
            let own = std::mem::take(buffer);
            let line = match chunk.end {
                End::Destination if !std::mem::replace(&mut self.switched, true) => {
                    let whole = [&self.source[..], &own[..]].concat();
                    read(&whole).or_else(|| read(&own))
                }
                _ => read(&own),
            };
            if line.is_none() {
                self.remember(&own);
            }
            heard.extend(line.map(|line| Heard { end: chunk.end, at: chunk.at, line }));
        }
    }
}

fn read(bytes: &[u8]) -> Option<GuestLine> {
    parse(std::str::from_utf8(bytes).ok()?.trim_end_matches('\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[(End, &str)]) -> Vec<(End, GuestLine)> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        for (end, text) in chunks {
            let chunk = Chunk { end: *end, at: Instant::now(), bytes: text.as_bytes().to_vec() };
            sender.send(chunk).unwrap();
        }
        let mut heard = Vec::new();
        Assembler::new(receiver).listen(Instant::now() + Duration::from_secs(10), &mut heard);
        heard.into_iter().map(|heard| (heard.end, heard.line)).collect()
    }

    fn beat(end: End, clock_us: u64, writes: u64) -> (End, GuestLine) {
        (end, GuestLine::Beat { clock_us, writes })
    }

    #[test]
    fn a_line_that_moves_with_the_guest_is_put_together() {
        use End::{Destination, Source};
        let chunks = [(Source, "h 1"), (Source, "0 1\nh 2"), (Destination, "0 2\r\nh 30 3\n")];
        let expected = [beat(Source, 10, 1), beat(Destination, 20, 2), beat(Destination, 30, 3)];
        assert_eq!(lines(&chunks), expected);
    }

    #[test]
    fn what_the_source_lost_costs_no_whole_line_of_the_destination() {
        use End::{Destination, Source};
        let chunks = [(Source, "[ 0.1] noise h 2"), (Destination, "h 30 3\n")];
        assert_eq!(lines(&chunks), [beat(Destination, 30, 3)]);
    }
}
