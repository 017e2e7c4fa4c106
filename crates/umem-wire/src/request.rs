//! Requests for pages: what the destination sends on the demand channel.

use crate::WireError;
use crate::frame::framed;
use crate::reader::BodyReader;

/// Most pages in one request.
pub const MAX_REQUEST_PAGES: usize = 512;

/// Most runs in one removal.
pub const MAX_REMOVE_RUNS: usize = 256;

/// Kinds of frames in this direction.
const REQUEST: u8 = 1;
const REMOVE: u8 = 2;

/// A request for pages, in the order in which they are wanted. At most [`MAX_REQUEST_PAGES`] are taken.
#[must_use]
pub fn encode_request(pages: &[u64]) -> Vec<u8> {
    framed(REQUEST, |out| {
        for page in pages.iter().take(MAX_REQUEST_PAGES) {
            out.extend_from_slice(&page.to_le_bytes());
        }
    })
}

/// Pages whose content does not matter any more, as runs by their first page and number. At most
/// [`MAX_REMOVE_RUNS`] are taken.
#[must_use]
pub fn encode_remove(runs: &[(u64, u64)]) -> Vec<u8> {
    framed(REMOVE, |out| {
        for (start, count) in runs.iter().take(MAX_REMOVE_RUNS) {
            out.extend_from_slice(&start.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
    })
}

/// What the destination asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DemandFrame {
    /// These pages, in the order in which they are wanted.
    Request(Vec<u64>),
    /// Nothing of these runs, by their first page and number: the guest has given them back.
    Remove(Vec<(u64, u64)>),
}

impl DemandFrame {
    /// A frame's content.
    ///
    /// # Errors
    /// Another kind of frame, or a body that is no list of as many entries as there may be.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let (entry, most) = match kind {
            REQUEST => (8, MAX_REQUEST_PAGES),
            REMOVE => (16, MAX_REMOVE_RUNS),
            _ => {
                let field = "kind of a frame on the demand channel";
                return Err(WireError::Value { field, value: u64::from(kind) });
            }
        };
        let count = body.len() / entry;
        if count == 0 || count > most {
            return Err(WireError::Length { kind, bytes: body.len() });
        }
        let mut fields = BodyReader::new(kind, body);
        let frame = if kind == REQUEST {
            Self::Request((0..count).map(|_| fields.u64()).collect::<Result<_, _>>()?)
        } else {
            let run = |_| Ok::<_, WireError>((fields.u64()?, fields.u64()?));
            Self::Remove((0..count).map(run).collect::<Result<_, _>>()?)
        };
        fields.finish()?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FRAME_HEAD_BYTES;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_as_documented() {
        let golden = [1, 0, 0, 0, 16, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode_request(&[5, 256]), golden);
        let golden = [2, 0, 0, 0, 16, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode_remove(&[(5, 256)]), golden);
    }

    #[test]
    fn empty_and_torn_requests_are_refused() {
        let length = |kind, body: &[u8]| {
            matches!(DemandFrame::decode(kind, body), Err(WireError::Length { .. }))
        };
        for body in [&[][..], &[0; 7], &[0; 9], &[0; 8 * 513]] {
            assert!(length(1, body), "{}", body.len());
        }
        for body in [&[][..], &[0; 8], &[0; 24], &[0; 16 * 257]] {
            assert!(length(2, body), "{}", body.len());
        }
        assert!(DemandFrame::decode(3, &[0; 8]).is_err());
    }

    proptest! {
        #[test]
        fn requests_come_back(pages in prop::collection::vec(any::<u64>(), 1..MAX_REQUEST_PAGES)) {
            let frame = encode_request(&pages);
            let decoded = DemandFrame::decode(frame[0], &frame[FRAME_HEAD_BYTES..]).unwrap();
            prop_assert_eq!(decoded, DemandFrame::Request(pages));
        }

        #[test]
        fn removals_come_back(
            runs in prop::collection::vec(any::<(u64, u64)>(), 1..MAX_REMOVE_RUNS),
        ) {
            let frame = encode_remove(&runs);
            let decoded = DemandFrame::decode(frame[0], &frame[FRAME_HEAD_BYTES..]).unwrap();
            prop_assert_eq!(decoded, DemandFrame::Remove(runs));
        }

        #[test]
        fn no_bytes_are_too_strange(kind in 0u8..4, body in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = DemandFrame::decode(kind, &body);
        }
    }
}
