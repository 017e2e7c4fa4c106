//! Frames of pages whose content is packed, and packing and unpacking itself.
//!
//! ```text
//!  PACKED  codec u8 | flags u8 | 0 u16
//!          a PAGES body up to its content pages
//!          with flag 0: 1 bit a content page, set where it is a difference
//!          the content pages, end to end, packed
//! ```
//!
//! Everything that says what pages there are and what they hold is as in PAGES, and is said of the final
//! pages. How many bytes the packed part stands for follows from it: exactly so many are unpacked.

use crate::WireError;
use crate::pages::{Cause, PagesBuilder, PagesHead};
use crate::preface::Features;
use crate::reader::BodyReader;
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use std::ops::Range;
use zstd::bulk::{Compressor, Decompressor};

/// Kind of the frame.
pub(crate) const PACKED: u8 = 4;
/// The flag that says that some pages are differences.
const DIFFERENCES: u8 = 1;
/// Zstandard's fastest level of those with a real entropy stage.
const ZSTD_LEVEL: i32 = 1;
/// What is packed may have this share of what it stands for, per cent; else it is sent as it is.
pub const MOST_PERCENT: usize = 90;

/// How content is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// A block of LZ4 without a frame (the format's `lz4_Block_format.md`).
    Lz4 = 1,
    /// Frames of Zstandard (RFC 8878).
    Zstd = 2,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lz4, Self::Zstd];

    /// The bit that both ends must know.
    #[must_use]
    pub const fn feature(self) -> Features {
        match self {
            Self::Lz4 => Features::LZ4,
            Self::Zstd => Features::ZSTD,
        }
    }

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    fn decode(value: u8) -> Result<Self, WireError> {
        let known = Self::ALL.into_iter().find(|codec| *codec as u8 == value);
        known.ok_or(WireError::Value { field: "codec of packed pages", value: value.into() })
    }
}

impl PagesBuilder {
    /// The frame up to its packed content, which has so many bytes. `differences` has an entry for each
    /// content page, or none at all.
    #[must_use]
    pub fn packed_head(&self, codec: Codec, differences: &[bool], packed_bytes: usize) -> Vec<u8> {
        let mut bits = vec![0_u8; differences.len().div_ceil(8)];
        for (at, _) in differences.iter().enumerate().filter(|(_, is)| **is) {
            if let Some(byte) = bits.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
        let flags = if bits.is_empty() { 0 } else { DIFFERENCES };
        self.frame(PACKED, &[codec as u8, flags, 0, 0], &bits, packed_bytes)
    }
}

/// A decoded PACKED frame. Nothing has been unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedHead<'a> {
    /// How its content is packed.
    pub codec: Codec,
    head: PagesHead<'a>,
    content_bytes: usize,
    differences: &'a [u8],
    packed: &'a [u8],
}

impl<'a> PackedHead<'a> {
    pub(crate) fn decode(
        kind: u8,
        body: &mut BodyReader<'a>,
        page_bytes: usize,
    ) -> Result<Self, WireError> {
        let codec = Codec::decode(body.u8()?)?;
        let flags = body.u8()?;
        if flags & !DIFFERENCES != 0 {
            return Err(WireError::Value { field: "flags of packed pages", value: flags.into() });
        }
        match body.u16()? {
            0 => {}
            value => {
                let field = "reserved part of packed pages";
                return Err(WireError::Value { field, value: value.into() });
            }
        }
        let (head, content) = PagesHead::table(kind, body, page_bytes)?;
        if content == 0 {
            return Err(WireError::Value { field: "number of packed pages", value: 0 });
        }
        let bits = if flags & DIFFERENCES == 0 { 0 } else { content.div_ceil(8) };
        let differences = body.slice(bits)?;
        let beyond = differences.last().map_or(0, |last| match content % 8 {
            0 => 0,
            used => last >> used,
        });
        if beyond != 0 {
            let field = "differences of pages that are not there";
            return Err(WireError::Value { field, value: beyond.into() });
        }
        let content_bytes = content * page_bytes;
        Ok(Self { codec, head, content_bytes, differences, packed: body.rest() })
    }

    /// First page.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.head.start
    }

    /// Number of pages, of any kind.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.head.count()
    }

    /// Why the pages are sent.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.head.cause
    }

    /// Bytes that its content is packed to.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        self.packed.len()
    }

    /// Bytes that its content unpacks to.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Whether some of its pages may be differences.
    #[must_use]
    pub fn has_differences(&self) -> bool {
        !self.differences.is_empty()
    }

    /// The pages with content in their order, and whether what is packed is their difference from the
    /// copy that was placed before.
    pub fn contents(&self) -> impl Iterator<Item = (u64, bool)> + use<'a> {
        let differences = self.differences;
        self.head.content_pages().enumerate().map(move |(at, page)| {
            let byte = differences.get(at / 8).copied().unwrap_or_default();
            (page, byte >> (at % 8) & 1 == 1)
        })
    }

    /// The same pages with their final content, as if they had come so.
    ///
    /// # Errors
    /// When it has another length.
    pub fn with_content(&self, content: &'a [u8]) -> Result<PagesHead<'a>, WireError> {
        if content.len() != self.content_bytes {
            return Err(self.unpack_error());
        }
        Ok(self.head.with(content))
    }

    fn unpack_error(&self) -> WireError {
        WireError::Unpack { packed: self.packed.len(), expected: self.content_bytes }
    }
}

/// Packs content. Its memory is used again.
#[derive(Default)]
pub struct Packer {
    lz4: CompressTable,
    zstd: Option<Compressor<'static>>,
    room: Vec<u8>,
    used: usize,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Packer {
    /// Forgets all that was packed.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Packs behind what was packed since [`Self::clear`]; where it is, or `None` when that saves too
    /// little.
    pub fn pack(&mut self, codec: Codec, content: &[u8]) -> Option<Range<usize>> {
        let most = content.len() * MOST_PERCENT / 100;
        let room = match codec {
            // Its packer wants room for the worst case.
            Codec::Lz4 => get_maximum_output_size(content.len()),
            Codec::Zstd => most,
        };
        let (start, end) = (self.used, self.used + room);
        if self.room.len() < end {
            self.room.resize(end, 0);
        }
        let room = self.room.get_mut(start..end)?;
        let packed = match codec {
            Codec::Lz4 => compress_into_with_table(content, room, &mut self.lz4).ok()?,
            Codec::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Compressor::new(ZSTD_LEVEL).ok();
                }
                self.zstd.as_mut()?.compress_to_buffer(content, room).ok()?
            }
        };
        if packed == 0 || packed > most {
            return None;
        }
        self.used = start + packed;
        Some(start..self.used)
    }

    /// What was packed.
    #[must_use]
    pub fn packed(&self, range: Range<usize>) -> &[u8] {
        self.room.get(range).unwrap_or_default()
    }
}

/// Unpacks content. Its memory is used again, and is never more than one frame's content.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
    room: Vec<u8>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("room", &self.room.len()).finish_non_exhaustive()
    }
}

impl Unpacker {
    /// A frame's content, differences as they are.
    ///
    /// # Errors
    /// When it is not exactly as long as its pages.
    pub fn unpack(&mut self, frame: &PackedHead<'_>) -> Result<&mut [u8], WireError> {
        let bytes = frame.content_bytes;
        if self.room.len() < bytes {
            self.room.resize(bytes, 0);
        }
        let room = self.room.get_mut(..bytes).unwrap_or_default();
        let unpacked = match frame.codec {
            Codec::Lz4 => decompress_into(frame.packed, room).ok(),
            Codec::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Decompressor::new().ok();
                }
                self.zstd
                    .as_mut()
                    .and_then(|zstd| zstd.decompress_to_buffer(frame.packed, room).ok())
            }
        };
        if unpacked == Some(bytes) { Ok(room) } else { Err(frame.unpack_error()) }
    }
}

/// Makes a difference of two contents, or a content of one and a difference: each byte exclusive-or the
/// other's. As many bytes as the shorter has.
pub fn exclusive_or(content: &mut [u8], other: &[u8]) {
    for (byte, other) in content.iter_mut().zip(other) {
        *byte ^= other;
    }
}

#[cfg(test)]
mod tests;
