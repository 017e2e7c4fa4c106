//! Comparisons, minimum, maximum and classification.

use super::format::{Format, Unpacked, is_nan, is_signalling, unpack};
use super::round::Flags;

/// A signed integer that orders numbers as their values do, with -0 just below +0.
#[inline]
fn order<F: Format>(bits: u64) -> i64 {
    // A magnitude has 63 bits at most.
    let magnitude = (bits & !F::SIGN) as i64;
    if bits & F::SIGN != 0 { !magnitude } else { magnitude }
}

#[inline]
fn both_zero<F: Format>(a: u64, b: u64) -> bool {
    (a | b) & !F::SIGN == 0
}

#[inline]
fn raise_if_signalling<F: Format>(a: u64, b: u64, flags: &mut Flags) {
    if is_signalling::<F>(a) || is_signalling::<F>(b) {
        *flags |= Flags::INVALID;
    }
}

/// The lesser; see [`select`].
#[inline]
pub(super) fn minimum<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    select::<F>(a, b, order::<F>(a) < order::<F>(b), flags)
}

/// The greater; see [`select`].
#[inline]
pub(super) fn maximum<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    select::<F>(a, b, order::<F>(a) > order::<F>(b), flags)
}

/// `a` if it is chosen, else `b`; a number wins over a NaN, two NaNs give the canonical one
/// (RISC-V, version 2.2 of F, FMIN and FMAX).
#[inline]
fn select<F: Format>(a: u64, b: u64, choose_a: bool, flags: &mut Flags) -> u64 {
    raise_if_signalling::<F>(a, b, flags);
    match (is_nan::<F>(a), is_nan::<F>(b)) {
        (true, true) => F::CANONICAL_NAN,
        (true, false) => b,
        (false, true) => a,
        (false, false) if choose_a => a,
        (false, false) => b,
    }
}

/// `a == b`, quiet.
#[inline]
pub(super) fn equal<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    raise_if_signalling::<F>(a, b, flags);
    !is_nan::<F>(a) && (a == b || both_zero::<F>(a, b)) && !is_nan::<F>(b)
}

/// `a < b`, signalling.
#[inline]
pub(super) fn less<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    comparable::<F>(a, b, flags) && order::<F>(a) < order::<F>(b) && !both_zero::<F>(a, b)
}

/// `a <= b`, signalling.
#[inline]
pub(super) fn less_or_equal<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    comparable::<F>(a, b, flags) && (order::<F>(a) <= order::<F>(b) || both_zero::<F>(a, b))
}

#[inline]
fn comparable<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    let ordered = !is_nan::<F>(a) && !is_nan::<F>(b);
    if !ordered {
        *flags |= Flags::INVALID;
    }
    ordered
}

/// The mask of FCLASS (RISC-V, table "Format of result of FCLASS instruction").
pub(super) fn classify<F: Format>(bits: u64) -> u64 {
    let normal = bits & !F::SIGN >= F::MIN_NORMAL;
    1 << match unpack::<F>(bits) {
        Unpacked::Infinite { negative: true } => 0,
        Unpacked::Finite(value) if value.negative && normal => 1,
        Unpacked::Finite(value) if value.negative => 2,
        Unpacked::Zero { negative: true } => 3,
        Unpacked::Zero { negative: false } => 4,
        Unpacked::Finite(_) if !normal => 5,
        Unpacked::Finite(_) => 6,
        Unpacked::Infinite { negative: false } => 7,
        Unpacked::Nan { signalling: true } => 8,
        Unpacked::Nan { signalling: false } => 9,
    }
}
