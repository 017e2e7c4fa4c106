//! What each page holds: as it is collected while pages are written, and as it is read.

use umem_memory::PageIndex;
use umem_wire::PageKind;

const CONTENT: u8 = 0;
const ZERO: u8 = 1;
const FILL: u8 = 2;
const KINDS_PER_BYTE: u64 = 4;

/// The index of a snapshot that is being written. Takes 9 bytes a page, which the system gives when
/// the page is first written.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    /// 0 for a page that was never written, else its code in the file and 1.
    kinds: Vec<u8>,
    /// Checksum or repeated byte.
    values: Vec<u64>,
    /// Pages with content, and pages that repeat a byte.
    counts: (u64, u64),
}

impl IndexBuilder {
    pub(crate) fn new(pages: u64) -> Self {
        // As many pages as this process has mapped.
        let pages = pages as usize;
        Self { kinds: vec![0; pages], values: vec![0; pages], counts: (0, 0) }
    }

    /// Sets what a page holds; whether it had content before.
    pub(crate) fn set(&mut self, page: PageIndex, kind: PageKind) -> bool {
        let (code, value) = match kind {
            PageKind::Content(hash) => (CONTENT, hash),
            PageKind::Fill(0) => (ZERO, 0),
            PageKind::Fill(byte) => (FILL, u64::from(byte)),
            // There is no such page in a file: whoever asks for it gets "never written".
            PageKind::Unreadable => return false,
        };
        let Ok(at) = usize::try_from(page.0) else { return false };
        let (Some(kinds), Some(values)) = (self.kinds.get_mut(at), self.values.get_mut(at)) else {
            return false;
        };
        *values = value;
        let before = std::mem::replace(kinds, code + 1);
        for (mark, change) in [(before, u64::MAX), (code + 1, 1)] {
            let count = match mark {
                0 => continue,
                mark if mark == CONTENT + 1 => &mut self.counts.0,
                _ => &mut self.counts.1,
            };
            *count = count.wrapping_add(change);
        }
        before == CONTENT + 1
    }

    /// The first page that was never written.
    pub(crate) fn unwritten(&self) -> Option<PageIndex> {
        self.kinds.iter().position(|kind| *kind == 0).map(|at| PageIndex(at as u64))
    }

    /// Pages with content.
    pub(crate) fn stored(&self) -> u64 {
        self.counts.0
    }

    /// Pages that repeat a byte.
    pub(crate) fn fills(&self) -> u64 {
        self.counts.1
    }

    /// The index as it stands in the file, once all pages were written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let codes = || self.kinds.iter().map(|kind| kind.saturating_sub(1));
        let mut out = vec![0; self.kinds.len().div_ceil(KINDS_PER_BYTE as usize)];
        for (slot, code) in codes().enumerate() {
            if let Some(byte) = out.get_mut(slot / KINDS_PER_BYTE as usize) {
                *byte |= code << (2 * (slot as u64 % KINDS_PER_BYTE));
            }
        }
        let values = || codes().zip(&self.values);
        out.extend(values().filter(|(code, _)| *code == FILL).map(|(_, value)| *value as u8));
        let hashes = values().filter(|(code, _)| *code == CONTENT);
        hashes.for_each(|(_, hash)| out.extend_from_slice(&hash.to_le_bytes()));
        out
    }
}

/// Pages whose numbers of content and fill pages before them are remembered: every so many.
const STEP: u64 = 256;

/// The index of a snapshot, as it was read.
#[derive(Debug)]
pub(crate) struct Index {
    pages: u64,
    kinds: Vec<u8>,
    fills: Vec<u8>,
    hashes: Vec<u8>,
    /// Content pages and fill pages before each [`STEP`]th page.
    before: Vec<(u64, u64)>,
}

/// An index that contradicts itself: what, and the number.
pub(crate) type Contradiction = (&'static str, u64);

impl Index {
    /// An index of so many pages that fills these bytes exactly.
    pub(crate) fn decode(pages: u64, mut bytes: Vec<u8>) -> Result<Self, Contradiction> {
        let length = bytes.len() as u64;
        let table = pages.div_ceil(KINDS_PER_BYTE);
        if length < table {
            return Err(("it is too short for its pages", length));
        }
        let mut rest = bytes.split_off(table as usize);
        let kinds = bytes;
        let mut before = Vec::with_capacity(pages.div_ceil(STEP) as usize);
        let (mut content, mut fills) = (0, 0);
        for (number, step) in kinds.chunks((STEP / KINDS_PER_BYTE) as usize).enumerate() {
            before.push((content, fills));
            if let Some(at) = step.iter().position(|byte| count(*byte, 3) > 0) {
                let byte = number as u64 * (STEP / KINDS_PER_BYTE) + at as u64;
                return Err(("a page is of no kind, near page", byte * KINDS_PER_BYTE));
            }
            content += sum(step, CONTENT);
            fills += sum(step, FILL);
        }
        // What the last byte has beyond the last page is zero, which reads as content.
        let beyond = table * KINDS_PER_BYTE - pages;
        let last = kinds.last().copied().unwrap_or_default();
        if beyond > 0 && last >> (2 * (KINDS_PER_BYTE - beyond)) != 0 {
            return Err(("bits behind the last page are not zero", u64::from(last)));
        }
        content -= beyond;
        if length - table != fills + 8 * content {
            return Err(("its length does not fit its pages", length));
        }
        let hashes = rest.split_off(fills as usize);
        Ok(Self { pages, kinds, fills: rest, hashes, before })
    }

    fn code(&self, page: u64) -> Option<u8> {
        if page >= self.pages {
            return None;
        }
        let byte = self.kinds.get((page / KINDS_PER_BYTE) as usize)?;
        Some(byte >> (2 * (page % KINDS_PER_BYTE)) & 3)
    }

    /// Pages of a kind before a page, from the numbers before its step.
    fn rank(&self, page: u64, code: u8, before: u64) -> u64 {
        let from = page / STEP * (STEP / KINDS_PER_BYTE);
        let to = page / KINDS_PER_BYTE;
        let whole = self.kinds.get(from as usize..to as usize).unwrap_or_default();
        let last = (to * KINDS_PER_BYTE..page).filter(|page| self.code(*page) == Some(code));
        before + sum(whole, code) + last.count() as u64
    }

    /// What a page holds; `None` behind the last.
    pub(crate) fn kind(&self, page: PageIndex) -> Option<PageKind> {
        let code = self.code(page.0)?;
        let (content, fills) = self.before.get((page.0 / STEP) as usize)?;
        Some(match code {
            CONTENT => {
                let at = self.rank(page.0, code, *content).checked_mul(8)?;
                let hash = self.hashes.get(usize::try_from(at).ok()?..)?.first_chunk()?;
                PageKind::Content(u64::from_le_bytes(*hash))
            }
            ZERO => PageKind::Fill(0),
            _ => {
                let at = self.rank(page.0, code, *fills);
                PageKind::Fill(*self.fills.get(usize::try_from(at).ok()?)?)
            }
        })
    }

    /// Pages with content.
    pub(crate) fn stored(&self) -> u64 {
        self.hashes.len() as u64 / 8
    }
}

/// How many of a byte's four pages are of a kind.
fn count(byte: u8, code: u8) -> u32 {
    let differs = byte ^ (code * 0b0101_0101);
    (!(differs | differs >> 1) & 0b0101_0101).count_ones()
}

fn sum(bytes: &[u8], code: u8) -> u64 {
    bytes.iter().map(|byte| u64::from(count(*byte, code))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = PageKind> {
        prop_oneof![any::<u64>().prop_map(PageKind::Content), any::<u8>().prop_map(PageKind::Fill)]
    }

    fn built(kinds: &[PageKind]) -> IndexBuilder {
        let mut builder = IndexBuilder::new(kinds.len() as u64);
        for (page, kind) in kinds.iter().enumerate() {
            builder.set(PageIndex(page as u64), *kind);
        }
        builder
    }

    #[test]
    fn the_bytes_are_as_documented() {
        use PageKind::{Content, Fill};
        let bytes = built(&[Fill(0), Content(0x0807_0605), Fill(9), Fill(0), Fill(8)]).encode();
        assert_eq!(bytes, [0b01_10_00_01, 0b10, 9, 8, 5, 6, 7, 8, 0, 0, 0, 0]);
    }

    #[test]
    fn a_page_that_nobody_wrote_is_found() {
        let mut builder = built(&[PageKind::Fill(0), PageKind::Unreadable, PageKind::Content(3)]);
        assert_eq!(builder.unwritten(), Some(PageIndex(1)));
        assert!(!builder.set(PageIndex(1), PageKind::Content(1)));
        assert_eq!((builder.unwritten(), builder.stored()), (None, 2));
        assert!(builder.set(PageIndex(1), PageKind::Fill(1)), "it had content before");
        assert!(!builder.set(PageIndex(3), PageKind::Fill(1)));
        assert_eq!((builder.stored(), builder.fills()), (1, 2));
    }

    proptest! {
        #[test]
        fn every_page_s_kind_comes_back(kinds in prop::collection::vec(kind(), 1..1500)) {
            let index = Index::decode(kinds.len() as u64, built(&kinds).encode()).unwrap();
            for (page, kind) in kinds.iter().enumerate() {
                prop_assert_eq!(index.kind(PageIndex(page as u64)), Some(*kind));
            }
            prop_assert_eq!(index.kind(PageIndex(kinds.len() as u64)), None);
            prop_assert_eq!(index.kind(PageIndex(u64::MAX)), None);
            let content = kinds.iter().filter(|kind| matches!(kind, PageKind::Content(_))).count();
            prop_assert_eq!(index.stored(), content as u64);
        }

        #[test]
        fn an_index_of_another_length_is_refused(
            kinds in prop::collection::vec(kind(), 1..60),
            cut in 1usize..60,
        ) {
            let mut bytes = built(&kinds).encode();
            bytes.push(0);
            prop_assert!(Index::decode(kinds.len() as u64, bytes.clone()).is_err());
            bytes.truncate((bytes.len() - 1).saturating_sub(cut));
            prop_assert!(Index::decode(kinds.len() as u64, bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(pages in 1u64..40, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(index) = Index::decode(pages, bytes) {
                prop_assert!((0..pages).all(|page| index.kind(PageIndex(page)).is_some()));
            }
        }
    }
}
