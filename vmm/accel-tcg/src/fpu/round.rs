//! Rounding modes, accrued flags, and the one place where results are rounded.

use super::format::{Finite, Format, infinity, signed};
use std::ops::BitOrAssign;

/// Rounding mode; the discriminant is its encoding in `frm` and in instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// RNE: to nearest, ties to even.
    NearestEven = 0,
    /// RTZ: towards zero.
    TowardZero = 1,
    /// RDN: down, towards minus infinity.
    Down = 2,
    /// RUP: up, towards plus infinity.
    Up = 3,
    /// RMM: to nearest, ties to the larger magnitude.
    NearestMaxMagnitude = 4,
}

impl Rounding {
    /// The mode of an encoding; `None` for DYN (7) and the reserved ones.
    #[inline]
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::NearestEven,
            1 => Self::TowardZero,
            2 => Self::Down,
            3 => Self::Up,
            4 => Self::NearestMaxMagnitude,
            _ => return None,
        })
    }
}

/// Accrued exceptions, bits as in `fflags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// None raised.
    pub(crate) const NONE: Self = Self(0);
    /// NX: the result was rounded.
    pub(crate) const INEXACT: Self = Self(1);
    /// UF: the result is tiny and was rounded.
    pub(crate) const UNDERFLOW: Self = Self(2);
    /// OF: the result is too large for the format.
    pub(crate) const OVERFLOW: Self = Self(4);
    /// DZ: a finite number was divided by zero.
    pub(crate) const DIVIDE_BY_ZERO: Self = Self(8);
    /// NV: the operation has no meaning for its operands.
    pub(crate) const INVALID: Self = Self(16);

    /// From `fflags`; bits beyond the five are dropped.
    #[inline]
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x1f)
    }

    /// As in `fflags`.
    #[inline]
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are raised.
    #[inline]
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// `value >> shift` with every bit shifted out kept as one sticky bit at the bottom, so that a later
/// rounding sees that the value was not exact.
#[inline]
pub(super) fn shift_right_sticky(value: u128, shift: u32) -> u128 {
    match shift {
        0 => value,
        1..=127 => (value >> shift) | u128::from(value << (128 - shift) != 0),
        _ => u128::from(value != 0),
    }
}

/// As [`shift_right_sticky`], for one word.
#[inline]
pub(super) fn shift_right_sticky_word(value: u64, shift: u32) -> u64 {
    match shift {
        0 => value,
        1..=63 => (value >> shift) | u64::from(value << (64 - shift) != 0),
        _ => u64::from(value != 0),
    }
}

/// The upper word of a value, with the lower one as its sticky bit.
#[inline]
pub(super) fn upper_sticky(value: u128) -> u64 {
    (value >> 64) as u64 | u64::from(value as u64 != 0)
}

/// Whether a magnitude goes up to the next one. `odd` is the lowest kept bit; `rest` is what is
/// dropped, as a fraction of 2^64.
#[inline]
pub(super) fn rounds_up(negative: bool, odd: bool, rest: u64, rm: Rounding) -> bool {
    const HALF: u64 = 1 << 63;
    match rm {
        Rounding::NearestEven => rest > HALF || (rest == HALF && odd),
        Rounding::TowardZero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::NearestMaxMagnitude => rest >= HALF,
    }
}

/// A significand rounded to the format's precision, and whether bits were lost. The result may
/// have carried into one bit more.
#[inline]
fn round_significand<F: Format>(negative: bool, significand: u64, rm: Rounding) -> (u64, bool) {
    let dropped = 63 - F::FRACTION_BITS;
    let kept = significand >> dropped;
    let rest = significand << (64 - dropped);
    let up = rounds_up(negative, kept & 1 != 0, rest, rm);
    (kept + u64::from(up), rest != 0)
}

/// Rounds an exact result (up to its sticky bit) into the format and raises what that raises.
#[inline]
pub(super) fn round<F: Format>(value: Finite, rm: Rounding, flags: &mut Flags) -> u64 {
    let Finite { negative, exponent, significand } = value;
    let stored = exponent + F::BIAS;
    if stored < 1 {
        return round_subnormal::<F>(negative, stored, significand, rm, flags);
    }
    let (kept, inexact) = round_significand::<F>(negative, significand, rm);
    // `kept` carries the implicit one, which adds 1 to the stored exponent; so does a carry.
    let magnitude = ((stored as u64 - 1) << F::FRACTION_BITS) + kept;
    if magnitude >= F::INFINITY {
        return overflow::<F>(negative, rm, flags);
    }
    if inexact {
        *flags |= Flags::INEXACT;
    }
    signed::<F>(negative, magnitude)
}

/// The result below the normal range. Tiny is what would stay below it if it were rounded with an
/// unbounded exponent (IEEE 754-2019, section 7.5, "after rounding").
#[cold]
fn round_subnormal<F: Format>(
    negative: bool,
    stored: i32,
    significand: u64,
    rm: Rounding,
    flags: &mut Flags,
) -> u64 {
    // `stored` is at most 0 here.
    let shifted = shift_right_sticky_word(significand, stored.abs_diff(1));
    let (magnitude, inexact) = round_significand::<F>(negative, shifted, rm);
    if inexact {
        *flags |= Flags::INEXACT;
        let (unbounded, _) = round_significand::<F>(negative, significand, rm);
        let reaches_normal = stored == 0 && unbounded == F::MIN_NORMAL * 2;
        if !reaches_normal {
            *flags |= Flags::UNDERFLOW;
        }
    }
    signed::<F>(negative, magnitude)
}

#[cold]
fn overflow<F: Format>(negative: bool, rm: Rounding, flags: &mut Flags) -> u64 {
    *flags |= Flags::OVERFLOW;
    *flags |= Flags::INEXACT;
    let to_infinity = match rm {
        Rounding::NearestEven | Rounding::NearestMaxMagnitude => true,
        Rounding::TowardZero => false,
        Rounding::Down => negative,
        Rounding::Up => !negative,
    };
    if to_infinity { infinity::<F>(negative) } else { signed::<F>(negative, F::MAX_FINITE) }
}
