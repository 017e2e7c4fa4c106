//! Loads and stores.

use crate::cpu::{Cpu, Event, Halt, cause};
use crate::memory_access::{OFFSET_MASK, PAGE_BYTES, Width};
use crate::mmu::{Access, Fault, Target};
use accel::{AccessSize, VmExit};
use umem_memory::GuestAddress;

/// The width of an access that a device sees.
fn size<T: Width>() -> AccessSize {
    match T::BYTES {
        1 => AccessSize::Byte,
        2 => AccessSize::Half,
        4 => AccessSize::Word,
        _ => AccessSize::Double,
    }
}

/// The exception for a failed access.
fn code(access: Access, page_fault: bool) -> u64 {
    match (access, page_fault) {
        (Access::Fetch, true) => cause::FETCH_PAGE,
        (Access::Fetch, false) => cause::FETCH_ACCESS,
        (Access::Load, true) => cause::LOAD_PAGE,
        (Access::Load, false) => cause::LOAD_ACCESS,
        (Access::Store, true) => cause::STORE_PAGE,
        (Access::Store, false) => cause::STORE_ACCESS,
    }
}

impl Cpu {
    /// Loads a value.
    #[inline(always)]
    pub(crate) fn load<T: Width>(&mut self, address: u64) -> Result<T, Halt> {
        match self.mmu.tlb.readable::<T>(address) {
            Some(page) => Ok(page.load(address)),
            None => self.load_slow(address),
        }
    }

    /// Stores a value.
    #[inline(always)]
    pub(crate) fn store<T: Width>(&mut self, address: u64, value: T) -> Result<(), Halt> {
        match self.mmu.tlb.writable::<T>(address) {
            Some(page) => {
                page.store(address, value);
                Ok(())
            }
            None => self.store_slow(address, value),
        }
    }

    /// Stops because a translation failed.
    #[cold]
    pub(crate) fn fault<T>(
        &mut self,
        address: u64,
        access: Access,
        fault: Fault,
    ) -> Result<T, Halt> {
        match fault {
            Fault::Page => self.trap(code(access, true), address),
            Fault::Access => self.trap(code(access, false), address),
            Fault::Missing { page, write } => self.exit(VmExit::MissingPage { page, write }),
        }
    }

    fn target(&mut self, address: u64, access: Access) -> Result<Target, Halt> {
        match self.mmu.data(address, access) {
            Ok(target) => Ok(target),
            Err(fault) => self.fault(address, access, fault),
        }
    }

    /// As [`Cpu::target`], where only RAM will do.
    pub(crate) fn ram_target(
        &mut self,
        address: u64,
        access: Access,
    ) -> Result<(crate::memory_access::RamPage, Option<usize>), Halt> {
        match self.target(address, access)? {
            Target::Ram { page, code } => Ok((page, code)),
            Target::Device(_) => self.fault(address, access, Fault::Access),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Width>(&mut self, address: u64) -> Result<T, Halt> {
        if address & (T::BYTES - 1) != 0 {
            return self.load_misaligned(address);
        }
        match self.target(address, Access::Load)? {
            Target::Ram { page, .. } => Ok(page.load(address)),
            Target::Device(physical) => {
                self.exit(VmExit::MmioRead { address: GuestAddress(physical), size: size::<T>() })
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Width>(&mut self, address: u64, value: T) -> Result<(), Halt> {
        if address & (T::BYTES - 1) != 0 {
            return self.store_misaligned(address, value);
        }
        match self.target(address, Access::Store)? {
            Target::Ram { page, code } => {
                page.store(address, value);
                self.code_written([code, None])
            }
            Target::Device(physical) => self.completed(VmExit::MmioWrite {
                address: GuestAddress(physical),
                size: size::<T>(),
                value: value.widen(),
            }),
        }
    }

    /// The address of the part of a value that lies in the following page, if there is one.
    fn second_part<T: Width>(address: u64) -> Option<u64> {
        let last = address.wrapping_add(T::BYTES - 1) & !OFFSET_MASK;
        (last != address & !OFFSET_MASK).then_some(last)
    }

    fn load_misaligned<T: Width>(&mut self, address: u64) -> Result<T, Halt> {
        let (first, _) = self.ram_target(address, Access::Load)?;
        let second = match Self::second_part::<T>(address) {
            Some(part) => self.ram_target(part, Access::Load)?.0,
            None => first,
        };
        let byte = |index: u64| {
            let inside = (address & OFFSET_MASK) + index < PAGE_BYTES;
            let page = if inside { first } else { second };
            u64::from(page.load::<u8>(address.wrapping_add(index))) << (8 * index)
        };
        Ok(T::narrow((0..T::BYTES).map(byte).sum()))
    }

    fn store_misaligned<T: Width>(&mut self, address: u64, value: T) -> Result<(), Halt> {
        let (first, first_code) = self.ram_target(address, Access::Store)?;
        let (second, second_code) = match Self::second_part::<T>(address) {
            Some(part) => self.ram_target(part, Access::Store)?,
            None => (first, None),
        };
        for index in 0..T::BYTES {
            let inside = (address & OFFSET_MASK) + index < PAGE_BYTES;
            let page = if inside { first } else { second };
            page.store::<u8>(address.wrapping_add(index), (value.widen() >> (8 * index)) as u8);
        }
        self.code_written([first_code, second_code])
    }

    /// Ends a store: stops if it went where code was decoded from.
    pub(crate) fn code_written(&mut self, pages: [Option<usize>; 2]) -> Result<(), Halt> {
        if pages == [None, None] {
            return Ok(());
        }
        self.written_code.extend(pages.into_iter().flatten());
        self.event = Event::CodeWritten;
        Err(Halt)
    }
}
