//! The body of a section: one CBOR item (RFC 8949), in the subset that we write.

use crate::StateError;
use serde::{Serialize, de::DeserializeOwned};

/// Deepest nesting of a saved form. Ours have a handful of levels.
const MAX_DEPTH: u32 = 16;

/// Encodes a saved form.
///
/// # Errors
/// When the saved type itself cannot be serialised; none of ours is such.
pub fn encode_body<T: Serialize>(what: &str, saved: &T) -> Result<Vec<u8>, StateError> {
    let mut body = Vec::new();
    ciborium::into_writer(saved, &mut body)
        .map_err(|error| StateError::malformed(what, format!("cannot be encoded: {error}")))?;
    Ok(body)
}

/// Decodes a saved form. The bytes are walked first, so that no length in them is believed before
/// that many bytes are known to be there.
///
/// # Errors
/// When the bytes are not one CBOR item of that type.
pub fn decode_body<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, StateError> {
    let mut walker = Walker { rest: body };
    walker.item(MAX_DEPTH).map_err(|reason| {
        let at = body.len() - walker.rest.len();
        StateError::malformed(what, format!("{reason} at byte {at} of {}", body.len()))
    })?;
    if !walker.rest.is_empty() {
        let reason = format!("{} bytes are left over of {}", walker.rest.len(), body.len());
        return Err(StateError::malformed(what, reason));
    }
    ciborium::de::from_reader_with_recursion_limit(body, MAX_DEPTH as usize)
        .map_err(|error| StateError::malformed(what, error.to_string()))
}

/// Walks over CBOR items without keeping anything of them.
struct Walker<'a> {
    rest: &'a [u8],
}

impl Walker<'_> {
    fn take(&mut self, count: u64) -> Result<(), &'static str> {
        let count = usize::try_from(count).map_err(|_| "length beyond the end")?;
        self.rest = self.rest.get(count..).ok_or("length beyond the end")?;
        Ok(())
    }

    /// Reads an item's head: major type and argument (RFC 8949, section 3).
    fn head(&mut self) -> Result<(u8, u64), &'static str> {
        let (&first, rest) = self.rest.split_first().ok_or("an item is missing")?;
        let width = match first & 0x1f {
            small @ 0..=23 => {
                self.rest = rest;
                return Ok((first >> 5, u64::from(small)));
            }
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            // Indefinite lengths are never written by us.
            _ => return Err("length of unknown form"),
        };
        let bytes = rest.get(..width).ok_or("an item is cut off")?;
        let argument = bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        self.take(1 + width as u64)?;
        Ok((first >> 5, argument))
    }

    fn item(&mut self, depth: u32) -> Result<(), &'static str> {
        let deeper = depth.checked_sub(1).ok_or("nested too deeply")?;
        let (major, argument) = self.head()?;
        let items = match major {
            2 | 3 => return self.take(argument),
            4 => argument,
            5 => argument.checked_mul(2).ok_or("length beyond the end")?,
            6 => 1,
            _ => return Ok(()),
        };
        // Every item takes a byte at least.
        if items > self.rest.len() as u64 {
            return Err("length beyond the end");
        }
        (0..items).try_for_each(|_| self.item(deeper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form {
        numbers: Vec<u64>,
        #[serde(with = "crate::bytes")]
        text: Vec<u8>,
        inner: Option<(i32, bool, String)>,
    }

    fn form() -> Form {
        let inner = Some((-5, true, "x".to_owned()));
        Form { numbers: vec![0, 23, 24, 256, 1 << 16, u64::MAX], text: vec![1, 2, 3], inner }
    }

    #[test]
    fn a_form_comes_back() {
        let body = encode_body("form", &form()).unwrap();
        assert_eq!(decode_body::<Form>("form", &body).unwrap(), form());
    }

    #[test]
    fn every_cut_and_anything_after_the_end_is_an_error() {
        let body = encode_body("form", &form()).unwrap();
        for length in 0..body.len() {
            assert!(decode_body::<Form>("form", &body[..length]).is_err(), "{length}");
        }
        let mut longer = body;
        longer.push(0);
        assert!(decode_body::<Form>("form", &longer).is_err());
    }

    #[test]
    fn a_length_that_is_not_there_is_refused_before_anything_is_decoded() {
        // An array of 2^60 items; a byte string of 2^32 bytes.
        for body in [[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0], [0x5b, 0, 0, 0, 1, 0, 0, 0, 0]] {
            let error = decode_body::<Vec<u64>>("form", &body).unwrap_err();
            assert!(error.to_string().contains("beyond the end"), "{error}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let body = vec![0x81; 100_000];
        let error = decode_body::<Vec<u64>>("form", &body).unwrap_err();
        assert!(error.to_string().contains("nested too deeply"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        #[derive(Serialize)]
        struct Newer {
            numbers: Vec<u64>,
            text: u8,
            inner: Option<u8>,
            more: u8,
        }
        let newer = Newer { numbers: Vec::new(), text: 0, inner: None, more: 1 };
        let body = encode_body("form", &newer).unwrap();
        assert!(decode_body::<Form>("form", &body).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_body::<Form>("form", &body);
        }

        #[test]
        fn damaged_bodies_never_panic(at in 0..70usize, byte in any::<u8>()) {
            let mut body = encode_body("form", &form()).unwrap();
            let at = at % body.len();
            body[at] = byte;
            let _ = decode_body::<Form>("form", &body);
        }
    }
}
