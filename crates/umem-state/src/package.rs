//! The package: sections with a frame around them.
//!
//! ```text
//! offset  bytes  field (numbers are little-endian)
//!      0      8  magic "UMEMSTAT"
//!      8      4  format version, 1
//!     12      4  number of sections
//!     16         sections, each: name length (2), name, version (4), body length (4), body
//!    end      8  XXH3-64 of all bytes before
//! ```

use crate::{SaveRestore, StateError, encode_body};
use twox_hash::XxHash3_64;

const MAGIC: [u8; 8] = *b"UMEMSTAT";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const DIGEST_BYTES: usize = 8;
/// Name length, a name of one byte, version, body length.
const SMALLEST_SECTION: usize = 2 + 1 + 4 + 4;
/// Most sections in a package.
pub const MAX_SECTIONS: u32 = 4096;
/// Longest name of a section, bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// What messages call the frame around the sections.
const FRAME: &str = "device state package";

/// One component's saved state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The component: lower-case letters, digits, `-`, `.` and `/`.
    pub name: String,
    /// Version of the saved form.
    pub version: u32,
    /// The saved form, CBOR.
    pub body: Vec<u8>,
}

fn good_name(name: &str) -> bool {
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-./".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(good)
}

/// Collects sections and frames them.
#[derive(Debug, Default)]
pub struct PackageBuilder {
    sections: Vec<Section>,
}

impl PackageBuilder {
    /// An empty package.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Saves a component under a name.
    ///
    /// # Errors
    /// When the saved form cannot be encoded.
    ///
    /// # Panics
    /// On a bad name or one that was used already: both are mistakes of ours.
    pub fn add<C: SaveRestore>(&mut self, name: &str, component: &C) -> Result<(), StateError> {
        let body = encode_body(name, &component.save())?;
        self.add_body(name, C::VERSION, body);
        Ok(())
    }

    /// Adds a section whose body is encoded already.
    ///
    /// # Panics
    /// On a bad name, one that was used already, version 0, too many sections, or a body of 4 GiB
    /// and more: all are mistakes of ours.
    pub fn add_body(&mut self, name: &str, version: u32, body: Vec<u8>) {
        assert!(good_name(name), "section name {name:?}");
        assert!(version >= 1, "section {name}: version 0");
        assert!(self.sections.iter().all(|other| other.name != name), "two sections {name:?}");
        assert!(self.sections.len() < MAX_SECTIONS as usize, "more than {MAX_SECTIONS} sections");
        assert!(u32::try_from(body.len()).is_ok(), "section {name}: {} bytes", body.len());
        self.sections.push(Section { name: name.to_owned(), version, body });
    }

    /// The package's bytes.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((self.sections.len() as u32).to_le_bytes());
        for Section { name, version, body } in &self.sections {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(version.to_le_bytes());
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(body);
        }
        let digest = XxHash3_64::oneshot(&bytes);
        bytes.extend(digest.to_le_bytes());
        bytes
    }
}

/// A received package, from which every section is taken once.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    sections: Vec<Section>,
}

impl Package {
    /// Checks the frame and finds the sections. Bodies are looked at when they are taken.
    ///
    /// # Errors
    /// When the bytes are not a package, or one of a format that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let malformed = |reason: String| StateError::malformed(FRAME, reason);
        let framed = bytes
            .len()
            .checked_sub(DIGEST_BYTES)
            .filter(|&framed| framed >= HEADER_BYTES)
            .ok_or_else(|| malformed(format!("{} bytes are too few", bytes.len())))?;
        let (framed, digest) = bytes.split_at(framed);
        let mut reader = Reader { rest: framed };
        let magic: [u8; 8] = reader.array()?;
        if magic != MAGIC {
            return Err(malformed(format!("begins with {magic:02x?}, not \"UMEMSTAT\"")));
        }
        let found = u32::from_le_bytes(reader.array()?);
        if found != FORMAT_VERSION {
            return Err(StateError::Version { what: FRAME.into(), found, known: FORMAT_VERSION });
        }
        let (computed, told) = (XxHash3_64::oneshot(framed), Reader { rest: digest }.array()?);
        if computed.to_le_bytes() != told {
            let told = u64::from_le_bytes(told);
            return Err(malformed(format!("digest is {computed:#x}, the package says {told:#x}")));
        }
        let sections = reader.sections()?;
        Ok(Self { sections })
    }

    /// Names of the sections that have not been taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|section| section.name.as_str())
    }

    /// Restores a component from its section.
    ///
    /// # Errors
    /// When the section is not there, of an unknown version, malformed, or refused.
    pub fn take<C: SaveRestore>(&mut self, name: &str, component: &C) -> Result<(), StateError> {
        let Section { version, body, .. } = self.take_section(name, C::VERSION)?;
        component.restore(C::decode(name, version, &body)?)
    }

    /// Takes a section out, for a component that decodes its body by itself. Its version is one of
    /// 1 to `known`.
    ///
    /// # Errors
    /// When the section is not there or of an unknown version.
    pub fn take_section(&mut self, name: &str, known: u32) -> Result<Section, StateError> {
        let at = self
            .sections
            .iter()
            .position(|section| section.name == name)
            .ok_or_else(|| StateError::Absent(name.to_owned()))?;
        let section = self.sections.remove(at);
        if (1..=known).contains(&section.version) {
            Ok(section)
        } else {
            Err(StateError::Version { what: section.name, found: section.version, known })
        }
    }

    /// Ends the restore.
    ///
    /// # Errors
    /// When sections are left over: the machines differ.
    pub fn finish(self) -> Result<(), StateError> {
        if self.sections.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.names().collect();
        Err(StateError::LeftOver(names.join(", ")))
    }
}

/// Reads the frame's fields from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            let left = self.rest.len();
            StateError::malformed(FRAME, format!("a field of {count} bytes, {left} are left"))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn sections(&mut self) -> Result<Vec<Section>, StateError> {
        let count = u32::from_le_bytes(self.array()?);
        let fitting = self.rest.len() / SMALLEST_SECTION;
        if count > MAX_SECTIONS || count as usize > fitting {
            let reason = format!("{count} sections; {fitting} fit, {MAX_SECTIONS} are allowed");
            return Err(StateError::malformed(FRAME, reason));
        }
        let mut sections: Vec<Section> = Vec::new();
        for _ in 0..count {
            let section = self.section()?;
            if sections.iter().any(|other| other.name == section.name) {
                let reason = format!("two sections {:?}", section.name);
                return Err(StateError::malformed(FRAME, reason));
            }
            sections.push(section);
        }
        if self.rest.is_empty() {
            return Ok(sections);
        }
        let reason = format!("{} bytes after the last section", self.rest.len());
        Err(StateError::malformed(FRAME, reason))
    }

    fn section(&mut self) -> Result<Section, StateError> {
        let name_bytes = usize::from(u16::from_le_bytes(self.array()?));
        let name = self.take(name_bytes)?;
        let name = str::from_utf8(name).ok().filter(|name| good_name(name)).ok_or_else(|| {
            StateError::malformed(FRAME, format!("bad section name of {name_bytes} bytes"))
        })?;
        let version = u32::from_le_bytes(self.array()?);
        let body_bytes = u32::from_le_bytes(self.array()?);
        let body_bytes = usize::try_from(body_bytes)
            .map_err(|_| StateError::malformed(name, format!("{body_bytes} bytes")))?;
        let body = self.take(body_bytes)?.to_vec();
        Ok(Section { name: name.to_owned(), version, body })
    }
}

#[cfg(test)]
mod tests;
