//! The file's first 4096 bytes, and where everything lies.

use crate::error::{Part, SnapshotError};
use std::path::Path;
use twox_hash::XxHash3_128;
use umem_memory::{PageIndex, PageSize};
use umem_wire::{MAX_STATE_BYTES, MachineDescription};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Version of the format.
pub(crate) const VERSION: u32 = 1;
/// Longest description of a machine.
pub(crate) const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;

const MAGIC: [u8; 8] = *b"umem\r\n\x1a\x03";
/// The checksum stands at the header's end and covers all before it.
const HASHED_BYTES: usize = HEADER_BYTES - 16;

/// A part behind the pages: its length and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) bytes: u64,
    pub(crate) hash: u128,
}

impl Section {
    pub(crate) fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, hash: XxHash3_128::oneshot(content) }
    }
}

/// Where pages lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) page: PageSize,
    pub(crate) pages: u64,
    /// First byte behind the pages' places.
    pub(crate) end: u64,
}

impl Geometry {
    /// `None` when the file would be longer than a file can be.
    pub(crate) fn new(page: PageSize, pages: u64) -> Option<Self> {
        let bytes = pages.checked_mul(page.bytes())?;
        let end = Self::first_offset(page).checked_add(bytes)?;
        i64::try_from(end).ok()?;
        Some(Self { page, pages, end })
    }

    fn first_offset(page: PageSize) -> u64 {
        page.bytes().max(HEADER_BYTES as u64)
    }

    /// The place of a page that exists.
    pub(crate) fn offset(&self, page: PageIndex) -> u64 {
        Self::first_offset(self.page) + (page.0 << self.page.shift())
    }

    /// RAM in bytes.
    pub(crate) fn ram_bytes(&self) -> u64 {
        self.pages << self.page.shift()
    }

    /// Most bytes that an index of so many pages has.
    pub(crate) fn most_index_bytes(&self) -> u64 {
        self.pages.div_ceil(4).saturating_add(self.pages.saturating_mul(8))
    }
}

/// A machine from its description, which has as much memory as the pages.
pub(crate) fn machine(
    path: &Path,
    geometry: Geometry,
    description: &[u8],
) -> Result<MachineDescription, SnapshotError> {
    let wrong = |what, value| SnapshotError::Nonsense {
        path: path.into(),
        part: Part::Description,
        what,
        value,
    };
    let machine = MachineDescription::decode(description)
        .map_err(|error| wrong("the machine cannot be read", error.to_string()))?;
    let page_bytes = u64::from(machine.page_bytes);
    if page_bytes != geometry.page.bytes() {
        return Err(wrong("the size of a page is another", page_bytes.to_string()));
    }
    if machine.ram_bytes() != geometry.ram_bytes() {
        return Err(wrong("memory is of another size", machine.ram_bytes().to_string()));
    }
    Ok(machine)
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) geometry: Geometry,
    pub(crate) description: Section,
    pub(crate) index: Section,
    pub(crate) state: Section,
}

impl Header {
    /// The parts behind the pages, each with its offset: they follow one another without a gap.
    pub(crate) fn sections(&self) -> [(Part, u64, Section); 3] {
        let index = self.geometry.end.saturating_add(self.description.bytes);
        let state = index.saturating_add(self.index.bytes);
        [
            (Part::Description, self.geometry.end, self.description),
            (Part::Index, index, self.index),
            (Part::State, state, self.state),
        ]
    }

    /// Length of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        let [.., (_, offset, state)] = self.sections();
        offset.saturating_add(state.bytes)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.geometry.page.bytes().to_le_bytes());
        out.extend_from_slice(&self.geometry.pages.to_le_bytes());
        for (_, _, section) in self.sections() {
            out.extend_from_slice(&section.bytes.to_le_bytes());
            out.extend_from_slice(&section.hash.to_le_bytes());
        }
        out.resize(HASHED_BYTES, 0);
        let hash = XxHash3_128::oneshot(&out);
        out.extend_from_slice(&hash.to_le_bytes());
        out
    }

    /// A header that fits together and is within the limits of the format.
    pub(crate) fn decode(path: &Path, bytes: &[u8; HEADER_BYTES]) -> Result<Self, SnapshotError> {
        let mut fields = Fields { rest: bytes };
        let first = fields.take::<8>();
        if first != MAGIC {
            return Err(SnapshotError::Magic { path: path.into(), first });
        }
        let version = u32::from_le_bytes(fields.take());
        if version != VERSION {
            return Err(SnapshotError::Version { path: path.into(), version, known: VERSION });
        }
        check_hash(path, bytes)?;
        let nonsense = |what, value: u64| SnapshotError::Nonsense {
            path: path.into(),
            part: Part::Header,
            what,
            value: value.to_string(),
        };
        let reserved = u32::from_le_bytes(fields.take());
        if reserved != 0 {
            return Err(nonsense("reserved bytes are not zero", u64::from(reserved)));
        }
        let (page_bytes, pages) = (fields.u64(), fields.u64());
        let page = PageSize::from_bytes(page_bytes)
            .ok_or_else(|| nonsense("the size of a page is no power of two", page_bytes))?;
        let geometry = Geometry::new(page, pages)
            .filter(|_| pages > 0)
            .ok_or_else(|| nonsense("there cannot be so many pages", pages))?;
        let [description, index, state] = [(); 3].map(|()| fields.section());
        let limits = [
            (Part::Description, description, MAX_DESCRIPTION_BYTES),
            (Part::Index, index, geometry.most_index_bytes()),
            (Part::State, state, MAX_STATE_BYTES),
        ];
        for (part, Section { bytes, .. }, limit) in limits {
            if bytes > limit {
                return Err(SnapshotError::TooLarge { path: path.into(), part, bytes, limit });
            }
        }
        Ok(Self { geometry, description, index, state })
    }
}

fn check_hash(path: &Path, bytes: &[u8; HEADER_BYTES]) -> Result<(), SnapshotError> {
    let (hashed, hash) = bytes.split_at(HASHED_BYTES);
    let expected = hash.first_chunk().map_or(0, |hash| u128::from_le_bytes(*hash));
    let got = XxHash3_128::oneshot(hashed);
    if got == expected {
        return Ok(());
    }
    let (part, offset, bytes) = (Part::Header, 0, HEADER_BYTES as u64);
    Err(SnapshotError::Altered { path: path.into(), part, offset, bytes, got, expected })
}

/// Takes fields from the header, which has room for all of them.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn section(&mut self) -> Section {
        Section { bytes: self.u64(), hash: u128::from_le_bytes(self.take()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let geometry = Geometry::new(PageSize::SMALL, 5).unwrap();
        let section = |bytes, hash| Section { bytes, hash };
        let [description, index, state] = [section(7, 1), section(8, 2), section(9, 3)];
        Header { geometry, description, index, state }
    }

    fn decode(bytes: &[u8]) -> Result<Header, SnapshotError> {
        Header::decode(Path::new("x"), bytes.try_into().unwrap())
    }

    /// A header with another value in it and a checksum that fits.
    fn forged(at: usize, value: u64) -> Vec<u8> {
        let mut bytes = header().encode();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes.truncate(HASHED_BYTES);
        let hash = XxHash3_128::oneshot(&bytes);
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = header().encode();
        let mut golden = b"umem\r\n\x1a\x03\x01\0\0\0\0\0\0\0".to_vec();
        for field in [4096u64, 5, 7, 1, 0, 8, 2, 0, 9, 3, 0] {
            golden.extend_from_slice(&field.to_le_bytes());
        }
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[..golden.len()], golden);
        assert!(bytes[golden.len()..4080].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[4080..], XxHash3_128::oneshot(&bytes[..4080]).to_le_bytes());
        assert_eq!(decode(&bytes).unwrap(), header());
        let places = header().sections().map(|(_, offset, _)| offset);
        assert_eq!(places, [6 * 4096, 6 * 4096 + 7, 6 * 4096 + 15]);
        assert_eq!(header().file_bytes(), 6 * 4096 + 24);
    }

    #[test]
    fn pages_larger_than_the_header_are_aligned_to_their_size() {
        let geometry = Geometry::new(PageSize::HUGE_2M, 3).unwrap();
        assert_eq!(geometry.offset(PageIndex(1)), 2 * PageSize::HUGE_2M.bytes());
        assert_eq!(Geometry::new(PageSize::HUGE_1G, 1 << 33), None);
    }

    #[test]
    fn values_beyond_the_format_s_limits_are_refused_even_under_a_right_checksum() {
        for (at, value) in [
            (12, 1),
            (16, 0),
            (16, 4097),
            (16, 1 << 63),
            (24, 0),
            (24, u64::MAX),
            (24, 1 << 51),
            (32, MAX_DESCRIPTION_BYTES + 1),
            (56, 2 + 5 * 8 + 1),
            (56, u64::MAX),
            (80, MAX_STATE_BYTES + 1),
        ] {
            let error = decode(&forged(at, value)).unwrap_err();
            assert!(
                matches!(error, SnapshotError::Nonsense { .. } | SnapshotError::TooLarge { .. }),
                "{at}: {error}"
            );
        }
        assert!(matches!(decode(&forged(8, 2)), Err(SnapshotError::Version { version: 2, .. })));
        assert!(matches!(decode(&[0; 4096]), Err(SnapshotError::Magic { .. })));
    }
}
