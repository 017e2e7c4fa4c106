//! What the test guest says on its serial port (guest/README.md has the protocol).

use serde::Serialize;

/// The guest's word on its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Whether every page held what it should.
    pub(crate) ok: bool,
    pub(crate) checked_pages: u64,
    pub(crate) bad_pages: u64,
    /// Page number of the first bad one.
    pub(crate) first_bad: Option<u64>,
    pub(crate) writes: u64,
    pub(crate) beats: u64,
    /// Longest time between two heartbeats by the guest's clock, since the mark.
    pub(crate) max_gap_us: u64,
    pub(crate) touch_us_p50: u64,
    pub(crate) touch_us_p99: u64,
    pub(crate) touch_us_max: u64,
    /// Harts or threads that write.
    pub(crate) workers: u64,
    /// Inter-processor interrupts that arrived, one after the other; bare metal only.
    pub(crate) tokens: u64,
    /// Remote fences that were done.
    pub(crate) fences: u64,
    /// How often a hart saw what was there before a fence.
    pub(crate) stale: u64,
}

/// One line of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuestLine {
    Hello {
        memory_pages: u64,
        filled_pages: u64,
        seed: u64,
    },
    Ready {
        fill_us: u64,
    },
    /// Guest's clock in microseconds, writes so far.
    Beat {
        clock_us: u64,
        writes: u64,
    },
    Verdict(Verdict),
    Mark,
    Bye,
    /// It cannot go on; why.
    Failed(String),
}

/// Reads a line; `None` for kernel messages and other text.
pub(super) fn parse(line: &str) -> Option<GuestLine> {
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
