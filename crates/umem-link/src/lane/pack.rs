//! Frames of pages on their way out: plain, or packed where that is worth it.

use crate::channel::write_all_vectored;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umem_migrate::Packing;
use umem_wire::{Codec, Packer, PagesBuilder};

/// What went packed, over all lanes of one end; and what a lane may know of the others.
#[derive(Debug, Default)]
pub(crate) struct PackCounts {
    /// Bytes of content that went packed.
    pub(crate) content: AtomicU64,
    /// Bytes that they were packed to.
    pub(crate) packed: AtomicU64,
    /// Pages that went as their difference.
    pub(crate) differences: AtomicU64,
    /// The number of the codec that was used last; 0 while none is in use.
    current: AtomicU8,
    /// The same for pages that somebody waits for.
    for_waiting: AtomicU8,
}

impl PackCounts {
    /// A frame's content was packed.
    pub(crate) fn count(&self, content: usize, packed: usize, differences: usize) {
        self.content.fetch_add(content as u64, Ordering::Relaxed);
        self.packed.fetch_add(packed as u64, Ordering::Relaxed);
        self.differences.fetch_add(differences as u64, Ordering::Relaxed);
    }

    /// What the newest frame was packed with; nothing if it was not.
    pub(crate) fn set_current(&self, codec: Option<Codec>) {
        self.current.store(number(codec), Ordering::Relaxed);
    }

    pub(crate) fn current(&self) -> Option<Codec> {
        codec(self.current.load(Ordering::Relaxed))
    }

    /// How a page goes that somebody waits for, as the bulk lanes have found the link.
    pub(crate) fn for_waiting(&self) -> Option<Codec> {
        codec(self.for_waiting.load(Ordering::Relaxed))
    }
}

fn number(codec: Option<Codec>) -> u8 {
    codec.map_or(0, |codec| codec as u8)
}

fn codec(number: u8) -> Option<Codec> {
    Codec::ALL.into_iter().find(|codec| *codec as u8 == number)
}

/// What comes behind a frame's head.
enum Body<'a> {
    Plain(Vec<&'a [u8]>),
    Packed(Range<usize>),
}

/// A frame that is to go.
pub(crate) struct Outgoing<'a> {
    head: Vec<u8>,
    body: Body<'a>,
    /// Bytes that it would have had as a plain one.
    plain: usize,
}

impl<'a> Outgoing<'a> {
    /// A frame with these pages behind its head.
    pub(crate) fn plain(frame: &PagesBuilder, contents: Vec<&'a [u8]>) -> Self {
        let head = frame.head();
        let plain = head.len() + contents.iter().map(|content| content.len()).sum::<usize>();
        Self { head, body: Body::Plain(contents), plain }
    }

    /// Its bytes on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        let behind = match &self.body {
            Body::Plain(_) => return self.plain as u64,
            Body::Packed(range) => range.len(),
        };
        (self.head.len() + behind) as u64
    }

    /// Bytes that it would have had as a plain one.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.plain as u64
    }
}

/// For the number of a page among a frame's contents, and its content: appends its difference from the
/// copy that the peer has; whether there is one that is worth it.
pub(crate) type Difference<'a> = dyn Fn(usize, &[u8], &mut Vec<u8>) -> bool + 'a;

/// A lane's packer and its memory, which is used again for each chunk.
#[derive(Default)]
pub(crate) struct ChunkPacker {
    packer: Packer,
    content: Vec<u8>,
    differences: Vec<bool>,
}

impl ChunkPacker {
    /// Another chunk begins: what was packed has gone.
    pub(crate) fn clear(&mut self) {
        self.packer.clear();
    }

    /// Packs a frame, if that saves enough; `all`: also one without any difference.
    pub(crate) fn pack<'a>(
        &mut self,
        codec: Codec,
        frame: &PagesBuilder,
        contents: Vec<&'a [u8]>,
        all: bool,
        difference: &Difference<'_>,
        counts: &PackCounts,
    ) -> Outgoing<'a> {
        if contents.is_empty() {
            return Outgoing::plain(frame, contents);
        }
        self.content.clear();
        self.differences.clear();
        for (at, content) in contents.iter().enumerate() {
            let is_difference = difference(at, content, &mut self.content);
            if !is_difference {
                self.content.extend_from_slice(content);
            }
            self.differences.push(is_difference);
        }
        let differ = self.differences.iter().filter(|is| **is).count();
        if differ == 0 && !all {
            return Outgoing::plain(frame, contents);
        }
        let Some(range) = self.packer.pack(codec, &self.content) else {
            return Outgoing::plain(frame, contents);
        };
        let differences = if differ > 0 { &self.differences[..] } else { &[] };
        counts.count(self.content.len(), range.len(), differ);
        let head = frame.packed_head(codec, differences, range.len());
        let plain = head.len() + self.content.len();
        Outgoing { head, body: Body::Packed(range), plain }
    }

    /// Writes frames, in as few system calls as can be.
    pub(crate) fn write(&self, writer: &mut dyn Write, frames: &[Outgoing<'_>]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        for frame in frames {
            slices.push(IoSlice::new(&frame.head));
            match &frame.body {
                Body::Plain(contents) => {
                    slices.extend(contents.iter().map(|content| IoSlice::new(content)));
                }
                Body::Packed(range) => {
                    slices.push(IoSlice::new(self.packer.packed(range.clone())));
                }
            }
        }
        write_all_vectored(writer, &mut slices)
    }
}

/// Packing on one bulk lane: what is decided, and what it is decided from.
pub(crate) struct BulkPacker {
    pub(crate) chunk: ChunkPacker,
    pub(crate) packing: Packing,
    pub(crate) counts: Arc<PackCounts>,
}

impl BulkPacker {
    pub(crate) fn new(packing: Packing, counts: Arc<PackCounts>) -> Self {
        Self { chunk: ChunkPacker::default(), packing, counts }
    }

    /// How the chunk goes that begins here.
    pub(crate) fn next_chunk(&mut self) -> Option<Codec> {
        self.chunk.clear();
        self.packing.next_chunk()
    }

    /// A chunk's frames are ready, all packed, or meant to be, in this time.
    pub(crate) fn packed(&mut self, codec: Codec, frames: &[Outgoing<'_>], took: Duration) {
        let has_content = |frame: &&Outgoing<'_>| match &frame.body {
            Body::Plain(contents) => !contents.is_empty(),
            Body::Packed(_) => true,
        };
        // Pages of one byte say nothing of the packer.
        let frames = frames.iter().filter(has_content);
        let plain: u64 = frames.clone().map(Outgoing::plain_bytes).sum();
        if plain > 0 {
            self.packing.packed(codec, plain, frames.map(Outgoing::bytes).sum(), took);
        }
    }

    /// Bytes have gone, in the time since `started`.
    pub(crate) fn sent(&mut self, bytes: u64, started: Instant) {
        self.packing.sent(bytes, started.elapsed());
        self.counts.set_current(self.packing.current());
        self.counts.for_waiting.store(number(self.packing.for_waiting()), Ordering::Relaxed);
    }
}
