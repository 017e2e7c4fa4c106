//! Requests for pages: what the destination sends on the demand channel.

use crate::WireError;
use crate::frame::framed;
use crate::reader::BodyReader;

/// Most pages in one request.
pub const MAX_REQUEST_PAGES: usize = 512;

/// Kind of the only frame in this direction.
const REQUEST: u8 = 1;

/// A request for pages, in the order in which they are wanted. At most [`MAX_REQUEST_PAGES`] are taken.
#[must_use]
pub fn encode_request(pages: &[u64]) -> Vec<u8> {
    framed(REQUEST, |out| {
        for page in pages.iter().take(MAX_REQUEST_PAGES) {
            out.extend_from_slice(&page.to_le_bytes());
        }
    })
}

/// The pages of a request.
///
/// # Errors
/// Another kind of frame, or a body that is no list of 1 to [`MAX_REQUEST_PAGES`] pages.
pub fn decode_request(kind: u8, body: &[u8]) -> Result<Vec<u64>, WireError> {
    if kind != REQUEST {
        return Err(WireError::Value {
            field: "kind of a frame on the demand channel",
            value: u64::from(kind),
        });
    }
    let count = body.len() / 8;
    if count == 0 || count > MAX_REQUEST_PAGES {
        return Err(WireError::Length { kind, bytes: body.len() });
    }
    let mut fields = BodyReader::new(kind, body);
    let pages = (0..count).map(|_| fields.u64()).collect::<Result<_, _>>()?;
    fields.finish()?;
    Ok(pages)
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
    }

    #[test]
    fn empty_and_torn_requests_are_refused() {
        for body in [&[][..], &[0; 7], &[0; 9], &[0; 8 * 513]] {
            assert!(matches!(decode_request(1, body), Err(WireError::Length { .. })));
        }
        assert!(decode_request(2, &[0; 8]).is_err());
    }

    proptest! {
        #[test]
        fn requests_come_back(pages in prop::collection::vec(any::<u64>(), 1..MAX_REQUEST_PAGES)) {
            let frame = encode_request(&pages);
            prop_assert_eq!(decode_request(frame[0], &frame[FRAME_HEAD_BYTES..]).unwrap(), pages);
        }
    }
}
