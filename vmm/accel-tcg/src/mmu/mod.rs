//! Virtual addresses to pages of RAM: page-table walks and what is cached of them.

mod tlb;
mod walk;

pub(crate) use tlb::{FetchPage, Space};
pub(crate) use walk::{Access, Fault, Rules, mode};

use crate::memory_access::{OFFSET_MASK, PAGE_BYTES, Ram, RamPage};
use accel::PagePresence;
use std::sync::Arc;
use tlb::{DataPage, Tlb};
use umem_memory::PageBitmap;
use walk::Tables;

/// Where an access goes.
pub(crate) enum Target {
    Ram {
        page: RamPage,
        /// Number of the page, when code has been decoded from it.
        code: Option<usize>,
    },
    /// A physical address where no RAM is.
    Device(u64),
}

/// Address translation of one CPU.
pub(crate) struct Mmu {
    pub(crate) tlb: Tlb,
    ram: Ram,
    presence: Option<Arc<dyn PagePresence>>,
    satp: u64,
    rules: Rules,
    /// For each page of RAM whether blocks of code have been decoded from it.
    code: Vec<bool>,
    /// Where stores are logged, while they are.
    log: Option<Arc<PageBitmap>>,
}

impl Mmu {
    pub(crate) fn new(ram: Ram, presence: Option<Arc<dyn PagePresence>>) -> Self {
        let code = vec![false; ram.pages()];
        let rules = Rules { user: false, sum: false, mxr: false };
        Self { tlb: Tlb::new(), ram, presence, satp: 0, rules, code, log: None }
    }

    /// Puts `satp` in force; whether it has changed.
    pub(crate) fn set_satp(&mut self, satp: u64) -> bool {
        let changed = self.satp != satp;
        if changed {
            self.satp = satp;
            self.tlb.flush();
        }
        changed
    }

    /// Puts a mode and its permissions in force.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        if rules.mxr != self.rules.mxr {
            self.tlb.flush();
        }
        self.rules = rules;
        self.tlb.select(match (rules.user, rules.sum) {
            (true, _) => Space::User,
            (false, false) => Space::Supervisor,
            (false, true) => Space::SupervisorAndUser,
        });
    }

    fn tables(&self) -> Tables<'_> {
        Tables { ram: &self.ram, presence: self.presence.as_deref(), log: self.log.as_deref() }
    }

    /// Physical addresses that translations of these addresses, then of those that are cached, need and
    /// lead to.
    pub(crate) fn working_set(&self, first: &[u64]) -> Vec<u64> {
        let tables = self.tables();
        let mut touched = Vec::new();
        for address in first.iter().copied().chain(self.tlb.cached()) {
            tables.trace(self.satp, address, &mut |physical| touched.push(physical));
        }
        touched
    }

    /// Drops all permissions to write. From now on a page's bit is set in the log, if there is one,
    /// before the page can be written.
    pub(crate) fn log_writes(&mut self, log: Option<Arc<PageBitmap>>) {
        self.tlb.forget_writable();
        self.log = log;
    }

    /// The target of a load or store, which does not cross a page's end.
    pub(crate) fn data(&mut self, address: u64, access: Access) -> Result<Target, Fault> {
        if access == Access::Store
            && let Some(known) = self.tlb.write_page(address)
            && !known.code
        {
            return Ok(Target::Ram { page: known.page, code: None });
        }
        let store = access == Access::Store;
        let tables = self.tables();
        let mapping = tables.translate(self.satp, address, access, self.rules)?;
        let Some((page, number)) = tables.page(mapping.physical, store)? else {
            return Ok(Target::Device(mapping.physical));
        };
        let code = self.code[number];
        let readable = mapping.readable;
        if store {
            tables.note_write(mapping.physical);
        }
        // A page that is only read is not logged, so its first store must come here again.
        let writable = mapping.writable && (store || self.log.is_none());
        self.tlb.fill(address, &DataPage { page, readable, writable, code });
        if mapping.bytes > PAGE_BYTES {
            self.tlb.note_superpage(address, mapping.bytes);
        }
        Ok(Target::Ram { page, code: (code && store).then_some(number) })
    }

    /// The page to fetch from.
    pub(crate) fn fetch(&mut self, address: u64) -> Result<FetchPage, Fault> {
        let user = self.rules.user;
        if let Some(page) = self.tlb.fetch(address, user) {
            return Ok(page);
        }
        let tables = self.tables();
        let mapping = tables.translate(self.satp, address, Access::Fetch, self.rules)?;
        let (page, _) = tables.page(mapping.physical, false)?.ok_or(Fault::Access)?;
        if mapping.bytes > PAGE_BYTES {
            self.tlb.note_superpage(address, mapping.bytes);
        }
        Ok(self.tlb.fill_fetch(address, user, mapping.physical, page))
    }

    /// Notes that code has been decoded from the page at a physical address; its number.
    pub(crate) fn mark_code(&mut self, physical: u64) -> Option<usize> {
        let (page, number) = self.ram.page(physical & !OFFSET_MASK)?;
        if !self.code[number] {
            self.code[number] = true;
            self.tlb.mark_code(page);
        }
        Some(number)
    }

    /// Notes that no decoded code of the page is kept. Stores to it become fast at the next
    /// translation.
    /// Returns its physical address.
    pub(crate) fn clear_code(&mut self, number: usize) -> Option<u64> {
        *self.code.get_mut(number)? = false;
        self.ram.address(number)
    }
}
