//! The common case by the host's FPU.
//!
//! Rust's float operations are IEEE 754 operations, rounded to nearest even. The host's result is
//! the guest's, bits and flags, when
//!
//! - the guest rounds to nearest even too;
//! - the operands are zeros or normal numbers, so neither side sees a NaN or a subnormal;
//! - the result is finite and its magnitude is *above* the least normal number: no overflow, no
//!   division by zero, nothing invalid, and no underflow, because a result that was tiny before or
//!   after rounding rounds to the least normal number at most;
//! - so the only flag that the operation can raise is NX, and that one is raised already.
//!
//! Flags accrue, so programs that compute with floats have NX set almost always.

use super::format::Format;
use super::round::{Flags, Rounding};

/// Whether the host may try, as far as the guest's state goes.
#[inline]
fn may_try(rm: Rounding, flags: Flags) -> bool {
    rm == Rounding::NearestEven && flags.contains(Flags::INEXACT)
}

/// Zero or normal.
#[inline]
fn is_ordinary<F: Format>(bits: u64) -> bool {
    let magnitude = bits & !F::SIGN;
    magnitude == 0 || (F::MIN_NORMAL..F::INFINITY).contains(&magnitude)
}

#[inline]
fn accept<F: Format>(bits: u64) -> Option<u64> {
    let magnitude = bits & !F::SIGN;
    (magnitude > F::MIN_NORMAL && magnitude < F::INFINITY).then_some(bits)
}

/// The host's result for operands of that shape, if it is surely the guest's.
#[inline]
pub(super) fn attempt<F: Format, const N: usize>(
    operands: [u64; N],
    rm: Rounding,
    flags: Flags,
    operation: impl FnOnce([u64; N]) -> u64,
) -> Option<u64> {
    if may_try(rm, flags) && operands.iter().all(|&bits| is_ordinary::<F>(bits)) {
        accept::<F>(operation(operands))
    } else {
        None
    }
}
