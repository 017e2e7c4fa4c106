//! Several channels over one connection (`fd:N`), with priorities.
//!
//! ```text
//!  demand  ──┐  turn: whoever writes holds it for one      ┌── demand
//!  control ──┼─ small frame; demand goes first, then ──────┼── control    reader thread sorts frames
//!  bulk    ──┘  control, then bulk                          └── bulk       into bounded queues
//! ```
//!
//! Writers write by themselves, straight from their buffers: there is no queue of outgoing bytes that a
//! demanded page could stand behind, except one frame and the connection's own buffer.
//!
//! The reader never waits for room in the bulk queue (credit bounds it; a peer that ignores its credit
//! ends the connection). It may wait for the demand and control queues, whose consumers at the end that
//! receives pages never wait for the connection's other direction. So no cycle of waits can close.

use super::memory::PipeReader;
use super::pipe::{Behaviour, Pipe};
use super::{ByteCounts, Channel, ChannelControl, write_all_vectored};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Longest body of a frame: what a demanded page may have to wait for.
const FRAME_BYTES: usize = 16 * 1024;
/// Length of a frame's head: channel (1 byte), zero (1), length of the body (2, little-endian, 1 to
/// `FRAME_BYTES`).
const HEAD_BYTES: usize = 4;
/// Channels, in order of priority.
const CHANNELS: usize = 3;
/// Bytes that wait at the receiving end, by channel. Bulk holds all that its credit allows and the
/// heads around it.
const CAPACITY: [usize; CHANNELS] = [256 * 1024, 1024 * 1024, 16 * 1024 * 1024];
/// Index of the channel whose consumer is bounded by credit.
const BULK: usize = 2;

/// The channels that one connection carries.
#[derive(Debug)]
pub struct MuxChannels {
    /// Requests for pages, and the pages.
    pub demand: Channel,
    /// Control. Its `shutdown` ends the whole connection.
    pub control: Channel,
    /// Background pages and their acknowledgements.
    pub bulk: Channel,
}

/// Whose turn it is to write.
#[derive(Default)]
struct Turn {
    busy: bool,
    waiting: [usize; CHANNELS],
}

struct Line {
    turn: Mutex<Turn>,
    free: [Condvar; CHANNELS],
    writer: Mutex<Box<dyn Write + Send>>,
    incoming: [Arc<Pipe>; CHANNELS],
    closed: AtomicBool,
    control: Arc<dyn ChannelControl>,
}

/// Starts the reader thread and gives the channels. The thread ends with the connection.
///
/// # Errors
/// When the thread cannot be started.
pub fn split(channel: Channel) -> io::Result<MuxChannels> {
    let Channel { reader, writer, control } = channel;
    let line = Arc::new(Line {
        turn: Mutex::default(),
        free: std::array::from_fn(|_| Condvar::new()),
        writer: Mutex::new(writer),
        incoming: CAPACITY.map(|capacity| Arc::new(Pipe::new(capacity, Behaviour::default()))),
        closed: AtomicBool::new(false),
        control,
    });
    let sorter = Arc::clone(&line);
    std::thread::Builder::new().name("umem-mux".to_owned()).spawn(move || {
        if let Err(error) = sorter.sort(reader) {
            log::debug!("multiplexed connection ended: {error}");
        }
        sorter.end_of_stream();
    })?;
    Ok(MuxChannels { demand: line.channel(0), control: line.channel(1), bulk: line.channel(BULK) })
}

impl Line {
    fn channel(self: &Arc<Self>, index: usize) -> Channel {
        Channel {
            reader: Box::new(PipeReader(Arc::clone(&self.incoming[index]))),
            writer: Box::new(MuxWriter { line: Arc::clone(self), index }),
            control: Arc::new(MuxControl { line: Arc::clone(self), index }),
        }
    }

    fn sort(&self, mut reader: Box<dyn Read + Send>) -> io::Result<()> {
        loop {
            let mut head = [0; HEAD_BYTES];
            reader.read_exact(&mut head)?;
            let [index, zero, low, high] = head;
            let length = usize::from(u16::from_le_bytes([low, high]));
            let pipe = self.incoming.get(usize::from(index));
            let (Some(pipe), 0, 1..=FRAME_BYTES) = (pipe, zero, length) else {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("multiplexed frame for channel {index} with {length} bytes"),
                ));
            };
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            if usize::from(index) == BULK {
                pipe.push(body)?;
            } else {
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let taken = pipe.write(rest)?;
                    rest = &rest[taken..];
                }
            }
        }
    }

    /// Readers get what has come, then the end; writers fail.
    fn end_of_stream(&self) {
        self.closed.store(true, Ordering::Release);
        self.control.shutdown();
        for pipe in &self.incoming {
            pipe.finish();
        }
        self.wake_writers();
    }

    fn wake_writers(&self) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for free in &self.free {
            free.notify_all();
        }
        drop(turn);
    }

    /// Waits for the turn: nobody writes, nobody more urgent waits.
    fn take_turn(&self, index: usize) -> io::Result<()> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.waiting[index] += 1;
        while !self.closed.load(Ordering::Acquire)
            && (turn.busy || turn.waiting[..index].iter().any(|waiting| *waiting > 0))
        {
            turn = self.free[index].wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        turn.waiting[index] -= 1;
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        turn.busy = true;
        Ok(())
    }

    fn give_turn(&self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.busy = false;
        if let Some(next) = turn.waiting.iter().position(|waiting| *waiting > 0) {
            self.free[next].notify_one();
        }
    }

    fn write_frame(&self, index: usize, body: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut frame = vec![IoSlice::new(&[])];
        let mut length = 0;
        for part in body {
            let part = &part[..part.len().min(FRAME_BYTES - length)];
            length += part.len();
            frame.push(IoSlice::new(part));
            if length == FRAME_BYTES {
                break;
            }
        }
        if length == 0 {
            return Ok(0);
        }
        // Both fit: `index` < CHANNELS, `length` <= FRAME_BYTES.
        let head = [index as u8, 0, length as u8, (length >> 8) as u8];
        frame[0] = IoSlice::new(&head);
        self.take_turn(index)?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write_all_vectored(&mut **writer, &mut frame);
        drop(writer);
        if written.is_err() {
            // Half a frame may be out: nobody can go on.
            self.closed.store(true, Ordering::Release);
        }
        self.give_turn();
        if written.is_err() {
            self.wake_writers();
        }
        written.map(|()| length)
    }
}

struct MuxWriter {
    line: Arc<Line>,
    index: usize,
}

impl Write for MuxWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.write_frame(self.index, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.line.write_frame(self.index, buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct MuxControl {
    line: Arc<Line>,
    index: usize,
}

/// Index of the control channel, which stands for the connection.
const CONTROL: usize = 1;

impl ChannelControl for MuxControl {
    fn shutdown(&self) {
        if self.index == CONTROL {
            self.line.end_of_stream();
        } else {
            self.line.incoming[self.index].finish();
        }
    }

    fn counts(&self) -> ByteCounts {
        // The connection's bytes are counted once.
        if self.index == CONTROL { self.line.control.counts() } else { ByteCounts::default() }
    }

    fn peer(&self) -> String {
        self.line.control.peer()
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Faults, pair};
    use super::*;

    fn muxed(there: Faults) -> (MuxChannels, MuxChannels) {
        let (a, b) = pair(there, Faults::default());
        (split(a).unwrap(), split(b).unwrap())
    }

    #[test]
    fn channels_do_not_mix_and_large_writes_arrive_whole() {
        let (mut a, mut b) = muxed(Faults::default());
        let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| a.bulk.writer.write_all(&content).unwrap());
            scope.spawn(|| a.control.writer.write_all(&content[1..]).unwrap());
            scope.spawn(|| a.demand.writer.write_all(&content[2..]).unwrap());
            for (channel, expected) in [
                (&mut b.demand, &content[2..]),
                (&mut b.control, &content[1..]),
                (&mut b.bulk, &content[..]),
            ] {
                let mut read = vec![0; expected.len()];
                channel.reader.read_exact(&mut read).unwrap();
                assert!(read == expected);
            }
        });
    }

    #[test]
    fn demand_passes_bulk_that_waits_for_the_connection() {
        let (mut a, b) = muxed(Faults::default());
        let MuxChannels { mut demand, bulk, control } = b;
        std::thread::scope(|scope| {
            // Far more bulk than the connection holds: its writer waits most of the time.
            scope.spawn(|| {
                let _ = a.bulk.writer.write_all(&vec![1; 12 * 1024 * 1024]);
            });
            scope.spawn(|| a.demand.writer.write_all(b"page").unwrap());
            let mut read = [0; 4];
            demand.reader.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"page");
            control.control.shutdown();
        });
        drop(bulk);
    }

    #[test]
    fn the_end_of_the_connection_reaches_every_channel() {
        let (mut a, mut b) = muxed(Faults { cut_at: Some(10), ..Faults::default() });
        a.control.writer.write_all(b"abcdef").unwrap();
        let _ = a.demand.writer.write_all(b"lost");
        let mut read = Vec::new();
        b.control.reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"abcdef");
        assert_eq!(b.demand.reader.read(&mut [0; 4]).unwrap(), 0);
        assert_eq!(b.bulk.reader.read(&mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let (mut raw, b) = pair(Faults::default(), Faults::default());
        let mut b = split(b).unwrap();
        raw.writer.write_all(&[9, 0, 1, 0, 5]).unwrap();
        assert_eq!(b.control.reader.read(&mut [0; 1]).unwrap(), 0);
        assert!(b.control.writer.write_all(b"x").is_err());
    }
}
