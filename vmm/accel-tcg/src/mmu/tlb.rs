//! Cached translations.

use crate::memory_access::{OFFSET_MASK, PAGE_SHIFT, RamPage, Width};

/// Entries of one address space for data.
const DATA_ENTRIES: usize = 512;
/// User, supervisor, and supervisor that may access user pages. The fourth is never used; it makes
/// the size a power of two.
const SPACES: usize = 4;
const FETCH_ENTRIES: usize = 128;
const FETCH_SPACES: usize = 2;

/// Tag that no address has.
const NEVER: u64 = u64::MAX;
/// In a write tag: code has been decoded from the page, so that a store has more to do.
const CODE: u64 = 1 << 11;

#[derive(Clone, Copy)]
struct Entry {
    /// Page address for which loads may go ahead.
    read: u64,
    /// Page address for which stores may go ahead, perhaps with [`CODE`].
    write: u64,
    page: RamPage,
}

const EMPTY: Entry = Entry { read: NEVER, write: NEVER, page: RamPage::NONE };

/// A page that instructions come from.
#[derive(Clone, Copy)]
pub(crate) struct FetchPage {
    tag: u64,
    /// Its physical address.
    pub(crate) physical: u64,
    pub(crate) page: RamPage,
}

const NO_FETCH: FetchPage = FetchPage { tag: NEVER, physical: 0, page: RamPage::NONE };

/// Which translations and permissions are in force for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    User = 0,
    Supervisor = 1,
    /// With `sstatus.SUM`.
    SupervisorAndUser = 2,
}

/// A translation to be cached for data.
pub(crate) struct DataPage {
    pub(crate) page: RamPage,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Whether code has been decoded from it.
    pub(crate) code: bool,
}

/// What is known of a page that is to be written.
pub(crate) struct WritePage {
    pub(crate) page: RamPage,
    pub(crate) code: bool,
}

/// Direct-mapped caches: one for data, one for fetches, each with a part for each address space.
pub(crate) struct Tlb {
    data: Box<[Entry; DATA_ENTRIES * SPACES]>,
    fetch: Box<[FetchPage; FETCH_ENTRIES * FETCH_SPACES]>,
    /// First entry of the space in force.
    base: usize,
    /// Addresses that differ from the first in no bit of the second have been translated by
    /// superpages, of which the caches hold parts.
    superpages: Option<(u64, u64)>,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self {
            data: Box::new([EMPTY; DATA_ENTRIES * SPACES]),
            fetch: Box::new([NO_FETCH; FETCH_ENTRIES * FETCH_SPACES]),
            base: 0,
            superpages: None,
        }
    }

    pub(crate) fn select(&mut self, space: Space) {
        self.base = space as usize * DATA_ENTRIES;
    }

    #[inline(always)]
    fn slot(&self, address: u64) -> usize {
        let number = (address >> PAGE_SHIFT) as usize & (DATA_ENTRIES - 1);
        (self.base | number) & (DATA_ENTRIES * SPACES - 1)
    }

    /// The page to load an aligned value from.
    #[inline(always)]
    pub(crate) fn readable<T: Width>(&self, address: u64) -> Option<RamPage> {
        let entry = &self.data[self.slot(address)];
        (entry.read == address & (!OFFSET_MASK | (T::BYTES - 1))).then_some(entry.page)
    }

    /// The page to store an aligned value to, if nothing else needs to be done.
    #[inline(always)]
    pub(crate) fn writable<T: Width>(&self, address: u64) -> Option<RamPage> {
        let entry = &self.data[self.slot(address)];
        (entry.write == address & (!OFFSET_MASK | (T::BYTES - 1))).then_some(entry.page)
    }

    /// The page to store to.
    pub(crate) fn write_page(&self, address: u64) -> Option<WritePage> {
        let entry = &self.data[self.slot(address)];
        let code = entry.write & CODE != 0;
        (entry.write & !CODE == address & !OFFSET_MASK)
            .then_some(WritePage { page: entry.page, code })
    }

    pub(crate) fn fill(&mut self, address: u64, page: &DataPage) {
        let tag = address & !OFFSET_MASK;
        let write = if page.code { tag | CODE } else { tag };
        let slot = self.slot(address);
        self.data[slot] = Entry {
            read: if page.readable { tag } else { NEVER },
            write: if page.writable { write } else { NEVER },
            page: page.page,
        };
    }

    fn fetch_slot(address: u64, user: bool) -> usize {
        let number = (address >> PAGE_SHIFT) as usize & (FETCH_ENTRIES - 1);
        usize::from(user) * FETCH_ENTRIES + number
    }

    /// The page to fetch from.
    pub(crate) fn fetch(&self, address: u64, user: bool) -> Option<FetchPage> {
        let entry = self.fetch[Self::fetch_slot(address, user)];
        (entry.tag == address & !OFFSET_MASK).then_some(entry)
    }

    pub(crate) fn fill_fetch(
        &mut self,
        address: u64,
        user: bool,
        physical: u64,
        page: RamPage,
    ) -> FetchPage {
        let tag = address & !OFFSET_MASK;
        let entry = FetchPage { tag, physical: physical & !OFFSET_MASK, page };
        self.fetch[Self::fetch_slot(address, user)] = entry;
        entry
    }

    /// Forgets all permissions to write; what else is known stays.
    pub(crate) fn forget_writable(&mut self) {
        for entry in self.data.iter_mut() {
            entry.write = NEVER;
        }
    }

    /// Makes stores to a page, whose code has been decoded, say so.
    pub(crate) fn mark_code(&mut self, page: RamPage) {
        for entry in self.data.iter_mut() {
            if entry.page == page && entry.write != NEVER {
                entry.write |= CODE;
            }
        }
    }

    /// Notes that `address` was translated by a superpage of that size.
    pub(crate) fn note_superpage(&mut self, address: u64, bytes: u64) {
        let mut mask = !(bytes - 1);
        let first = match self.superpages {
            None => address,
            Some((first, known)) => {
                mask &= known;
                while (first ^ address) & mask != 0 {
                    mask <<= 1;
                }
                first
            }
        };
        self.superpages = Some((first & mask, mask));
    }

    /// Addresses of the pages that are cached: of code, then of data, of the supervisor's spaces first.
    pub(crate) fn cached(&self) -> impl Iterator<Item = u64> + '_ {
        let code = self.fetch.iter().map(|entry| entry.tag).filter(|tag| *tag != NEVER);
        let user = (Space::User as usize + 1) * DATA_ENTRIES;
        let (user, supervisor) = self.data.split_at(user);
        let data = supervisor.iter().chain(user).filter_map(|entry| match entry {
            Entry { read, .. } if *read != NEVER => Some(*read),
            Entry { write, .. } if *write != NEVER => Some(write & !CODE),
            _ => None,
        });
        code.chain(data)
    }

    pub(crate) fn flush(&mut self) {
        self.data.fill(EMPTY);
        self.fetch.fill(NO_FETCH);
        self.superpages = None;
    }

    /// Forgets what is cached of the page, or superpage, at an address.
    pub(crate) fn flush_page(&mut self, address: u64) {
        if self.superpages.is_some_and(|(first, mask)| address & mask == first) {
            return self.flush();
        }
        let tag = address & !OFFSET_MASK;
        let number = (address >> PAGE_SHIFT) as usize & (DATA_ENTRIES - 1);
        for space in 0..SPACES {
            let entry = &mut self.data[space * DATA_ENTRIES + number];
            if entry.read == tag || entry.write & !CODE == tag {
                *entry = EMPTY;
            }
        }
        for user in [false, true] {
            let entry = &mut self.fetch[Self::fetch_slot(address, user)];
            if entry.tag == tag {
                *entry = NO_FETCH;
            }
        }
    }
}
