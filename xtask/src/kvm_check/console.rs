//! What a guest says, and what else is on the consoles of its VMs.

use std::{collections::VecDeque, time::Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use umem_bench::guest::{Assembler, Chunk, End, Heard, parse};

/// Lines of a console that are kept for the report.
const LINES_KEPT: usize = 12;
/// What is longer is no line of anybody's.
const LINE_MAX: usize = 400;

/// The newest lines of one VM's console, without the guest's heartbeats.
#[derive(Debug, Default)]
struct Tail {
    open: Vec<u8>,
    lines: VecDeque<String>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8], mut told: impl FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.open);
                    let line: String = line.chars().filter(|letter| !letter.is_control()).collect();
                    self.open.clear();
                    told(&line);
                    if !line.starts_with("h ") && !line.is_empty() {
                        if self.lines.len() >= LINES_KEPT {
                            self.lines.pop_front();
                        }
                        self.lines.push_back(line);
                    }
                }
                _ if self.open.len() < LINE_MAX => self.open.push(*byte),
                _ => {}
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let open = String::from_utf8_lossy(&self.open);
        let open: String = open.chars().filter(|letter| !letter.is_control()).collect();
        let open = (!open.is_empty() && !open.starts_with("h ")).then_some(open);
        self.lines.iter().cloned().chain(open).collect()
    }
}

/// What Linux said beside the workload's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Processors that its kernel has started.
    pub(super) processors: Option<u32>,
    /// It uses async page faults.
    pub(super) async_page_faults: bool,
    /// Rounds of its disk and random numbers.
    pub(super) rounds: u64,
    /// Those of them that went wrong.
    pub(super) bad_rounds: u64,
    /// Its kernel has given up.
    pub(super) panicked: bool,
}

impl Told {
    fn take(&mut self, line: &str) {
        let number = |behind: &str| -> Option<u64> {
            let digits = line.split_once(behind)?.1;
            digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        };
        if line.starts_with("devices bad") {
            self.bad_rounds += 1;
        } else if line.starts_with("devices ok") {
            self.rounds = number("rounds=").unwrap_or(self.rounds).max(self.rounds);
        } else if line.contains("smp: Brought up") {
            // "smp: Brought up 1 node, 4 CPUs"
            self.processors = number(" node, ").and_then(|count| u32::try_from(count).ok());
        } else if line.contains("setup async PF") {
            self.async_page_faults = true;
        } else if line.contains("Kernel panic") {
            self.panicked = true;
        }
    }
}

/// The consoles of the VMs between which a guest moves.
pub(super) struct Consoles {
    chunks: Receiver<Chunk>,
    /// For the VMs' ports.
    pub(super) sender: Sender<Chunk>,
    /// Where the guest is before the next move: its console is the source's.
    here: End,
    feed: Sender<Chunk>,
    assembler: Assembler,
    tails: [Tail; 2],
    pub(super) told: Told,
    /// When anything was heard last.
    pub(super) last: Instant,
}

impl Consoles {
    pub(super) fn new() -> Self {
        let (sender, chunks) = unbounded();
        let (feed, fed) = unbounded();
        Self {
            chunks,
            sender,
            here: End::Source,
            feed,
            assembler: Assembler::new(fed),
            tails: Default::default(),
            told: Told::default(),
            last: Instant::now(),
        }
    }

    /// The guest is in the VM that was started as this end, and will leave it next.
    pub(super) fn turn(&mut self, here: End) {
        let (feed, fed) = unbounded();
        (self.here, self.feed, self.assembler) = (here, feed, Assembler::new(fed));
    }

    /// Listens until `until` at most; the guest's lines, by where they were heard.
    pub(super) fn listen(&mut self, until: Instant) -> Vec<Heard> {
        let first = self.chunks.recv_deadline(until).ok();
        let more: Vec<Chunk> = self.chunks.try_iter().collect();
        for mut chunk in first.into_iter().chain(more) {
            self.last = chunk.at;
            let tail = match chunk.end {
                End::Source => &mut self.tails[0],
                End::Destination => &mut self.tails[1],
            };
            let told = &mut self.told;
            tail.take(&chunk.bytes, |line| told.take(line));
            chunk.end = if chunk.end == self.here { End::Source } else { End::Destination };
            // Its receiver is the assembler beside it.
            let _ = self.feed.send(chunk);
        }
        let mut heard = Vec::new();
        self.assembler.listen(Instant::now(), &mut heard);
        heard
    }

    /// The newest lines of a VM's console.
    pub(super) fn last_lines(&self, end: End) -> Vec<String> {
        self.tails[usize::from(end == End::Destination)].lines()
    }

    /// The newest line that is none of the guest's protocol.
    pub(super) fn last_words(&self) -> String {
        let all = self
            .tails
            .iter()
            .rev()
            .filter_map(|tail| tail.lines().into_iter().rfind(|line| parse(line).is_none()));
        all.into_iter().next().unwrap_or_else(|| "nothing".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use umem_bench::guest::GuestLine;

    #[test]
    fn what_linux_says_of_itself_is_noticed() {
        let mut told = Told::default();
        for line in [
            "[    0.1] smp: Brought up 1 node, 4 CPUs",
            "[    0.2] kvm-guest: setup async PF for cpu 0",
            "devices ok rounds=10",
            "devices ok rounds=20",
            "devices bad round=21",
        ] {
            told.take(line);
        }
        let expected = Told {
            processors: Some(4),
            async_page_faults: true,
            rounds: 20,
            bad_rounds: 1,
            panicked: false,
        };
        assert_eq!(told, expected);
        told.take("[    0.3] Kernel panic - not syncing: no");
        assert!(told.panicked);
    }

    #[test]
    fn ends_change_places_with_the_guest_and_heartbeats_are_not_kept() {
        let mut consoles = Consoles::new();
        let say = |consoles: &mut Consoles, end, text: &str| {
            let chunk = Chunk { end, at: Instant::now(), bytes: text.as_bytes().to_vec() };
            consoles.sender.send(chunk).unwrap();
            consoles.listen(Instant::now() + Duration::from_secs(5))
        };
        let heard = say(&mut consoles, End::Source, "[ 0.1] hello\nh 1 2\nh 2");
        assert_eq!(heard.len(), 1);
        let heard = say(&mut consoles, End::Destination, "0 3\n");
        assert_eq!((heard[0].end, heard.len()), (End::Destination, 1));
        consoles.turn(End::Destination);
        let heard = say(&mut consoles, End::Destination, "h 30 4\n");
        assert_eq!(heard[0].end, End::Source);
        assert_eq!(heard[0].line, GuestLine::Beat { clock_us: 30, writes: 4 });
        assert_eq!(consoles.last_lines(End::Source), ["[ 0.1] hello"]);
        assert_eq!(consoles.last_words(), "0 3");
    }
}
