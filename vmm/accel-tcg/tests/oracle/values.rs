//! Operand values: edges of the number formats as often as random ones.

use crate::random::Random;

const INTEGER_EDGES: [u64; 14] = [
    0,
    1,
    2,
    u64::MAX,
    u64::MAX - 1,
    i64::MAX as u64,
    i64::MIN as u64,
    i64::MIN as u64 + 1,
    i32::MAX as u64,
    i32::MIN as i64 as u64,
    u32::MAX as u64,
    1 << 32,
    0x5555_5555_5555_5555,
    0x0123_4567_89ab_cdef,
];

const DOUBLE_EDGES: [u64; 20] = [
    0,
    1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x0010_0000_0000_0001,
    0x3fe0_0000_0000_0000,
    0x3fef_ffff_ffff_ffff,
    0x3ff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x3ff8_0000_0000_0000,
    0x4004_0000_0000_0000,
    0x41df_ffff_ffe0_0000,
    0x41e0_0000_0000_0000,
    0x43df_ffff_ffff_ffff,
    0x43e0_0000_0000_0000,
    0x43f0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x7ff8_0000_0000_0000,
];

const SINGLE_EDGES: [u32; 19] = [
    0,
    1,
    0x007f_ffff,
    0x0080_0000,
    0x0080_0001,
    0x3f00_0000,
    0x3f7f_ffff,
    0x3f80_0000,
    0x3f80_0001,
    0x3fc0_0000,
    0x4020_0000,
    0x4eff_ffff,
    0x4f00_0000,
    0x4f80_0000,
    0x5f00_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7f80_0001,
    0x7fc0_0000,
];

/// An integer register's value.
pub(crate) fn integer(random: &mut Random) -> u64 {
    match random.below(6) {
        0 | 1 => *random.pick(&INTEGER_EDGES),
        2 => 1u64 << random.below(64),
        3 => (random.word() as i64 >> random.below(64)) as u64,
        4 => u64::from(random.bits(7)),
        _ => random.word(),
    }
}

/// A floating-point register's 64 bits: a double, a boxed single, or, rarely, neither.
pub(crate) fn float(random: &mut Random) -> u64 {
    match random.below(16) {
        0 => random.word(),
        1..=7 => 0xffff_ffff_0000_0000 | u64::from(single(random)),
        _ => double(random),
    }
}

fn double(random: &mut Random) -> u64 {
    let sign = u64::from(random.bits(1)) << 63;
    match random.below(6) {
        0 | 1 => *random.pick(&DOUBLE_EDGES) | sign,
        2 => (random.word() >> 12) | sign,
        3 => u64::from(0x3c0 + random.below(0x80)) << 52 | random.word() >> 12 | sign,
        4 => (f64::from(random.bits(8)) * 0.5).to_bits() | sign,
        _ => random.word(),
    }
}

fn single(random: &mut Random) -> u32 {
    let sign = random.bits(1) << 31;
    match random.below(6) {
        0 | 1 => *random.pick(&SINGLE_EDGES) | sign,
        2 => random.bits(23) | sign,
        3 => (0x60 + random.below(0x40)) << 23 | random.bits(23) | sign,
        4 => (random.bits(8) as f32 * 0.5).to_bits() | sign,
        _ => random.bits(32),
    }
}

/// Eight bytes of the scratch area: anything a load could want.
pub(crate) fn memory(random: &mut Random) -> u64 {
    if random.one_in(2) { integer(random) } else { float(random) }
}
