//! A VM's serial port, with the time at which each line came.

use crate::lab::{Log, PATIENCE};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// When its end came.
    pub at: Instant,
    /// Without its end.
    pub text: String,
}

/// A heartbeat of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// When it came.
    pub at: Instant,
    /// The guest's clock, in microseconds.
    pub clock: u64,
    /// Pages written so far.
    pub writes: u64,
}

#[derive(Default)]
struct Heard {
    raw: Vec<u8>,
    /// Start of the line that has no end yet.
    open: usize,
    lines: Vec<Line>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's end of a serial port.
pub struct Serial {
    name: String,
    stream: UnixStream,
    shared: Arc<Shared>,
}

impl Serial {
    pub(crate) fn new(stream: UnixStream, name: &str, log: Log) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, mut input) = (shared.clone(), stream.try_clone().expect("a descriptor"));
        let who = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = input.read(&mut buffer).unwrap_or(0);
                let at = Instant::now();
                let mut heard = theirs.lock();
                heard.ended |= count == 0;
                heard.take(&buffer[..count], at, |line| {
                    // Heartbeats are too many for the log.
                    if !line.starts_with("h ") {
                        log.add(&who, format!("| {line}"));
                    }
                });
                theirs.more.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { name: name.to_owned(), stream, shared }
    }

    /// Types these bytes.
    pub fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).expect("the serial port takes input");
    }

    /// Bytes heard so far: where to look from for what comes next.
    #[must_use]
    pub fn position(&self) -> usize {
        self.shared.lock().raw.len()
    }

    /// Everything heard from a position on.
    #[must_use]
    pub fn text_from(&self, position: usize) -> String {
        let heard = self.shared.lock();
        String::from_utf8_lossy(heard.raw.get(position..).unwrap_or_default()).into_owned()
    }

    /// Waits for `text` behind a position; the position behind it.
    pub fn wait_text(&self, position: usize, text: &str) -> usize {
        self.wait(&format!("'{text}'"), |heard| {
            let raw = heard.raw.get(position..).unwrap_or_default();
            let place = raw.windows(text.len()).position(|part| part == text.as_bytes())?;
            Some(position + place + text.len())
        })
    }

    /// Number of whole lines so far.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Waits for a line, from that number on, that begins like this.
    pub fn wait_line(&self, from: usize, start: &str) -> Line {
        self.wait(&format!("a line '{start}...'"), |heard| {
            heard.lines.iter().skip(from).find(|line| line.text.starts_with(start)).cloned()
        })
    }

    /// All heartbeats so far.
    #[must_use]
    pub fn beats(&self) -> Vec<Beat> {
        self.shared.lock().lines.iter().filter_map(beat).collect()
    }

    /// Waits for that many heartbeats more than there are now: the guest runs.
    pub fn wait_beats(&self, more: usize) {
        let from = self.lines();
        self.wait(&format!("{more} heartbeats"), |heard| {
            (heard.lines.iter().skip(from).filter_map(beat).count() >= more).then_some(())
        });
    }

    fn wait<T>(&self, what: &str, probe: impl Fn(&Heard) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.shared.lock();
        loop {
            if let Some(found) = probe(&heard) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.ended || left.is_zero() {
                let from = heard.raw.len().saturating_sub(2000);
                let tail = String::from_utf8_lossy(&heard.raw[from..]).into_owned();
                let why = if heard.ended { "its process ended" } else { "too late" };
                drop(heard);
                panic!("{} did not print {what} ({why}); its last words:\n{tail}", self.name);
            }
            heard = self
                .shared
                .more
                .wait_timeout(heard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Heard {
    fn take(&mut self, bytes: &[u8], at: Instant, mut told: impl FnMut(&str)) {
        let mut from = self.raw.len();
        self.raw.extend_from_slice(bytes);
        while let Some(length) = self.raw[from..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.raw[self.open..from + length]);
            let text = line.trim_end_matches('\r').to_owned();
            told(&text);
            self.lines.push(Line { at, text });
            from += length + 1;
            self.open = from;
        }
    }
}

fn beat(line: &Line) -> Option<Beat> {
    let mut words = line.text.strip_prefix("h ")?.split(' ');
    let (clock, writes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Beat { at: line.at, clock, writes })
}
