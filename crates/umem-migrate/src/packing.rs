//! Whether pages are packed before they go, and how. A value that is told what was measured; docs/protocol.md
//! does not depend on it.
//!
//! Each connection for pages has one of its own, for each has its share of the link. With *link* the bytes
//! a second that the connection takes (time blocked in it included; no more than the operator allows), and of each codec the bytes a second
//! that it packs and the *ratio* of what comes out to what goes in, a byte of content costs
//!
//! | way | cost of a byte |
//! |---|---|
//! | plain | 1 / link |
//! | packed | 1 / pack rate + ratio / link |
//!
//! | wish | what happens |
//! |---|---|
//! | off | plain |
//! | a codec | packed with it |
//! | auto, link faster than [`FASTEST_PACKER`], or not known yet | plain, nothing is tried |
//! | auto, a codec's figures are old (a round has begun, [`TRY_AFTER`] chunks are sent), and 1 / pack rate is not too much already | one chunk is packed with it |
//! | auto, a codec costs less than [`GAIN_PERCENT`] of the way in use | packed with it |
//! | auto, plain costs least | plain |
//! | auto, else | the way in use |
//!
//! So a link that is never what is waited for never sees a packer, a slow one costs a trial now and then,
//! and two ways that are worth about the same do not alternate.

use std::time::Duration;
use umem_wire::{Codec, Features};

/// No packer is expected to take more, bytes a second: a link that does is not worth a trial.
pub const FASTEST_PACKER: u64 = 1 << 30;
/// Chunks between two trials of a codec that is not in use.
pub const TRY_AFTER: u32 = 128;
/// What another way may cost at most to be taken, per cent of the way in use.
pub const GAIN_PERCENT: f64 = 85.0;
/// Bytes that the link must have taken before its rate says something.
pub const TELLING_BYTES: u64 = 1 << 20;

/// How much of older figures is kept at a new one: about so many count.
const LINK_MEMORY: f64 = 31.0 / 32.0;
const PACKER_MEMORY: f64 = 3.0 / 4.0;

/// What the operator wants of packing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Off,
    /// Always with this one.
    Always(Codec),
    /// As the link and the pages are.
    #[default]
    Auto,
}

/// What the operator wants of pages that go as their difference from the copy sent before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Differences {
    /// None.
    Off,
    /// Wherever there is an older copy.
    On,
    /// Where pages are packed anyway.
    #[default]
    Auto,
}

/// Something's rate, over the last of it.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    bytes: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, memory: f64, bytes: u64, took: Duration) {
        self.bytes = self.bytes * memory + bytes as f64;
        self.seconds = self.seconds * memory + took.as_secs_f64();
    }

    /// Seconds a byte; `None` when nothing tells it.
    fn cost(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| self.seconds / self.bytes)
    }
}

/// What is known of a codec.
#[derive(Debug, Clone, Copy)]
struct Figures {
    codec: Codec,
    rate: Rate,
    /// Bytes that came out, of `rate.bytes`.
    packed: f64,
    /// Chunks since it was used last; `None`: the figures are of other pages.
    age: Option<u32>,
}

impl Figures {
    const fn new(codec: Codec) -> Self {
        Self { codec, rate: Rate { bytes: 0.0, seconds: 0.0 }, packed: 0.0, age: None }
    }

    /// Seconds a byte of content over a link that takes so many seconds a byte.
    fn cost(&self, link: f64) -> Option<f64> {
        self.age?;
        Some(self.rate.cost()? + self.packed / self.rate.bytes * link)
    }

    /// Whether pages that pack well enough could make up for the time that it takes.
    fn may_gain(&self, link: f64) -> bool {
        self.rate.cost().is_none_or(|cost| cost * 100.0 < link * GAIN_PERCENT)
    }

    fn is_old(&self) -> bool {
        self.age.is_none_or(|age| age >= TRY_AFTER)
    }
}

/// The decision for one connection.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    wish: Compression,
    known: Features,
    link: Rate,
    link_bytes: u64,
    /// Bytes a second that the operator allows; 0 is no limit.
    limit: u64,
    codecs: [Figures; 2],
    current: Option<Codec>,
}

impl Packing {
    /// Nothing is known of the link, which ends in a peer that knows these features.
    #[must_use]
    pub fn new(wish: Compression, known: Features) -> Self {
        let wish = match wish {
            Compression::Always(codec) if !known.has(codec.feature()) => Compression::Off,
            wish => wish,
        };
        let codecs = Codec::ALL.map(Figures::new);
        let current = match wish {
            Compression::Always(codec) => Some(codec),
            Compression::Off | Compression::Auto => None,
        };
        Self { wish, known, link: Rate::default(), link_bytes: 0, limit: 0, codecs, current }
    }

    /// The codec that is in use, trials aside.
    #[must_use]
    pub const fn current(&self) -> Option<Codec> {
        self.current
    }

    /// Other pages follow: what was learned of how well they pack says nothing of them.
    pub fn begin_round(&mut self) {
        for figures in &mut self.codecs {
            *figures = Figures::new(figures.codec);
        }
    }

    /// Whether packing may come to pay on this link.
    #[must_use]
    pub fn may_pay(&self) -> bool {
        match self.wish {
            Compression::Off => false,
            Compression::Always(_) => true,
            Compression::Auto => {
                self.link().is_some_and(|cost| cost * FASTEST_PACKER as f64 >= 1.0)
            }
        }
    }

    /// Seconds a byte: as the link takes them, or as the operator lets them go.
    fn link(&self) -> Option<f64> {
        let measured = self.link.cost().filter(|_| self.link_bytes >= TELLING_BYTES);
        let allowed = (self.limit > 0).then(|| 1.0 / self.limit as f64);
        measured.into_iter().chain(allowed).reduce(f64::max)
    }

    /// The operator allows this connection so many bytes a second; 0 is no limit.
    pub fn limit(&mut self, bytes_a_second: u64) {
        self.limit = bytes_a_second;
    }

    /// How the next chunk goes.
    pub fn next_chunk(&mut self) -> Option<Codec> {
        if self.wish != Compression::Auto {
            return self.current;
        }
        let Some(link) = self.link().filter(|_| self.may_pay()) else {
            self.current = None;
            return None;
        };
        for figures in &mut self.codecs {
            figures.age = figures.age.map(|age| age.saturating_add(1));
        }
        let known = self.known;
        let usable = self.codecs.iter().filter(|figures| known.has(figures.codec.feature()));
        if let Some(old) = usable.clone().find(|figures| figures.is_old() && figures.may_gain(link))
        {
            return Some(old.codec);
        }
        let cost = |way: Option<Codec>| match way {
            None => link,
            Some(codec) => {
                let figures = usable.clone().find(|figures| figures.codec == codec);
                figures.and_then(|figures| figures.cost(link)).unwrap_or(f64::INFINITY)
            }
        };
        let now = cost(self.current);
        let ways = usable.clone().map(|figures| Some(figures.codec)).chain([None]);
        let best = ways.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).flatten();
        // What gains nothing any more is left at once.
        let limit = if best.is_none() { 100.0 } else { GAIN_PERCENT };
        if cost(best) * 100.0 < now * limit {
            self.current = best;
        }
        self.current
    }

    /// A chunk's content was packed, or would have been, to so many bytes.
    pub fn packed(&mut self, codec: Codec, content: u64, packed: u64, took: Duration) {
        for figures in self.codecs.iter_mut().filter(|figures| figures.codec == codec) {
            if figures.is_old() {
                // Of other pages: nothing is to be learned from an average with them.
                *figures = Figures::new(codec);
            }
            figures.packed = figures.packed * PACKER_MEMORY + packed as f64;
            figures.rate.add(PACKER_MEMORY, content, took);
            figures.age = Some(0);
        }
    }

    /// So many bytes were taken by the connection, in this time.
    pub fn sent(&mut self, bytes: u64, took: Duration) {
        self.link.add(LINK_MEMORY, bytes, took);
        self.link_bytes = self.link_bytes.saturating_add(bytes);
    }

    /// The codec that makes up for the time that it takes on this link also for a page that somebody waits
    /// for, as far as is known.
    #[must_use]
    pub fn for_waiting(&self) -> Option<Codec> {
        let (codec, link) = (self.current?, self.link()?);
        let figures = self.codecs.iter().find(|figures| figures.codec == codec)?;
        (figures.cost(link)? * 100.0 < link * GAIN_PERCENT).then_some(codec)
    }
}

#[cfg(test)]
mod tests;
