//! Decoded code: blocks of instructions up to the next one that may lead elsewhere.
//!
//! A block belongs to physical memory and never crosses a page's end. It is dropped when this CPU
//! writes to its page. What others write, devices or other CPUs, is seen after FENCE.I: then every
//! block is compared with memory before it runs again.

use crate::cpu::Mode;
use crate::decode::{Code, Op, SINK, decode, decode_compressed, is_compressed};
use crate::memory_access::{OFFSET_MASK, PAGE_BYTES, PAGE_SHIFT, RamPage};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Instructions of the longest block.
const MAX_OPS: usize = 64;
/// Blocks kept; all are dropped when there are more.
const MAX_BLOCKS: usize = 1 << 16;
const JUMPS: usize = 1 << 12;

/// A run of instructions.
pub(crate) struct Block {
    pub(crate) ops: Box<[Op]>,
    /// Instructions, without a final [`Code::Next`].
    pub(crate) count: u32,
    /// Bytes of all its instructions.
    pub(crate) bytes: u16,
    /// The code it was decoded from, in 16-bit parcels.
    parcels: Box<[u16]>,
    /// When it was last known to be what memory holds.
    epoch: u64,
    /// Where it begins.
    physical: u64,
    /// Where it led last time: elsewhere, and to the following instruction.
    successors: [Cell<Jump>; 2],
}

impl Block {
    /// Which of its successors the program counter, after it ran from `base`, stands for.
    #[inline(always)]
    fn successor(&self, base: u64, pc: u64) -> &Cell<Jump> {
        &self.successors[usize::from(pc == base.wrapping_add(self.bytes.into()))]
    }

    /// Whether memory holds what it was decoded from.
    fn is_current(&self, page: RamPage) -> bool {
        let at = |index: usize| self.physical + 2 * index as u64;
        self.parcels
            .iter()
            .enumerate()
            .all(|(index, &parcel)| page.load::<u16>(at(index)) == parcel)
    }
}

/// Collects the instructions of a block.
struct Builder {
    ops: Vec<Op>,
    parcels: Vec<u16>,
}

impl Builder {
    fn new() -> Self {
        Self { ops: Vec::new(), parcels: Vec::new() }
    }

    fn push(&mut self, mut op: Op, parcels: &[u16]) {
        let offset = self.parcels.len() * 2;
        op.offset = offset as u16;
        op.index = self.ops.len() as u8;
        if op.code.is_relative() {
            // The largest immediate ends in 12 zero bits, and a block is shorter than a page.
            op.imm = op.imm.wrapping_add(offset as i32);
        }
        self.ops.push(op);
        self.parcels.extend(parcels);
    }

    fn is_done(&self) -> bool {
        self.ops.last().is_some_and(|op| op.code.ends_block())
    }

    fn finish(mut self, physical: u64, epoch: u64) -> Block {
        let count = self.ops.len() as u32;
        if !self.is_done() {
            let mut next = Op::new(Code::Next, SINK, 0, 0, 0);
            next.length = 0;
            self.push(next, &[]);
        }
        Block {
            ops: self.ops.into(),
            count,
            bytes: (self.parcels.len() * 2) as u16,
            parcels: self.parcels.into(),
            epoch,
            physical,
            successors: [const { Cell::new(NO_JUMP) }; 2],
        }
    }
}

/// Decodes the block at a physical address; `None` when its first instruction continues in the
/// following page.
fn build(physical: u64, page: RamPage, epoch: u64) -> Option<Block> {
    let mut builder = Builder::new();
    let mut offset = physical & OFFSET_MASK;
    while offset < PAGE_BYTES && builder.ops.len() < MAX_OPS && !builder.is_done() {
        let first: u16 = page.load(offset);
        if is_compressed(first) {
            builder.push(decode_compressed(first), &[first]);
            offset += 2;
        } else if offset + 2 < PAGE_BYTES {
            let second: u16 = page.load(offset + 2);
            builder.push(decode(join(first, second)), &[first, second]);
            offset += 4;
        } else {
            break;
        }
    }
    (!builder.ops.is_empty()).then(|| builder.finish(physical, epoch))
}

fn join(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// The block of one instruction that lies in two pages. It is not kept.
pub(crate) fn build_crossing(first: u16, second: u16) -> Block {
    let mut builder = Builder::new();
    builder.push(decode(join(first, second)), &[first, second]);
    builder.finish(0, 0)
}

/// Spreads physical addresses; they are no one's choice to attack us with but the guest's own.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// Where a virtual address leads, as long as nothing that it depends on changes.
#[derive(Clone, Copy)]
struct Jump {
    /// Virtual address; its lowest bit is the mode.
    key: u64,
    /// The CPU's number for what was in force then, and behind it the block's.
    target: u64,
}

const NO_JUMP: Jump = Jump { key: 0, target: 0 };
/// Bits of a block's number.
const BLOCK_BITS: u32 = 20;
const _: () = assert!(MAX_BLOCKS <= 1 << BLOCK_BITS);

impl Jump {
    #[inline(always)]
    fn block(self, key: u64, stamp: u64) -> Option<usize> {
        let known = self.key == key && self.target >> BLOCK_BITS == stamp;
        known.then_some((self.target & ((1 << BLOCK_BITS) - 1)) as usize)
    }
}

/// All decoded blocks.
pub(crate) struct Blocks {
    blocks: Vec<Option<Block>>,
    free: Vec<u32>,
    by_address: AddressMap<u32>,
    /// By number of the physical page.
    by_page: AddressMap<Vec<u32>>,
    jumps: Box<[Jump; JUMPS]>,
}

fn key(pc: u64, mode: Mode) -> u64 {
    pc | mode as u64
}

fn jump_slot(pc: u64) -> usize {
    ((pc >> 1) ^ (pc >> 13)) as usize & (JUMPS - 1)
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
            by_address: AddressMap::default(),
            by_page: AddressMap::default(),
            jumps: Box::new([NO_JUMP; JUMPS]),
        }
    }

    /// The block that a virtual address is known to lead to.
    #[inline(always)]
    pub(crate) fn jump(&self, pc: u64, mode: Mode, stamp: u64) -> Option<&Block> {
        let number = self.jumps[jump_slot(pc)].block(key(pc, mode), stamp)?;
        self.blocks.get(number)?.as_ref()
    }

    /// The block that follows one which ran from `base`.
    #[inline(always)]
    pub(crate) fn follow(
        &self,
        block: &Block,
        base: u64,
        pc: u64,
        mode: Mode,
        stamp: u64,
    ) -> Option<&Block> {
        let successor = block.successor(base, pc);
        if let Some(number) = successor.get().block(key(pc, mode), stamp) {
            return self.blocks.get(number)?.as_ref();
        }
        let jump = self.jumps[jump_slot(pc)];
        let number = jump.block(key(pc, mode), stamp)?;
        successor.set(jump);
        self.blocks.get(number)?.as_ref()
    }

    /// Makes a virtual address lead to the block at a physical address, which is decoded if need
    /// be; `false` when its first instruction continues in the following page.
    pub(crate) fn link(
        &mut self,
        pc: u64,
        mode: Mode,
        stamp: u64,
        physical: u64,
        page: RamPage,
        epoch: u64,
    ) -> bool {
        let Some(block) = self.find(physical, page, epoch) else {
            return false;
        };
        self.jumps[jump_slot(pc)] =
            Jump { key: key(pc, mode), target: stamp << BLOCK_BITS | u64::from(block) };
        true
    }

    fn find(&mut self, physical: u64, page: RamPage, epoch: u64) -> Option<u32> {
        if let Some(&number) = self.by_address.get(&physical)
            && let Some(Some(block)) = self.blocks.get_mut(number as usize)
        {
            if block.epoch == epoch {
                return Some(number);
            }
            if block.is_current(page) {
                block.epoch = epoch;
                return Some(number);
            }
            // Jumps to it carry an older stamp: the epoch has changed since.
            *block = build(physical, page, epoch)?;
            return Some(number);
        }
        let block = build(physical, page, epoch)?;
        if self.blocks.len() - self.free.len() >= MAX_BLOCKS {
            self.clear();
        }
        let number = self.free.pop().unwrap_or(self.blocks.len() as u32);
        match self.blocks.get_mut(number as usize) {
            Some(place) => *place = Some(block),
            None => self.blocks.push(Some(block)),
        }
        self.by_address.insert(physical, number);
        self.by_page.entry(physical >> PAGE_SHIFT).or_default().push(number);
        Some(number)
    }

    /// Drops the blocks of a physical page. The caller forgets all jumps.
    pub(crate) fn drop_page(&mut self, physical: u64) {
        for number in self.by_page.remove(&(physical >> PAGE_SHIFT)).unwrap_or_default() {
            if let Some(block) = self.blocks.get_mut(number as usize).and_then(Option::take) {
                self.by_address.remove(&block.physical);
                self.free.push(number);
            }
        }
    }

    /// Drops all blocks.
    fn clear(&mut self) {
        self.blocks.clear();
        self.free.clear();
        self.by_address.clear();
        self.by_page.clear();
        self.jumps.fill(NO_JUMP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_from_the_block_s_start() {
        let mut builder = Builder::new();
        builder.push(decode_compressed(0x0001), &[0x0001]); // c.nop
        builder.push(decode(0x0000_0517), &[0x0517, 0]); // auipc a0, 0
        let block = builder.finish(0, 0);
        assert_eq!(block.ops[1].imm, 2);
        assert_eq!((block.count, block.bytes), (2, 6));
        assert_eq!(block.ops[2].code, Code::Next);
    }
}
