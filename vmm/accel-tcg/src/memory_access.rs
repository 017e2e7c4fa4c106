//! Guest RAM as the CPU touches it.
//!
//! Devices and other CPUs share RAM, so every access is an atomic one of its own width: what two
//! threads do to one place at a time has a defined result, the one that the guest's memory model
//! allows. Everything goes through [`RamPage`], which cannot point outside RAM.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use umem_memory::{GuestAddress, GuestRam, PageIndex};

/// Base-2 logarithm of the size of the CPU's page.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// The CPU's page, which may be smaller than the page that RAM is counted in.
pub(crate) const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// The bits of an address within its page.
pub(crate) const OFFSET_MASK: u64 = PAGE_BYTES - 1;

/// An unsigned integer that the guest can load and store at once.
pub(crate) trait Width: Copy {
    /// Width in bytes.
    const BYTES: u64;
    /// Loads from a host address.
    ///
    /// # Safety
    /// The address is aligned and valid for reads and writes of this width.
    unsafe fn load(at: *mut u8) -> Self;
    /// Stores to a host address.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store(at: *mut u8, value: Self);
    /// Exchanges by `new` of the old value, `None` leaves it; the old value, and whether it was
    /// exchanged.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn update(at: *mut u8, new: impl FnMut(Self) -> Option<Self>) -> Result<Self, Self>;
    /// Zero-extends.
    fn widen(self) -> u64;
    /// The low bits.
    fn narrow(value: u64) -> Self;
}

macro_rules! width {
    ($integer:ty, $atomic:ty) => {
        impl Width for $integer {
            const BYTES: u64 = size_of::<$integer>() as u64;

            #[inline(always)]
            unsafe fn load(at: *mut u8) -> Self {
                // SAFETY: aligned and valid by contract; all accesses to RAM are atomic.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                cell.load(Ordering::Relaxed)
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: aligned and valid by contract; all accesses to RAM are atomic.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                cell.store(value, Ordering::Relaxed);
            }
            #[inline]
            unsafe fn update(
                at: *mut u8,
                new: impl FnMut(Self) -> Option<Self>,
            ) -> Result<Self, Self> {
                // SAFETY: aligned and valid by contract; all accesses to RAM are atomic.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, new)
            }
            #[inline(always)]
            fn widen(self) -> u64 {
                self.into()
            }
            #[inline(always)]
            fn narrow(value: u64) -> Self {
                value as Self
            }
        }
    };
}

width!(u8, AtomicU8);
width!(u16, AtomicU16);
width!(u32, AtomicU32);
width!(u64, AtomicU64);

/// What [`RamPage::NONE`] points to, so that even it may be read.
#[repr(align(4096))]
#[allow(dead_code)] // Only its address is used.
struct Blank([AtomicU64; (PAGE_BYTES / 8) as usize]);
static BLANK: Blank = Blank([const { AtomicU64::new(0) }; (PAGE_BYTES / 8) as usize]);

/// A page of RAM in this process. Only [`Ram`] makes them, and whoever keeps one keeps its `Ram`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RamPage {
    host: *mut u8,
}

// SAFETY: RAM may be touched by any thread, and only atomically.
unsafe impl Send for RamPage {}

impl RamPage {
    /// A page that is no guest RAM.
    pub(crate) const NONE: Self = Self { host: (&raw const BLANK).cast_mut().cast() };

    /// The place of the aligned value at or below `address`'s offset within this page.
    #[inline(always)]
    fn place<T: Width>(self, address: u64) -> *mut u8 {
        let offset = address & OFFSET_MASK & !(T::BYTES - 1);
        // SAFETY: the offset lies within the page.
        unsafe { self.host.add(offset as usize) }
    }

    /// Loads the aligned value at an address within this page.
    #[inline(always)]
    pub(crate) fn load<T: Width>(self, address: u64) -> T {
        // SAFETY: aligned, and inside the page with its whole width.
        unsafe { T::load(self.place::<T>(address)) }
    }

    /// Stores an aligned value at an address within this page.
    #[inline(always)]
    pub(crate) fn store<T: Width>(self, address: u64, value: T) {
        // SAFETY: aligned, and inside the page with its whole width.
        unsafe { T::store(self.place::<T>(address), value) }
    }

    /// Replaces an aligned value by a function of it, atomically; the old value.
    #[inline]
    pub(crate) fn modify<T: Width>(self, address: u64, mut new: impl FnMut(T) -> T) -> T {
        // SAFETY: aligned, and inside the page with its whole width.
        let (Ok(old) | Err(old)) =
            unsafe { T::update(self.place::<T>(address), |old| Some(new(old))) };
        old
    }

    /// Stores an aligned value if `expected` is there; whether it was.
    pub(crate) fn exchange<T: Width + PartialEq>(self, address: u64, expected: T, new: T) -> bool {
        let choose = |old| (old == expected).then_some(new);
        // SAFETY: aligned, and inside the page with its whole width.
        unsafe { T::update(self.place::<T>(address), choose) }.is_ok()
    }
}

/// One block of RAM.
#[derive(Clone, Copy)]
struct Block {
    start: u64,
    bytes: u64,
    host: NonNull<u8>,
    /// CPU pages of all blocks before it.
    first: usize,
}

/// All RAM.
pub(crate) struct Ram {
    ram: GuestRam,
    blocks: Vec<Block>,
}

// SAFETY: the pointers are those of `ram`, which is Send itself; access is atomic.
unsafe impl Send for Ram {}

impl Ram {
    pub(crate) fn new(ram: GuestRam) -> Self {
        let mut first = 0;
        let mut blocks = Vec::new();
        for block in ram.layout().blocks() {
            let (start, bytes) = (block.guest_address.0, block.bytes());
            // `None` cannot be: the page is one of the layout's.
            if let Some(host) = ram.host_address(block.first_page) {
                blocks.push(Block { start, bytes, host, first });
            }
            first += (bytes >> PAGE_SHIFT) as usize;
        }
        Self { ram, blocks }
    }

    /// CPU pages of all blocks.
    pub(crate) fn pages(&self) -> usize {
        self.blocks.iter().map(|block| (block.bytes >> PAGE_SHIFT) as usize).sum()
    }

    /// The page at a physical address and its number among [`Ram::pages`].
    pub(crate) fn page(&self, address: u64) -> Option<(RamPage, usize)> {
        let found = |block: &&Block| address.wrapping_sub(block.start) < block.bytes;
        let block = self.blocks.iter().find(found)?;
        let number = ((address - block.start) >> PAGE_SHIFT) as usize;
        // SAFETY: a page of the block, which is mapped as a whole; blocks begin and end at pages.
        let host = unsafe { block.host.as_ptr().add(number << PAGE_SHIFT) };
        Some((RamPage { host }, block.first + number))
    }

    /// The physical address of a page, by its number among [`Ram::pages`].
    pub(crate) fn address(&self, number: usize) -> Option<u64> {
        let block = self.blocks.iter().rev().find(|block| block.first <= number)?;
        Some(block.start + (((number - block.first) as u64) << PAGE_SHIFT))
    }

    /// The page, as the machine counts them, at a physical address.
    pub(crate) fn index(&self, address: u64) -> Option<PageIndex> {
        self.ram.layout().page_of(GuestAddress(address))
    }
}
