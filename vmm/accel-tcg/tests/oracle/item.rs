//! Pieces of a random program: a few instructions that stay together, and forward jumps over other
//! pieces.

use std::fmt;

/// How a piece reaches its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// B-type: conditional branch.
    Branch,
    /// J-type: JAL.
    Jump,
    /// AUIPC before it, I-type: JALR. The offset counts from the AUIPC.
    Indirect,
    /// CJ.
    ShortJump,
    /// CB.
    ShortBranch,
    /// AUIPC and ADDI before it, C.JR or C.JALR. The offset goes into the ADDI.
    ShortIndirect,
}

/// A jump over some of the following pieces, so that removing pieces leaves a valid program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) reach: Reach,
    /// Pieces jumped over; fewer at the end of the program.
    pub(crate) skip: usize,
}

/// A piece.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// For people, when it is part of a difference.
    pub(crate) text: String,
    /// The code in 16-bit parcels; jump offsets are zero until [`assemble`].
    pub(crate) parcels: Vec<u16>,
    pub(crate) target: Option<Target>,
}

impl Item {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), parcels: Vec::new(), target: None }
    }

    pub(crate) fn word(mut self, word: u32) -> Self {
        self.parcels.extend([word as u16, (word >> 16) as u16]);
        self
    }

    pub(crate) fn half(mut self, half: u16) -> Self {
        self.parcels.push(half);
        self
    }

    pub(crate) fn jumping(mut self, reach: Reach, skip: usize) -> Self {
        self.target = Some(Target { reach, skip });
        self
    }

    /// Bytes of code.
    pub(crate) fn bytes(&self) -> usize {
        self.parcels.len() * 2
    }

    fn word_at(&self, parcel: usize) -> u32 {
        u32::from(self.parcels[parcel]) | u32::from(self.parcels[parcel + 1]) << 16
    }

    fn or_word(&mut self, parcel: usize, bits: u32) {
        let word = self.word_at(parcel) | bits;
        self.parcels[parcel] = word as u16;
        self.parcels[parcel + 1] = (word >> 16) as u16;
    }

    /// Puts in the distance from the end of this piece to its target.
    fn resolve(&mut self, beyond: usize) {
        let Some(target) = self.target else { return };
        let last = self.parcels.len();
        // Offset from the last instruction, whose length depends on its form.
        let from_word = (beyond + 4) as u32;
        let from_half = (beyond + 2) as u32;
        let whole = (beyond + self.bytes()) as u32;
        match target.reach {
            Reach::Branch => self.or_word(last - 2, branch_offset(from_word)),
            Reach::Jump => self.or_word(last - 2, jump_offset(from_word)),
            Reach::Indirect => self.or_word(last - 2, whole << 20),
            Reach::ShortJump => self.parcels[last - 1] |= short_jump_offset(from_half),
            Reach::ShortBranch => self.parcels[last - 1] |= short_branch_offset(from_half),
            Reach::ShortIndirect => self.or_word(last - 3, whole << 20),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)?;
        if let Some(target) = self.target {
            write!(f, "  over {}", target.skip)?;
        }
        write!(f, "   #")?;
        self.parcels.iter().try_for_each(|parcel| write!(f, " {parcel:04x}"))
    }
}

/// `value`'s bit `from` moved to bit `to`.
fn bit(value: u32, from: u32, to: u32) -> u32 {
    (value >> from & 1) << to
}

/// Offset bits of a B-type instruction.
pub(crate) fn branch_offset(offset: u32) -> u32 {
    bit(offset, 12, 31) | (offset >> 5 & 0x3f) << 25 | (offset >> 1 & 0xf) << 8 | bit(offset, 11, 7)
}

/// Offset bits of a J-type instruction.
pub(crate) fn jump_offset(offset: u32) -> u32 {
    let middle = offset & 0xff000;
    bit(offset, 20, 31) | (offset >> 1 & 0x3ff) << 21 | bit(offset, 11, 20) | middle
}

fn short_jump_offset(offset: u32) -> u16 {
    let moves = [
        (11, 12),
        (4, 11),
        (9, 10),
        (8, 9),
        (10, 8),
        (6, 7),
        (7, 6),
        (3, 5),
        (2, 4),
        (1, 3),
        (5, 2),
    ];
    moves.iter().fold(0, |bits, &(from, to)| bits | bit(offset, from, to)) as u16
}

fn short_branch_offset(offset: u32) -> u16 {
    assert!(offset < 256, "compressed branch over {offset} bytes");
    let moves = [(8, 12), (4, 11), (3, 10), (7, 6), (6, 5), (2, 4), (1, 3), (5, 2)];
    moves.iter().fold(0, |bits, &(from, to)| bits | bit(offset, from, to)) as u16
}

/// The code of a program, with its jumps resolved.
pub(crate) fn assemble(items: &[Item]) -> Vec<u16> {
    let mut code = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut item = item.clone();
        if let Some(target) = item.target {
            let beyond = items[index + 1..].iter().take(target.skip).map(Item::bytes).sum();
            item.resolve(beyond);
        }
        code.extend(item.parcels);
    }
    code
}
