//! Reading a frame's body without believing it.

use crate::WireError;

/// Takes fields from a body, from its start to exactly its end.
pub(crate) struct BodyReader<'a> {
    kind: u8,
    bytes: usize,
    rest: &'a [u8],
}

impl<'a> BodyReader<'a> {
    pub(crate) fn new(kind: u8, body: &'a [u8]) -> Self {
        Self { kind, bytes: body.len(), rest: body }
    }

    /// Bytes of the whole body.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn length_error(&self) -> WireError {
        WireError::Length { kind: self.kind, bytes: self.bytes }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length_error())?;
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn slice(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (field, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.length_error())?;
        self.rest = rest;
        Ok(field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text with its length in two bytes; what is no UTF-8 is replaced, for it is only shown.
    pub(crate) fn text(&mut self) -> Result<String, WireError> {
        let bytes = usize::from(self.u16()?);
        Ok(String::from_utf8_lossy(self.slice(bytes)?).into_owned())
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Whether all has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The body must be used up.
    pub(crate) fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length_error()) }
    }
}

/// Appends a text with its length, cut at 1 KiB on a character's boundary.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    const LONGEST: usize = 1024;
    let end = text.floor_char_boundary(LONGEST);
    let text = text.get(..end).unwrap_or_default();
    // At most LONGEST, which fits.
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
