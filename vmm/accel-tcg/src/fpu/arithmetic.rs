//! Addition, multiplication, division, square root and the fused multiply-add.
//!
//! Each computes an exact result, or one that is exact but for a sticky bit far below the
//! rounding position, and rounds it once.

use super::format::{Finite, Format, Unpacked, infinity, is_signalling, unpack, zero};
use super::host;
use super::round::{Flags, Rounding, round, shift_right_sticky, upper_sticky};

/// The result when an operand is NaN: a signalling one is invalid.
#[cold]
fn propagate<F: Format>(operands: &[u64], flags: &mut Flags) -> u64 {
    if operands.iter().any(|&bits| is_signalling::<F>(bits)) {
        *flags |= Flags::INVALID;
    }
    F::CANONICAL_NAN
}

#[cold]
fn invalid<F: Format>(flags: &mut Flags) -> u64 {
    *flags |= Flags::INVALID;
    F::CANONICAL_NAN
}

/// `a + b`.
#[inline]
pub(super) fn add<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    host::attempt::<F, 2>([a, b], rm, *flags, |[a, b]| F::host_add(a, b))
        .unwrap_or_else(|| add_exactly::<F>(a, b, rm, flags))
}

/// `a - b`.
#[inline]
pub(super) fn subtract<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    // A NaN's sign has no meaning here, so flipping `b` is exact for every operand.
    add::<F>(a, b ^ F::SIGN, rm, flags)
}

fn add_exactly<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    use Unpacked::{Finite, Infinite, Nan, Zero};
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Nan { .. }, _) | (_, Nan { .. }) => propagate::<F>(&[a, b], flags),
        (Infinite { negative: x }, Infinite { negative: y }) if x != y => invalid::<F>(flags),
        (Infinite { negative }, _) | (_, Infinite { negative }) => infinity::<F>(negative),
        (Zero { negative: x }, Zero { negative: y }) => zero_sum::<F>(x, y, rm),
        (Zero { .. }, Finite(_)) => b,
        (Finite(_), Zero { .. }) => a,
        (Finite(x), Finite(y)) => sum::<F>(Term::of(x), Term::of(y), rm, flags),
    }
}

/// The sign of an exact zero sum (IEEE 754-2019, section 6.3).
fn zero_sum<F: Format>(x: bool, y: bool, rm: Rounding) -> u64 {
    zero::<F>(if x == y { x } else { rm == Rounding::Down })
}

/// A summand: `significand / 2^125 * 2^exponent`, not zero, leading bit at bit 125 or 126, so that
/// a sum does not overflow.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    exponent: i32,
    significand: u128,
}

impl Term {
    fn of(value: Finite) -> Self {
        Self {
            negative: value.negative,
            exponent: value.exponent,
            significand: u128::from(value.significand) << 62,
        }
    }

    /// An exact product. At most 106 leading bits of the 128 are in use, so none is lost.
    fn product(x: Finite, y: Finite) -> Self {
        Self {
            negative: x.negative != y.negative,
            exponent: x.exponent + y.exponent,
            significand: (u128::from(x.significand) * u128::from(y.significand)) >> 1,
        }
    }

    /// Rounds, with the leading bit wherever it is.
    fn round<F: Format>(self, rm: Rounding, flags: &mut Flags) -> u64 {
        let shift = self.significand.leading_zeros();
        let value = Finite {
            negative: self.negative,
            exponent: self.exponent + 2 - shift as i32,
            significand: upper_sticky(self.significand << shift),
        };
        round::<F>(value, rm, flags)
    }
}

/// Adds with the smaller term aligned to the larger one's exponent.
///
/// The sticky bit is safe under cancellation: when the exponents differ by three or more, at most
/// one leading bit cancels; when they differ by less, the operands' unused low bits (at least 19)
/// take the shift and nothing is lost.
fn sum<F: Format>(x: Term, y: Term, rm: Rounding, flags: &mut Flags) -> u64 {
    let (large, small) = if x.exponent >= y.exponent { (x, y) } else { (y, x) };
    let aligned = shift_right_sticky(small.significand, large.exponent.abs_diff(small.exponent));
    if large.negative == small.negative {
        let significand = large.significand + aligned;
        return Term { significand, ..large }.round::<F>(rm, flags);
    }
    let negative = if large.significand >= aligned { large.negative } else { small.negative };
    let significand = large.significand.abs_diff(aligned);
    if significand == 0 {
        return zero_sum::<F>(true, false, rm);
    }
    Term { negative, significand, ..large }.round::<F>(rm, flags)
}

/// `a * b`.
#[inline]
pub(super) fn multiply<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    host::attempt::<F, 2>([a, b], rm, *flags, |[a, b]| F::host_multiply(a, b))
        .unwrap_or_else(|| multiply_exactly::<F>(a, b, rm, flags))
}

fn multiply_exactly<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    use Unpacked::{Finite, Infinite, Nan, Zero};
    let negative = (a ^ b) & F::SIGN != 0;
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Nan { .. }, _) | (_, Nan { .. }) => propagate::<F>(&[a, b], flags),
        (Infinite { .. }, Zero { .. }) | (Zero { .. }, Infinite { .. }) => invalid::<F>(flags),
        (Infinite { .. }, _) | (_, Infinite { .. }) => infinity::<F>(negative),
        (Zero { .. }, _) | (_, Zero { .. }) => zero::<F>(negative),
        (Finite(x), Finite(y)) => Term::product(x, y).round::<F>(rm, flags),
    }
}

/// `a / b`.
#[inline]
pub(super) fn divide<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    host::attempt::<F, 2>([a, b], rm, *flags, |[a, b]| F::host_divide(a, b))
        .unwrap_or_else(|| divide_exactly::<F>(a, b, rm, flags))
}

fn divide_exactly<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    use Unpacked::{Finite, Infinite, Nan, Zero};
    let negative = (a ^ b) & F::SIGN != 0;
    match (unpack::<F>(a), unpack::<F>(b)) {
        (Nan { .. }, _) | (_, Nan { .. }) => propagate::<F>(&[a, b], flags),
        (Infinite { .. }, Infinite { .. }) | (Zero { .. }, Zero { .. }) => invalid::<F>(flags),
        (Infinite { .. }, _) => infinity::<F>(negative),
        (Zero { .. }, _) | (_, Infinite { .. }) => zero::<F>(negative),
        (Finite(_), Zero { .. }) => {
            *flags |= Flags::DIVIDE_BY_ZERO;
            infinity::<F>(negative)
        }
        (Finite(x), Finite(y)) => quotient(x, y).round::<F>(rm, flags),
    }
}

/// 64 or 63 bits of the quotient, the remainder as its sticky bit.
fn quotient(x: Finite, y: Finite) -> Term {
    let dividend = u128::from(x.significand) << 63;
    let divisor = u128::from(y.significand);
    let (digits, remainder) = (dividend / divisor, dividend % divisor);
    Term {
        negative: x.negative != y.negative,
        exponent: x.exponent - y.exponent,
        significand: (digits << 62) | u128::from(remainder != 0),
    }
}

/// The square root of `a`.
#[inline]
pub(super) fn square_root<F: Format>(a: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    host::attempt::<F, 1>([a], rm, *flags, |[a]| F::host_square_root(a))
        .unwrap_or_else(|| square_root_exactly::<F>(a, rm, flags))
}

fn square_root_exactly<F: Format>(a: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    match unpack::<F>(a) {
        Unpacked::Nan { .. } => propagate::<F>(&[a], flags),
        Unpacked::Zero { .. } => a,
        Unpacked::Finite(Finite { negative: true, .. }) | Unpacked::Infinite { negative: true } => {
            invalid::<F>(flags)
        }
        Unpacked::Infinite { negative: false } => a,
        Unpacked::Finite(x) => root(x).round::<F>(rm, flags),
    }
}

/// With an even exponent `2 e` and the significand as an integer `n`, the root is the integer root
/// of `n`, times `2^e`; 64 bits of it come from 128 bits of `n`.
fn root(x: Finite) -> Term {
    let odd = x.exponent.rem_euclid(2);
    let radicand = u128::from(x.significand) << (63 + odd);
    let digits = radicand.isqrt();
    Term {
        negative: false,
        exponent: (x.exponent - odd) / 2,
        significand: (digits << 62) | u128::from(digits * digits != radicand),
    }
}

/// `(a * b) + c`, rounded once. Infinity times zero is invalid whatever `c` is (RISC-V, chapter
/// "F Standard Extension", "Single-Precision Floating-Point Computational Instructions").
#[inline]
pub(super) fn fused_multiply_add<F: Format>(
    a: u64,
    b: u64,
    c: u64,
    rm: Rounding,
    flags: &mut Flags,
) -> u64 {
    host::attempt::<F, 3>([a, b, c], rm, *flags, |[a, b, c]| F::host_multiply_add(a, b, c))
        .unwrap_or_else(|| fused_exactly::<F>(a, b, c, rm, flags))
}

fn fused_exactly<F: Format>(a: u64, b: u64, c: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    use Unpacked::{Finite, Infinite, Nan, Zero};
    let product_negative = (a ^ b) & F::SIGN != 0;
    let (x, y, z) = (unpack::<F>(a), unpack::<F>(b), unpack::<F>(c));
    match (x, y, z) {
        (Infinite { .. }, Zero { .. }, _) | (Zero { .. }, Infinite { .. }, _) => {
            invalid::<F>(flags)
        }
        (Nan { .. }, _, _) | (_, Nan { .. }, _) | (_, _, Nan { .. }) => {
            propagate::<F>(&[a, b, c], flags)
        }
        (Infinite { .. }, _, Infinite { negative })
        | (_, Infinite { .. }, Infinite { negative })
            if negative != product_negative =>
        {
            invalid::<F>(flags)
        }
        (Infinite { .. }, _, _) | (_, Infinite { .. }, _) => infinity::<F>(product_negative),
        (_, _, Infinite { negative }) => infinity::<F>(negative),
        (Zero { .. }, _, Zero { negative }) | (_, Zero { .. }, Zero { negative }) => {
            zero_sum::<F>(product_negative, negative, rm)
        }
        (Zero { .. }, _, Finite(_)) | (_, Zero { .. }, Finite(_)) => c,
        (Finite(x), Finite(y), Zero { .. }) => Term::product(x, y).round::<F>(rm, flags),
        (Finite(x), Finite(y), Finite(z)) => sum::<F>(Term::product(x, y), Term::of(z), rm, flags),
    }
}
