//! Which pages a guest will ask for next, from those that it has asked for: runs through memory, told apart
//! from accesses that follow nothing.
//!
//! A guest that runs through memory faults at the first page that nobody has sent; it does not fault at those
//! that were sent ahead. So a *stream* remembers where it goes on and how far it was sent ahead, its *window*:
//!
//! | a fault | what goes along |
//! |---|---|
//! | goes on where a stream does, or beyond what others have sent of it meanwhile | the next pages of the stream; its window doubles, from [`FIRST_WINDOW`] to [`LONGEST_WINDOW`] |
//! | lies one page beside the last one of a stream without a window | the same: a run begins |
//! | lies up to [`LONGEST_STRIDE`] pages beside it | nothing yet: the next at the same distance begins a run |
//! | else | nothing: it begins a stream, in place of the one without a window that was not used for longest, or of any if few have none |
//!
//! So a guest that touches memory at random gets what it asks for and no page more. The table is small, and
//! a fault costs one look at each of its entries.

/// Streams that are followed at once.
const STREAMS: usize = 16;
/// Pages that go along with the fault that shows a run.
const FIRST_WINDOW: u64 = 4;
/// Most pages that go along with one fault.
const LONGEST_WINDOW: u64 = 64;
/// Longest distance between two accesses of a run, pages.
const LONGEST_STRIDE: u64 = 64;
/// How many pages of a run, beyond its window, others may have sent: more than the background goes ahead.
const LONGEST_GAP: u64 = 1024;
/// Streams without a window that there are at least, so that faults that follow nothing push no run out.
const LEAST_NEW: usize = 4;

/// A place in memory where a guest goes on.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The page where it faulted last.
    last: u64,
    /// Pages from one access to the next; 0: not known.
    stride: i64,
    /// Accesses that were sent ahead after `last`.
    window: u64,
    /// When it was used last, counted in faults; 0: never.
    used: u64,
}

/// What goes along with a fault: so many pages, at this distance from it and from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Distance, in pages; never 0.
    pub(crate) stride: i64,
    /// Number of pages.
    pub(crate) count: u64,
}

/// The streams of one guest.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: [Stream; STREAMS],
    faults: u64,
}

impl Stream {
    /// How many accesses of its run a page lies behind the last one; `None` if it is none of them.
    fn steps(&self, page: u64) -> Option<u64> {
        let distance = i128::from(page) - i128::from(self.last);
        let stride = i128::from(self.stride);
        let on_its_way = stride != 0 && distance % stride == 0;
        on_its_way.then(|| distance / stride).and_then(|steps| u64::try_from(steps).ok())
    }

    /// Whether a fault goes on where this run does: all pages of it before this one were sent.
    fn goes_on(&self, page: u64, sent: &dyn Fn(u64) -> bool) -> bool {
        let Some(steps) = self.steps(page).and_then(|steps| steps.checked_sub(1)) else {
            return false;
        };
        let Some(gap) = steps.checked_sub(self.window) else { return false };
        // One distance was seen, once.
        if self.window == 0 {
            return gap == 0;
        }
        let mut between = (1..=gap).filter_map(|back| {
            let back = self.stride.checked_mul(i64::try_from(back).ok()?)?;
            page.checked_add_signed(-back)
        });
        gap <= LONGEST_GAP && between.all(sent)
    }

    /// The distance of a page that may be the second of a run.
    fn distance(&self, page: u64) -> Option<i64> {
        let distance = page.abs_diff(self.last);
        let stride = i64::try_from(distance).ok()?;
        let may = self.used > 0 && self.window == 0 && (1..=LONGEST_STRIDE).contains(&distance);
        may.then_some(if page > self.last { stride } else { -stride })
    }
}

impl Streams {
    /// Takes a fault at a page that was not sent before; what goes along with it. `sent` tells whether another
    /// page was.
    pub(crate) fn fault(&mut self, page: u64, sent: &dyn Fn(u64) -> bool) -> Option<Ahead> {
        self.faults += 1;
        let used = self.faults;
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.goes_on(page, sent)) {
            let window = (stream.window * 2).clamp(FIRST_WINDOW, LONGEST_WINDOW);
            *stream = Stream { last: page, window, used, ..*stream };
            return Some(Ahead { stride: stream.stride, count: window });
        }
        let near = self.streams.iter_mut().filter(|stream| stream.distance(page).is_some());
        if let Some(stream) = near.min_by_key(|stream| page.abs_diff(stream.last)) {
            let stride = stream.distance(page).unwrap_or(0);
            let window = if stride.abs() == 1 { FIRST_WINDOW } else { 0 };
            *stream = Stream { last: page, stride, window, used };
            return (window > 0).then_some(Ahead { stride, count: window });
        }
        let new = self.streams.iter().filter(|stream| stream.window == 0).count();
        let may_go = |stream: &&mut Stream| stream.window == 0 || new < LEAST_NEW;
        if let Some(oldest) = self.streams.iter_mut().filter(may_go).min_by_key(|s| s.used) {
            *oldest = Stream { last: page, used, ..Stream::default() };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// What a guest that touches these pages waits for, without a background.
    #[derive(Debug, PartialEq, Eq)]
    struct Cost {
        faults: usize,
        ahead: usize,
        in_vain: usize,
    }

    fn cost(touches: impl IntoIterator<Item = u64>) -> Cost {
        let (mut streams, mut here, mut touched) =
            (Streams::default(), HashSet::new(), HashSet::new());
        let (mut faults, mut ahead) = (0, 0);
        for page in touches {
            touched.insert(page);
            if !here.insert(page) {
                continue;
            }
            faults += 1;
            let known = here.clone();
            let sent = |other: u64| known.contains(&other);
            let Some(Ahead { stride, count }) = streams.fault(page, &sent) else { continue };
            for step in 1..=count as i64 {
                if let Some(next) = page.checked_add_signed(stride * step) {
                    ahead += usize::from(here.insert(next));
                }
            }
        }
        Cost { faults, ahead, in_vain: here.difference(&touched).count() }
    }

    /// Numbers that follow nothing.
    fn random(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            state >> 33
        })
    }

    #[test]
    fn runs_are_followed_up_down_and_in_strides() {
        for (stride, faults) in [(1_i64, 68), (-1, 68), (3, 68), (-17, 68), (64, 68)] {
            let start = 1 << 30_u64;
            let touches = (0..4096).map(|step: i64| start + (stride * step));
            let cost = cost(touches.map(|page| page as u64));
            assert_eq!(cost.faults, faults, "stride {stride}");
            assert!(cost.in_vain <= 64, "stride {stride}: {cost:?}");
            assert_eq!(cost.faults + cost.ahead - cost.in_vain, 4096);
        }
        // Too far apart to be one.
        assert_eq!(
            cost((0..100).map(|step| step * 65)),
            Cost { faults: 100, ahead: 0, in_vain: 0 }
        );
    }

    #[test]
    fn what_follows_nothing_brings_nothing() {
        let cost = cost(random(1).map(|number| number % 700_000).take(20_000));
        // Two that happen to be neighbours are taken for a run.
        assert!(cost.ahead * 100 < cost.faults, "{cost:?}");
    }

    #[test]
    fn runs_that_take_turns_are_told_apart() {
        let touches = (0..1000).flat_map(|step| {
            (0..8).map(move |stream| {
                (stream << 20) + if stream % 2 == 0 { step } else { 5000 - step }
            })
        });
        let cost = cost(touches);
        assert!(cost.faults <= 8 * 22, "{cost:?}");
        assert!(cost.in_vain <= 8 * 64, "{cost:?}");
    }

    #[test]
    fn short_runs_gain_and_waste_little() {
        // As a kernel boots: 1 to 30 pages from somewhere on, one in five backwards.
        let mut numbers = random(7);
        let mut touches = Vec::new();
        for _ in 0..1000 {
            let (start, length) = (numbers.next().unwrap() % 500_000, numbers.next().unwrap() % 30);
            let back = numbers.next().unwrap().is_multiple_of(5);
            touches.extend(
                (0..=length).map(|step| if back { start + 40 - step } else { start + step }),
            );
        }
        let pages = touches.iter().collect::<HashSet<_>>().len();
        let cost = cost(touches);
        assert!(cost.faults * 3 < pages, "{pages} pages, {cost:?}");
        assert!(cost.in_vain * 2 < pages, "{pages} pages, {cost:?}");
    }

    #[test]
    fn a_run_goes_on_beyond_what_others_have_sent() {
        let mut streams = Streams::default();
        // The background has brought these.
        let sent = |page: u64| (106..700).contains(&page);
        assert_eq!(streams.fault(100, &sent), None);
        assert_eq!(streams.fault(101, &sent), Some(Ahead { stride: 1, count: 4 }));
        assert_eq!(streams.fault(700, &sent), Some(Ahead { stride: 1, count: 8 }));
        // A page is left out that nobody has sent: no run, however near.
        assert_eq!(streams.fault(710, &sent), None);
        assert_eq!(streams.fault(709, &sent), Some(Ahead { stride: 1, count: 16 }));
        for page in [0, u64::MAX, u64::MAX - 1, 1, 0] {
            streams.fault(page, &|_| true);
        }
    }

    #[test]
    fn faults_that_follow_nothing_push_no_run_out() {
        let mut numbers = random(3);
        let touches = (0..2048).flat_map(|step| {
            let mut any = || (1 << 40) + (numbers.next().unwrap() << 10);
            [step, any(), any(), any()]
        });
        let touches: Vec<u64> = touches.collect();
        let pages = touches.len();
        let cost = cost(touches);
        assert!(cost.faults < pages - 1900, "{cost:?}");
    }
}
