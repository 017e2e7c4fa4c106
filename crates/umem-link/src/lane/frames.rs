//! Frames from a byte stream, without copying their bodies.

use super::LaneError;
use std::io::{ErrorKind, Read};
use umem_wire::{FRAME_HEAD_BYTES, FrameHead};

/// Bytes asked for when it is not known how long the next frame is.
const READ_AHEAD: usize = 16 * 1024;

/// A frame: its kind, and its body in the reader's buffer.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

impl Frame<'_> {
    /// Its bytes on the wire.
    pub(crate) fn wire_bytes(&self) -> u64 {
        (FRAME_HEAD_BYTES + self.body.len()) as u64
    }
}

/// Reads frames into one buffer, which is used again for each. A body lies where the system wrote it.
pub(crate) struct FrameReader {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
}

impl FrameReader {
    /// Frames whose bodies have at most `limit` bytes.
    pub(crate) fn new(reader: Box<dyn Read + Send>, limit: usize) -> Self {
        let bytes = (FRAME_HEAD_BYTES + limit + FRAME_HEAD_BYTES).max(READ_AHEAD);
        Self { reader, buffer: vec![0; bytes], start: 0, end: 0, limit }
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Result<Frame<'_>, LaneError> {
        while !self.has_whole()? {
            self.read_on()?;
        }
        let there = self.buffer.get(self.start..self.end).unwrap_or_default();
        let (Some(head), limit) = (there.first_chunk(), self.limit) else {
            return Err(LaneError::Torn);
        };
        let head = FrameHead::decode(*head, limit)?;
        let whole = FRAME_HEAD_BYTES + head.body_len();
        let body = there.get(FRAME_HEAD_BYTES..whole).unwrap_or_default();
        self.start += whole;
        Ok(Frame { kind: head.kind, body })
    }

    /// Whether the next frame can be had without reading.
    pub(crate) fn has_whole(&self) -> Result<bool, LaneError> {
        Ok(self.lacking()?.is_none())
    }

    /// Reads once, some of what the next frame lacks; waits until there is something.
    pub(crate) fn read_on(&mut self) -> Result<(), LaneError> {
        match self.lacking()? {
            Some((whole, most)) => self.fill(whole, most),
            None => Ok(()),
        }
    }

    /// Bytes of the next frame as far as is known, and how many to read at most; `None` when it is here.
    fn lacking(&self) -> Result<Option<(usize, usize)>, LaneError> {
        let there = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(head) = there.first_chunk() else {
            return Ok(Some((FRAME_HEAD_BYTES, READ_AHEAD)));
        };
        let whole = FRAME_HEAD_BYTES + FrameHead::decode(*head, self.limit)?.body_len();
        // Not far beyond its end, so that nothing large has to be moved to the front.
        let most = whole.saturating_sub(there.len()) + FRAME_HEAD_BYTES;
        Ok((there.len() < whole).then_some((whole, most)))
    }

    /// Reads at most `most` bytes more, with room for a frame of `whole` bytes at the start.
    fn fill(&mut self, whole: usize, most: usize) -> Result<(), LaneError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + whole.max(READ_AHEAD) > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let to = (self.end + most).min(self.buffer.len());
        let room = self.buffer.get_mut(self.end..to).unwrap_or_default();
        match self.reader.read(room) {
            Ok(0) if self.start == self.end => Err(LaneError::Closed),
            Ok(0) => Err(LaneError::Torn),
            Ok(count) => {
                self.end += count;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Gives its bytes in pieces of the given lengths.
    struct Pieces(Vec<u8>, VecDeque<usize>);

    impl Read for Pieces {
        fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.1.pop_front().unwrap_or(usize::MAX).max(1);
            let count = piece.min(room.len()).min(self.0.len());
            room[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn frames_come_whole_however_the_bytes_come(
            bodies in prop::collection::vec((any::<u8>(), 0usize..40_000), 0..12),
            pieces in prop::collection::vec(1usize..50_000, 0..40),
            torn in 0usize..20,
        ) {
            let mut bytes = Vec::new();
            for (kind, length) in &bodies {
                bytes.extend(FrameHead { kind: *kind, body_bytes: *length as u32 }.encode());
                bytes.extend((0..*length).map(|at| at as u8 ^ kind));
            }
            let torn = torn.min(bodies.last().map_or(0, |(_, length)| length + 7));
            bytes.truncate(bytes.len() - torn);
            let mut reader = FrameReader::new(Box::new(Pieces(bytes, pieces.into())), 40_000);
            for (at, (kind, length)) in bodies.iter().enumerate() {
                if torn > 0 && at + 1 == bodies.len() {
                    prop_assert!(matches!(reader.next(), Err(LaneError::Torn)));
                    return Ok(());
                }
                let frame = reader.next().unwrap();
                prop_assert_eq!((frame.kind, frame.body.len()), (*kind, *length));
                prop_assert!(frame.body.iter().enumerate().all(|(at, byte)| *byte == at as u8 ^ kind));
            }
            prop_assert!(matches!(reader.next(), Err(LaneError::Closed)));
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_at_its_head() {
        let head = FrameHead { kind: 1, body_bytes: 101 }.encode().to_vec();
        let mut reader = FrameReader::new(Box::new(Pieces(head, VecDeque::new())), 100);
        assert!(matches!(reader.next(), Err(LaneError::Wire(WireError::TooLong { .. }))));
    }

    use umem_wire::WireError;
}
