//! Page-table walks (RISC-V privileged specification, "Virtual Address Translation Process").

use crate::memory_access::{PAGE_BYTES, PAGE_SHIFT, Ram, RamPage};
use accel::PagePresence;
use umem_memory::{PageBitmap, PageIndex, PageRange};

/// What a translation is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Fetch,
    Load,
    Store,
}

/// Why there is no translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The page tables do not allow it.
    Page,
    /// There is no memory where a page table is to be.
    Access,
    /// A page of RAM is not here yet.
    Missing { page: PageIndex, write: bool },
}

/// Who asks, and what bends the rules for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) user: bool,
    /// `sstatus.SUM`
    pub(crate) sum: bool,
    /// `sstatus.MXR`
    pub(crate) mxr: bool,
}

/// A translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) physical: u64,
    /// Size of the page that maps it.
    pub(crate) bytes: u64,
    pub(crate) readable: bool,
    /// Writable, and marked dirty.
    pub(crate) writable: bool,
}

mod pte {
    pub(super) const V: u64 = 1;
    pub(super) const R: u64 = 2;
    pub(super) const W: u64 = 4;
    pub(super) const X: u64 = 8;
    pub(super) const U: u64 = 16;
    pub(super) const A: u64 = 64;
    pub(super) const D: u64 = 128;
    /// Bits of extensions that we have not.
    pub(super) const RESERVED: u64 = 0x3ff << 54;
    /// Physical page number.
    pub(super) const fn number(entry: u64) -> u64 {
        entry >> 10 & ((1 << 44) - 1)
    }
}

/// `satp.MODE`
pub(crate) mod mode {
    pub(crate) const BARE: u64 = 0;
    pub(crate) const SV39: u64 = 8;
    pub(crate) const SV48: u64 = 9;
}

fn levels(satp: u64) -> Option<u32> {
    match satp >> 60 {
        mode::SV39 => Some(3),
        mode::SV48 => Some(4),
        _ => None,
    }
}

/// What a walk reads.
pub(crate) struct Tables<'a> {
    pub(crate) ram: &'a Ram,
    pub(crate) presence: Option<&'a dyn PagePresence>,
    /// Where writes are logged.
    pub(crate) log: Option<&'a PageBitmap>,
}

impl Tables<'_> {
    /// The page of RAM at a physical address, which must be here; `None` where no RAM is.
    pub(crate) fn page(
        &self,
        physical: u64,
        write: bool,
    ) -> Result<Option<(RamPage, usize)>, Fault> {
        let found = self.ram.page(physical);
        if let (Some(_), Some(presence)) = (found, self.presence)
            && let Some(page) = self.ram.index(physical)
            && !presence.is_present(page)
        {
            return Err(Fault::Missing { page, write });
        }
        Ok(found)
    }

    /// Sets the bit of the page at a physical address. To look first is sound here: whoever took
    /// the bit away waits for this CPU's answer to the revocation that follows, and an old bit can be
    /// seen only before that answer.
    pub(crate) fn note_write(&self, physical: u64) {
        if let Some(log) = self.log
            && let Some(page) = self.ram.index(physical)
            && !log.test(page)
        {
            log.set(PageRange::one(page));
        }
    }

    /// Translates, and sets the accessed and dirty bits.
    pub(crate) fn translate(
        &self,
        satp: u64,
        address: u64,
        access: Access,
        rules: Rules,
    ) -> Result<Mapping, Fault> {
        loop {
            if let Some(mapping) = self.walk(satp, address, access, rules)? {
                return Ok(mapping);
            }
        }
    }

    /// Hears of the physical addresses that a translation of an address reads, in order, and of that to
    /// which it leads; changes nothing.
    pub(crate) fn trace(&self, satp: u64, address: u64, hear: &mut dyn FnMut(u64)) {
        let Some(levels) = levels(satp) else { return hear(address) };
        let mut table = (satp & ((1 << 44) - 1)) << PAGE_SHIFT;
        for level in (0..levels).rev() {
            let shift = PAGE_SHIFT + 9 * level;
            let at = table + (address >> shift & 0x1ff) * 8;
            let Ok(Some((page, _))) = self.page(at, false) else { return };
            hear(at);
            let entry: u64 = page.load(at);
            let next = pte::number(entry) << PAGE_SHIFT;
            if entry & pte::V == 0 {
                return;
            }
            if entry & (pte::R | pte::W | pte::X) != 0 {
                return hear(next | address & ((1 << shift) - 1));
            }
            table = next;
        }
    }

    /// One walk; `None` when another CPU has changed the entry before it could be marked. It may be of
    /// another kind by now, a table where a superpage was.
    fn walk(
        &self,
        satp: u64,
        address: u64,
        access: Access,
        rules: Rules,
    ) -> Result<Option<Mapping>, Fault> {
        let Some(levels) = levels(satp) else {
            return Ok(Some(Mapping {
                physical: address,
                bytes: PAGE_BYTES,
                readable: true,
                writable: true,
            }));
        };
        let unused = 64 - (PAGE_SHIFT + 9 * levels);
        if (address << unused) as i64 >> unused != address as i64 {
            return Err(Fault::Page);
        }
        let mut table = (satp & ((1 << 44) - 1)) << PAGE_SHIFT;
        for level in (0..levels).rev() {
            let shift = PAGE_SHIFT + 9 * level;
            let at = table + (address >> shift & 0x1ff) * 8;
            let (page, _) = self.page(at, false)?.ok_or(Fault::Access)?;
            let entry: u64 = page.load(at);
            if entry & pte::V == 0 || entry & pte::RESERVED != 0 {
                return Err(Fault::Page);
            }
            if entry & (pte::R | pte::W | pte::X) != 0 {
                return self.leaf(page, at, entry, 1 << shift, address, access, rules);
            }
            if entry & (pte::A | pte::D | pte::U) != 0 {
                return Err(Fault::Page);
            }
            table = pte::number(entry) << PAGE_SHIFT;
        }
        Err(Fault::Page)
    }

    #[allow(clippy::too_many_arguments)]
    fn leaf(
        &self,
        table: RamPage,
        at: u64,
        mut entry: u64,
        bytes: u64,
        address: u64,
        access: Access,
        rules: Rules,
    ) -> Result<Option<Mapping>, Fault> {
        let base = pte::number(entry) << PAGE_SHIFT;
        if base & (bytes - 1) != 0 || !allowed(entry, access, rules) {
            return Err(Fault::Page);
        }
        let physical = base | address & (bytes - 1);
        // Before the marks: an instruction that finds its page missing has no effect.
        self.page(physical, access == Access::Store)?;
        let marks = if access == Access::Store { pte::A | pte::D } else { pte::A };
        if entry & marks != marks {
            if !table.exchange(at, entry, entry | marks) {
                return Ok(None);
            }
            self.note_write(at);
            entry |= marks;
        }
        Ok(Some(Mapping {
            physical,
            bytes,
            readable: allowed(entry, Access::Load, rules),
            writable: entry & pte::D != 0 && allowed(entry, Access::Store, rules),
        }))
    }
}

fn allowed(entry: u64, access: Access, rules: Rules) -> bool {
    if entry & (pte::R | pte::W) == pte::W {
        return false;
    }
    let user_page = entry & pte::U != 0;
    let reachable =
        if rules.user { user_page } else { !user_page || (rules.sum && access != Access::Fetch) };
    let wanted = match access {
        Access::Fetch => pte::X,
        Access::Load if rules.mxr => pte::R | pte::X,
        Access::Load => pte::R,
        Access::Store => pte::W,
    };
    reachable && entry & wanted != 0
}
