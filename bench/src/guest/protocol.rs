//! What the guests say on their serial ports (guest/README.md has the protocol).

use serde::Serialize;

/// The guest's word on its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether every page held what it should.
    pub ok: bool,
    /// Pages that it looked at.
    pub checked_pages: u64,
    /// Those of them that held something else.
    pub bad_pages: u64,
    /// Page number of the first bad one.
    pub first_bad: Option<u64>,
    /// Pages written since the start.
    pub writes: u64,
    /// Heartbeats since the start.
    pub beats: u64,
    /// Longest time between two heartbeats by the guest's clock, since the mark.
    pub max_gap_us: u64,
    /// Time that half of the writes did not exceed, in microseconds, since the mark.
    pub touch_us_p50: u64,
    /// The same of 99 % of them.
    pub touch_us_p99: u64,
    /// The same of all of them.
    pub touch_us_max: u64,
    /// Harts or threads that write.
    pub workers: u64,
    /// Inter-processor interrupts that arrived, one after the other; bare metal only.
    pub tokens: u64,
    /// Remote fences that were done.
    pub fences: u64,
    /// How often a hart saw what was there before a fence.
    pub stale: u64,
    /// What the x86-64 guest finds out about its processors.
    pub processors: Option<Processors>,
}

/// What must be kept of the x86-64 guest's processors. The verdict is bad when it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processors {
    /// Longest time between two timer interrupts of a processor by its time-stamp counter, since the mark:
    /// it stood still so long at most, less the timer's period of 1 ms.
    pub tick_gap_us: u64,
    /// Inter-processor interrupts that were sent and did not come.
    pub rings_lost: u64,
    /// Comparisons of timer and time-stamp counter.
    pub timer_checks: u64,
    /// Those that differ.
    pub timer_off: u64,
    /// How often a clock went backwards.
    pub steps_back: u64,
    /// Looks at registers.
    pub state_checks: u64,
    /// Registers that were found altered since the start.
    pub state_bad: u64,
    /// The first one's name.
    pub state_first: Option<String>,
}

/// One line of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestLine {
    /// It has started.
    Hello {
        /// Pages of its pool.
        memory_pages: u64,
        /// Those of them that it fills.
        filled_pages: u64,
        /// What their content follows from.
        seed: u64,
    },
    /// Memory is filled; writes and heartbeats begin.
    Ready {
        /// Time that filling took, in microseconds.
        fill_us: u64,
    },
    /// A heartbeat.
    Beat {
        /// The guest's clock in microseconds.
        clock_us: u64,
        /// Pages written so far.
        writes: u64,
    },
    /// Its memory was checked.
    Verdict(Verdict),
    /// What it measures begins anew.
    Mark,
    /// What it was asked for at a moment.
    Gap {
        /// Longest time between timer interrupts so far, in microseconds; 0: it has no such timer.
        tick_gap_us: u64,
    },
    /// It turns itself off.
    Bye,
    /// It cannot go on; why.
    Failed(String),
}

/// Reads a line; `None` for kernel messages and other text.
#[must_use]
pub fn parse(line: &str) -> Option<GuestLine> {
    let mut words = line.split_ascii_whitespace();
    match words.next()? {
        "umem-guest" => {
            if words.next()? != "1" {
                return Some(GuestLine::Failed(line.chars().filter(|c| !c.is_control()).collect()));
            }
            let fields = Fields(line);
            Some(GuestLine::Hello {
                memory_pages: fields.number("memory_pages")?,
                filled_pages: fields.number("filled_pages")?,
                seed: fields.number("seed")?,
            })
        }
        "ready" => Some(GuestLine::Ready { fill_us: Fields(line).number("fill_us")? }),
        "h" => {
            let (clock, writes) = (words.next()?, words.next()?);
            let beat =
                GuestLine::Beat { clock_us: clock.parse().ok()?, writes: writes.parse().ok()? };
            words.next().is_none().then_some(beat)
        }
        "verdict" => verdict(words.next()?, &Fields(line)).map(GuestLine::Verdict),
        "mark" => Some(GuestLine::Mark),
        "gap" => {
            let (_heartbeats, ticks) = (words.next()?, words.next()?);
            Some(GuestLine::Gap { tick_gap_us: ticks.parse().ok()? })
        }
        "bye" => Some(GuestLine::Bye),
        _ => None,
    }
}

fn verdict(word: &str, fields: &Fields<'_>) -> Option<Verdict> {
    Some(Verdict {
        ok: match word {
            "ok" => true,
            "bad" => false,
            _ => return None,
        },
        checked_pages: fields.number("checked_pages")?,
        bad_pages: fields.number("bad_pages")?,
        first_bad: match fields.text("first_bad")? {
            "-" => None,
            page => Some(page.parse().ok()?),
        },
        writes: fields.number("writes")?,
        beats: fields.number("beats")?,
        max_gap_us: fields.number("max_gap_us")?,
        touch_us_p50: fields.number("touch_us_p50")?,
        touch_us_p99: fields.number("touch_us_p99")?,
        touch_us_max: fields.number("touch_us_max")?,
        workers: fields.number("workers")?,
        tokens: fields.number("tokens").unwrap_or(0),
        fences: fields.number("fences").unwrap_or(0),
        stale: fields.number("stale").unwrap_or(0),
        processors: processors(fields),
    })
}

fn processors(fields: &Fields<'_>) -> Option<Processors> {
    Some(Processors {
        tick_gap_us: fields.number("tick_gap_us")?,
        rings_lost: fields.number("rings_lost")?,
        timer_checks: fields.number("timer_checks")?,
        timer_off: fields.number("timer_off")?,
        steps_back: fields.number("steps_back")?,
        state_checks: fields.number("state_checks")?,
        state_bad: fields.number("state_bad")?,
        state_first: fields.text("state_first").filter(|name| *name != "-").map(str::to_owned),
    })
}

/// The `name=value` words of a line.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .find_map(|(own, value)| (own == name).then_some(value))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_read() {
        let hello =
            "umem-guest 1 memory_pages=262144 filled_pages=183500 seed=18446744073709551615";
        assert_eq!(
            parse(hello),
            Some(GuestLine::Hello { memory_pages: 262_144, filled_pages: 183_500, seed: u64::MAX })
        );
        assert_eq!(parse("ready fill_us=5\r"), Some(GuestLine::Ready { fill_us: 5 }));
        assert_eq!(parse("h 1000 7"), Some(GuestLine::Beat { clock_us: 1000, writes: 7 }));
        assert_eq!(parse("mark 12"), Some(GuestLine::Mark));
        assert_eq!(parse("gap 10021 2310"), Some(GuestLine::Gap { tick_gap_us: 2310 }));
        assert_eq!(parse("gap 10021"), None);
        assert_eq!(parse("bye"), Some(GuestLine::Bye));
        let failed = "umem-guest too little memory".to_owned();
        assert_eq!(parse(&failed), Some(GuestLine::Failed(failed)));
        let tail =
            "writes=9 beats=8 max_gap_us=7 touch_us_p50=1 touch_us_p99=2 touch_us_max=3 workers=2";
        let bad = format!("verdict bad checked_pages=10 bad_pages=1 first_bad=4 {tail}");
        let Some(GuestLine::Verdict(verdict)) = parse(&bad) else { panic!() };
        assert_eq!((verdict.ok, verdict.bad_pages, verdict.first_bad), (false, 1, Some(4)));
        assert_eq!((verdict.max_gap_us, verdict.touch_us_max), (7, 3));
        let ok = format!("verdict ok checked_pages=10 bad_pages=0 first_bad=- {tail}");
        assert!(matches!(parse(&ok), Some(GuestLine::Verdict(v)) if v.ok && v.first_bad.is_none()));
    }

    #[test]
    fn anything_else_is_no_line_of_the_guests() {
        for line in [
            "",
            "h",
            "h 1",
            "h x 2",
            "h 1 2 3",
            "ready",
            "[    0.000000] h 1 2",
            "verdict maybe",
            "verdict ok checked_pages=1",
            "umem-guest",
            "umem-guest 1 seed=1",
            "h 99999999999999999999999 1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
