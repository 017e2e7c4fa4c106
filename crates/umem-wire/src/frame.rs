//! The head that every frame begins with.

use crate::WireError;

/// Bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 8;

/// Longest body of a frame on the control channel and of a request.
pub const MAX_CONTROL_BODY: usize = 64 * 1024;

/// A frame's head: `kind` (1 byte), three zero bytes, length of the body (4 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Kind, from the channel's own list.
    pub kind: u8,
    /// Bytes that follow.
    pub body_bytes: u32,
}

impl FrameHead {
    /// The head on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; FRAME_HEAD_BYTES] {
        let [a, b, c, d] = self.body_bytes.to_le_bytes();
        [self.kind, 0, 0, 0, a, b, c, d]
    }

    /// A head from the wire, for a channel whose bodies have at most `limit` bytes.
    ///
    /// # Errors
    /// Reserved bytes that are not zero, or a body that is too long.
    pub fn decode(bytes: [u8; FRAME_HEAD_BYTES], limit: usize) -> Result<Self, WireError> {
        let [kind, x, y, z, a, b, c, d] = bytes;
        let body_bytes = u32::from_le_bytes([a, b, c, d]);
        if [x, y, z] != [0; 3] {
            let value = u64::from(u32::from_le_bytes([x, y, z, 0]));
            return Err(WireError::Value { field: "reserved part of a frame's head", value });
        }
        if body_bytes as usize > limit {
            let (bytes, limit) = (u64::from(body_bytes), limit as u64);
            return Err(WireError::TooLong { kind, bytes, limit });
        }
        Ok(Self { kind, body_bytes })
    }

    /// Bytes that follow, as a length in memory.
    #[must_use]
    pub fn body_len(self) -> usize {
        self.body_bytes as usize
    }
}

/// A whole frame: a head that fits the body, and the body.
pub(crate) fn framed(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; FRAME_HEAD_BYTES];
    body(&mut out);
    // Bodies are bounded far below 4 GiB by their builders.
    let body_bytes = (out.len() - FRAME_HEAD_BYTES) as u32;
    for (to, from) in out.iter_mut().zip(FrameHead { kind, body_bytes }.encode()) {
        *to = from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_documented_bytes_and_bounds() {
        let head = FrameHead { kind: 5, body_bytes: 0x0102 };
        assert_eq!(head.encode(), [5, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(FrameHead::decode(head.encode(), 0x102), Ok(head));
        assert!(matches!(
            FrameHead::decode(head.encode(), 0x101),
            Err(WireError::TooLong { kind: 5, bytes: 0x102, limit: 0x101 })
        ));
        assert!(FrameHead::decode([5, 0, 1, 0, 0, 0, 0, 0], 9).is_err());
    }
}
