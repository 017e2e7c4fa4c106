//! Conversions between the formats and from and to integers.

use super::format::{Finite, Format, Unpacked, infinity, unpack, zero};
use super::round::{Flags, Rounding, round, rounds_up, shift_right_sticky};
use std::ops::RangeInclusive;

/// From one format to another.
#[inline]
pub(super) fn between<Source: Format, Target: Format>(
    bits: u64,
    rm: Rounding,
    flags: &mut Flags,
) -> u64 {
    match unpack::<Source>(bits) {
        Unpacked::Zero { negative } => zero::<Target>(negative),
        Unpacked::Infinite { negative } => infinity::<Target>(negative),
        Unpacked::Finite(value) => round::<Target>(value, rm, flags),
        Unpacked::Nan { signalling } => {
            if signalling {
                *flags |= Flags::INVALID;
            }
            Target::CANONICAL_NAN
        }
    }
}

/// To an integer in `range`. What rounds to something outside saturates and is invalid; a NaN
/// counts as plus infinity (RISC-V, table "Domains of float-to-integer conversions").
#[inline]
pub(super) fn to_integer<F: Format>(
    bits: u64,
    range: RangeInclusive<i128>,
    rm: Rounding,
    flags: &mut Flags,
) -> i128 {
    let (value, inexact) = match unpack::<F>(bits) {
        Unpacked::Zero { .. } => return 0,
        Unpacked::Nan { .. } => (i128::MAX, false),
        Unpacked::Infinite { negative } => (if negative { i128::MIN } else { i128::MAX }, false),
        Unpacked::Finite(value) => integer_part(value, rm),
    };
    if !range.contains(&value) {
        *flags |= Flags::INVALID;
        return value.clamp(*range.start(), *range.end());
    }
    if inexact {
        *flags |= Flags::INEXACT;
    }
    value
}

/// The number rounded to an integer, and whether that changed it. Exact below 2^64; something far
/// outside every integer type above.
fn integer_part(value: Finite, rm: Rounding) -> (i128, bool) {
    let Finite { negative, exponent, significand } = value;
    let magnitude: i128;
    let rest: u64;
    if exponent > 63 {
        (magnitude, rest) = (1 << 64, 0);
    } else {
        // Fixed point with 64 bits after the point.
        let fixed = shift_right_sticky(u128::from(significand) << 64, exponent.abs_diff(63));
        rest = fixed as u64;
        let whole = fixed >> 64;
        let up = rounds_up(negative, whole & 1 != 0, rest, rm);
        // At most 2^64.
        magnitude = whole as i128 + i128::from(up);
    }
    (if negative { -magnitude } else { magnitude }, rest != 0)
}

/// From an integer of at most 64 bits and a sign.
#[inline]
pub(super) fn from_integer<F: Format>(value: i128, rm: Rounding, flags: &mut Flags) -> u64 {
    let magnitude = value.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    debug_assert!(magnitude <= u128::from(u64::MAX), "{value}");
    let word = magnitude as u64;
    let shift = word.leading_zeros();
    let value =
        Finite { negative: value < 0, exponent: 63 - shift as i32, significand: word << shift };
    round::<F>(value, rm, flags)
}
