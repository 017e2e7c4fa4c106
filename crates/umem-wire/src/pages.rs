//! Frames that carry pages, on the demand and bulk channels, and the digest over all pages.
//!
//! ```text
//!  PAGES  start u64 | count u16 | content u16 | fills u16 | cause u8 | 0 u8
//!         kinds: 2 bits a page | one byte a repeated-byte page | 8 bytes hash a content page
//!         the content pages, end to end
//!  RUN    start u64 | count u64 | byte u8 | cause u8
//!  ROUND-END  round u32
//! ```
//!
//! PACKED is in `packed`.

use crate::WireError;
use crate::frame::{FRAME_HEAD_BYTES, FrameHead, framed};
use crate::packed::{PACKED, PackedHead};
use crate::reader::BodyReader;
use twox_hash::XxHash3_64;

/// Most pages in one frame of pages.
pub const MAX_CHUNK_PAGES: usize = 256;

const PAGES: u8 = 1;
const RUN: u8 = 2;
const ROUND_END: u8 = 3;
const CREDIT: u8 = 1;

/// Bytes of a PAGES body before its kinds.
const FIXED_BYTES: usize = 16;
const KINDS_PER_BYTE: usize = 4;

/// Why a page is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The destination asked for it.
    Demand = 1,
    /// Its neighbour was asked for.
    Prefault = 2,
    /// Nobody asked.
    Background = 3,
    /// The guest still runs at the source.
    Precopy = 4,
}

impl Cause {
    fn decode(value: u8) -> Result<Self, WireError> {
        match value {
            1 => Ok(Self::Demand),
            2 => Ok(Self::Prefault),
            3 => Ok(Self::Background),
            4 => Ok(Self::Precopy),
            _ => Err(WireError::Value { field: "cause of pages", value: u64::from(value) }),
        }
    }
}

/// What a page holds, as the wire tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Bytes, which follow, with this hash (see [`page_hash`]).
    Content(u64),
    /// One byte, over and over. A page for which that is true is always sent so.
    Fill(u8),
    /// The source cannot read it.
    Unreadable,
}

const KIND_CONTENT: u8 = 0;
const KIND_ZERO: u8 = 1;
const KIND_FILL: u8 = 2;
const KIND_UNREADABLE: u8 = 3;

/// Checksum of a page: XXH3-64 with the page's number as seed, so that content in the wrong place
/// does not pass either.
#[must_use]
pub fn page_hash(page: u64, content: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(page, content)
}

/// A copy's part in the digest: the parts are added, wrapping, in any order.
#[must_use]
pub fn digest_term(page: u64, kind: PageKind) -> u128 {
    let (tag, value) = match kind {
        PageKind::Content(hash) => (1, hash),
        PageKind::Fill(byte) => (2, u64::from(byte)),
        PageKind::Unreadable => (3, 0),
    };
    term(page, tag, value)
}

/// The part in the digest of a page whose earlier copies are discarded.
#[must_use]
pub fn discard_term(page: u64) -> u128 {
    term(page, 0, 0)
}

fn term(page: u64, tag: u64, value: u64) -> u128 {
    let low = mix(mix(page ^ (tag << 62)) ^ value);
    let high = mix(low ^ page.rotate_left(32) ^ tag);
    (u128::from(high) << 64) | u128::from(low)
}

/// The finalizer of MurmurHash3 for 64 bits (public domain, Appleby), with an addend so that 0 moves.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    z ^ (z >> 33)
}

/// Builds the head of a PAGES frame; the content pages are written behind it by the caller, straight
/// from where they lie.
#[derive(Debug)]
pub struct PagesBuilder {
    start: u64,
    cause: Cause,
    page_bytes: usize,
    count: usize,
    kinds: Vec<u8>,
    fills: Vec<u8>,
    hashes: Vec<u8>,
}

impl PagesBuilder {
    /// An empty frame of pages from `start` on.
    #[must_use]
    pub fn new(start: u64, cause: Cause, page_bytes: usize) -> Self {
        let (kinds, fills, hashes) = (Vec::new(), Vec::new(), Vec::new());
        Self { start, cause, page_bytes, count: 0, kinds, fills, hashes }
    }

    /// Adds the next page.
    ///
    /// # Panics
    /// When the frame has [`MAX_CHUNK_PAGES`] already.
    pub fn push(&mut self, kind: PageKind) {
        assert!(self.count < MAX_CHUNK_PAGES, "a frame of {} pages is full", self.count);
        let code = match kind {
            PageKind::Content(hash) => {
                self.hashes.extend_from_slice(&hash.to_le_bytes());
                KIND_CONTENT
            }
            PageKind::Fill(0) => KIND_ZERO,
            PageKind::Fill(byte) => {
                self.fills.push(byte);
                KIND_FILL
            }
            PageKind::Unreadable => KIND_UNREADABLE,
        };
        let slot = self.count % KINDS_PER_BYTE;
        if slot == 0 {
            self.kinds.push(0);
        }
        if let Some(last) = self.kinds.last_mut() {
            *last |= code << (2 * slot);
        }
        self.count += 1;
    }

    /// The frame up to its content pages.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        self.frame(PAGES, &[], &[], self.hashes.len() / 8 * self.page_bytes)
    }

    /// A frame up to the last bytes of its body, which are `behind`; what only some kinds have goes
    /// `before` and `after` what all have.
    pub(crate) fn frame(&self, kind: u8, before: &[u8], after: &[u8], behind: usize) -> Vec<u8> {
        let content = self.hashes.len() / 8;
        let table = FIXED_BYTES + self.kinds.len() + self.fills.len() + self.hashes.len();
        let table = before.len() + table + after.len();
        // At most 256 pages of a size that a chunk may have; the sum is far below 4 GiB.
        let body_bytes = (table + behind) as u32;
        let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + table);
        out.extend_from_slice(&FrameHead { kind, body_bytes }.encode());
        out.extend_from_slice(before);
        out.extend_from_slice(&self.start.to_le_bytes());
        for count in [self.count, content, self.fills.len()] {
            out.extend_from_slice(&(count as u16).to_le_bytes());
        }
        out.extend_from_slice(&[self.cause as u8, 0]);
        out.extend_from_slice(&self.kinds);
        out.extend_from_slice(&self.fills);
        out.extend_from_slice(&self.hashes);
        out.extend_from_slice(after);
        out
    }
}

/// Pages that all repeat the same byte, as a frame: RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunFrame {
    /// First page.
    pub start: u64,
    /// Number of pages.
    pub count: u64,
    /// The byte.
    pub byte: u8,
    /// Why it is sent.
    pub cause: Cause,
}

impl RunFrame {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        framed(RUN, |out| {
            out.extend_from_slice(&self.start.to_le_bytes());
            out.extend_from_slice(&self.count.to_le_bytes());
            out.extend_from_slice(&[self.byte, self.cause as u8]);
        })
    }
}

/// A decoded PAGES frame. Its content is still the receive buffer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesHead<'a> {
    /// First page.
    pub start: u64,
    /// Why they are sent.
    pub cause: Cause,
    count: usize,
    page_bytes: usize,
    kinds: &'a [u8],
    fills: &'a [u8],
    hashes: &'a [u8],
    content: &'a [u8],
}

/// A page of a frame with its bytes, where it has some.
pub type PageOf<'a> = (u64, PageKind, &'a [u8]);

impl<'a> PagesHead<'a> {
    /// All before the content, which is empty here, and the number of pages that have some.
    pub(crate) fn table(
        kind: u8,
        body: &mut BodyReader<'a>,
        page_bytes: usize,
    ) -> Result<(Self, usize), WireError> {
        let bytes = body.bytes();
        let start = body.u64()?;
        let count = usize::from(body.u16()?);
        let (content, fills) = (usize::from(body.u16()?), usize::from(body.u16()?));
        let cause = Cause::decode(body.u8()?)?;
        body.u8()?;
        if count == 0 || count > MAX_CHUNK_PAGES {
            let value = count as u64;
            return Err(WireError::Value { field: "number of pages in a frame", value });
        }
        let kinds = body.slice(count.div_ceil(KINDS_PER_BYTE))?;
        let coded = |code| codes(kinds, count).filter(|other| *other == code).count();
        if coded(KIND_CONTENT) != content || coded(KIND_FILL) != fills {
            return Err(WireError::Length { kind, bytes });
        }
        let (fills, hashes) = (body.slice(fills)?, body.slice(8 * content)?);
        let none = &[][..];
        let head = Self { start, cause, count, page_bytes, kinds, fills, hashes, content: none };
        Ok((head, content))
    }

    /// The same with content that came in another way.
    pub(crate) fn with(self, content: &'a [u8]) -> Self {
        Self { content, ..self }
    }

    /// The pages with content, in order.
    pub(crate) fn content_pages(&self) -> impl Iterator<Item = u64> + use<'a> {
        let start = self.start;
        let all = (0..).zip(codes(self.kinds, self.count));
        let all = all.map(move |(at, code)| (start.wrapping_add(at), code));
        all.filter(|(_, code)| *code == KIND_CONTENT).map(|(page, _)| page)
    }

    /// Number of pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// The bytes of all content pages, end to end.
    #[must_use]
    pub fn content(&self) -> &'a [u8] {
        self.content
    }

    /// The pages in order: number, kind, content (empty unless the kind is content).
    pub fn pages(&self) -> impl Iterator<Item = PageOf<'a>> + use<'a> {
        let Self { start, count, page_bytes, kinds, mut fills, mut hashes, mut content, .. } =
            *self;
        (0..count).map_while(move |at| {
            let code = kinds.get(at / KINDS_PER_BYTE)? >> (2 * (at % KINDS_PER_BYTE)) & 3;
            let page = start.wrapping_add(at as u64);
            Some(match code {
                KIND_CONTENT => {
                    let (hash, rest) = hashes.split_first_chunk()?;
                    hashes = rest;
                    let (bytes, rest) = content.split_at_checked(page_bytes)?;
                    content = rest;
                    (page, PageKind::Content(u64::from_le_bytes(*hash)), bytes)
                }
                KIND_ZERO => (page, PageKind::Fill(0), &[][..]),
                KIND_FILL => {
                    let (byte, rest) = fills.split_first()?;
                    fills = rest;
                    (page, PageKind::Fill(*byte), &[][..])
                }
                _ => (page, PageKind::Unreadable, &[][..]),
            })
        })
    }
}

/// A frame on the way to the destination on a demand or bulk channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesFrame<'a> {
    /// Pages.
    Pages(PagesHead<'a>),
    /// Pages whose content is packed.
    Packed(PackedHead<'a>),
    /// Pages that all repeat one byte.
    Run(RunFrame),
    /// All pages of this round that go this way have been sent (bulk only).
    RoundEnd(u32),
}

impl<'a> PagesFrame<'a> {
    /// Longest body for pages of this size.
    #[must_use]
    pub const fn max_body(page_bytes: usize) -> usize {
        FIXED_BYTES + MAX_CHUNK_PAGES * (page_bytes + 8 + 1 + 1)
    }

    /// A frame from its body.
    ///
    /// # Errors
    /// Whatever does not fit together. That the pages exist is for the caller to check.
    pub fn decode(kind: u8, body: &'a [u8], page_bytes: usize) -> Result<Self, WireError> {
        let mut body = BodyReader::new(kind, body);
        match kind {
            PAGES => {
                let (head, content) = PagesHead::table(kind, &mut body, page_bytes)?;
                let content = body.slice(content * page_bytes)?;
                body.finish()?;
                Ok(Self::Pages(PagesHead { content, ..head }))
            }
            PACKED => Ok(Self::Packed(PackedHead::decode(kind, &mut body, page_bytes)?)),
            ROUND_END => {
                let round = body.u32()?;
                body.finish()?;
                Ok(Self::RoundEnd(round))
            }
            RUN => {
                let (start, count) = (body.u64()?, body.u64()?);
                let (byte, cause) = (body.u8()?, Cause::decode(body.u8()?)?);
                body.finish()?;
                Ok(Self::Run(RunFrame { start, count, byte, cause }))
            }
            value => {
                let field = "kind of a frame of pages";
                Err(WireError::Value { field, value: u64::from(value) })
            }
        }
    }
}

fn codes(kinds: &[u8], count: usize) -> impl Iterator<Item = u8> + use<'_> {
    let all =
        kinds.iter().flat_map(|byte| (0..KINDS_PER_BYTE).map(move |slot| byte >> (2 * slot) & 3));
    all.take(count)
}

/// What the source says on each bulk channel when all pages of a round have been sent there.
#[must_use]
pub fn encode_round_end(round: u32) -> Vec<u8> {
    framed(ROUND_END, |out| out.extend_from_slice(&round.to_le_bytes()))
}

/// What the destination says on a bulk channel: so many bytes of frames have been dealt with.
#[must_use]
pub fn encode_credit(bytes: u64) -> Vec<u8> {
    framed(CREDIT, |out| out.extend_from_slice(&bytes.to_le_bytes()))
}

/// Bytes given back, from its frame.
///
/// # Errors
/// Another kind of frame, or of another length.
pub fn decode_credit(kind: u8, body: &[u8]) -> Result<u64, WireError> {
    if kind != CREDIT {
        let field = "kind of a frame on the bulk channel";
        return Err(WireError::Value { field, value: u64::from(kind) });
    }
    let mut fields = BodyReader::new(kind, body);
    let bytes = fields.u64()?;
    fields.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 64;

    fn frame(start: u64, kinds: &[PageKind]) -> Vec<u8> {
        let mut builder = PagesBuilder::new(start, Cause::Demand, PAGE);
        kinds.iter().for_each(|kind| builder.push(*kind));
        let mut frame = builder.head();
        for (at, kind) in kinds.iter().enumerate() {
            if matches!(kind, PageKind::Content(_)) {
                frame.extend_from_slice(&[at as u8; PAGE]);
            }
        }
        frame
    }

    fn decode(frame: &[u8]) -> Result<PagesFrame<'_>, WireError> {
        PagesFrame::decode(frame[0], &frame[FRAME_HEAD_BYTES..], PAGE)
    }

    fn kind() -> impl Strategy<Value = PageKind> {
        prop_oneof![
            any::<u64>().prop_map(PageKind::Content),
            any::<u8>().prop_map(PageKind::Fill),
            Just(PageKind::Unreadable),
        ]
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let kinds = [PageKind::Fill(0), PageKind::Content(0x0807_0605), PageKind::Fill(9)];
        let frame = frame(0x10, &[&kinds[..], &[PageKind::Unreadable; 2]].concat());
        let mut golden = vec![1, 0, 0, 0, 16 + 2 + 1 + 8 + 64, 0, 0, 0];
        golden.extend_from_slice(&[0x10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 1, 0, 1, 0]);
        golden.extend_from_slice(&[0b11_10_00_01, 0b11, 9, 5, 6, 7, 8, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1; PAGE]);
        assert_eq!(frame, golden);
        let run = RunFrame { start: 2, count: 3, byte: 4, cause: Cause::Background };
        let golden =
            [2, 0, 0, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 3];
        assert_eq!(run.encode(), golden);
        assert_eq!(decode(&golden), Ok(PagesFrame::Run(run)));
        assert_eq!(encode_round_end(7), [3, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(decode(&encode_round_end(7)), Ok(PagesFrame::RoundEnd(7)));
        assert_eq!(encode_credit(1), [1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_credit(1, &encode_credit(77)[8..]), Ok(77));
    }

    #[test]
    fn digest_and_hash_stand_for_page_and_place() {
        // From the reference implementation.
        assert_eq!(page_hash(1, b"umem"), 0x0b69_a7d9_bfcf_d06d);
        assert_eq!(page_hash(7, &[0; 4096]), 0x73ca_3cc0_d1a2_e107);
        assert_ne!(page_hash(1, b"umem"), page_hash(2, b"umem"));
        let kinds =
            [PageKind::Content(0), PageKind::Fill(0), PageKind::Fill(1), PageKind::Unreadable];
        let mut terms: Vec<_> =
            (0..100).flat_map(|page| kinds.map(|kind| digest_term(page, kind))).collect();
        terms.sort_unstable();
        terms.dedup();
        assert_eq!(terms.len(), 400);
    }

    #[test]
    fn a_zero_page_costs_two_bits() {
        let zeros = frame(0, &[PageKind::Fill(0); MAX_CHUNK_PAGES]);
        assert_eq!(zeros.len(), FRAME_HEAD_BYTES + FIXED_BYTES + MAX_CHUNK_PAGES / 4);
    }

    proptest! {
        #[test]
        fn frames_come_back(start in any::<u64>(), kinds in prop::collection::vec(kind(), 1..=256)) {
            let bytes = frame(start, &kinds);
            let PagesFrame::Pages(head) = decode(&bytes).unwrap() else { panic!() };
            let pages: Vec<_> = head.pages().collect();
            prop_assert_eq!(pages.len(), kinds.len());
            for (at, (page, kind, content)) in pages.into_iter().enumerate() {
                prop_assert_eq!((page, kind), (start.wrapping_add(at as u64), kinds[at]));
                let expected = vec![at as u8; if matches!(kind, PageKind::Content(_)) { PAGE } else { 0 }];
                prop_assert_eq!(content, &expected[..]);
            }
        }

        #[test]
        fn a_torn_frame_is_refused(kinds in prop::collection::vec(kind(), 1..40), cut in 1usize..90) {
            let bytes = frame(3, &kinds);
            prop_assume!(cut <= bytes.len() - FRAME_HEAD_BYTES);
            prop_assert!(decode(&bytes[..bytes.len() - cut]).is_err());
        }

        #[test]
        fn no_bytes_panic(kind in 0u8..4, body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(PagesFrame::Pages(head)) = PagesFrame::decode(kind, &body, PAGE) {
                prop_assert_eq!(head.pages().count() as u64, head.count());
            }
            let _ = decode_credit(kind, &body);
        }
    }
}
