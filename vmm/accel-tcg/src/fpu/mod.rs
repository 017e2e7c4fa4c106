//! IEEE 754 single and double arithmetic as the RISC-V F and D extensions define it.
//!
//! Works on raw bits and integers alone: all five rounding modes, exact accrued flags, tininess
//! detected after rounding, and the canonical NaN for every NaN result (RISC-V unprivileged
//! specification, chapter "F Standard Extension", "NaN Generation and Propagation").
//!
//! ```text
//!  bits --unpack--> Unpacked --arithmetic--> (sign, exponent, 64-bit significand + sticky) --round--> bits
//!        format.rs            arithmetic.rs                                           round.rs
//! ```
//!
//! An operation is written once over [`format::Format`]; [`f32`] and [`f64`] give it its types.
//! `host.rs` answers the common case by the host's FPU, where that is provably the same.

mod arithmetic;
mod compare;
mod convert;
mod format;
mod host;
mod round;
#[cfg(test)]
mod tests;

pub(crate) use round::{Flags, Rounding};

/// The typed face of the operations for one format.
macro_rules! operations {
    ($name:ident, $format:ident, $bits:ty, $doc:literal) => {
        #[doc = $doc]
        ///
        /// Arguments and results are raw bits; `flags` accumulates.
        pub(crate) mod $name {
            use super::format::$format as Format;
            use super::{Flags, Rounding, arithmetic, compare, convert};

            // Results of the generic operations never exceed the format's width.
            const fn narrow(bits: u64) -> $bits {
                bits as $bits
            }

            /// The NaN that every invalid operation gives.
            #[allow(dead_code)] // Doubles need no unboxing, which is what it is for.
            pub(crate) const CANONICAL_NAN: $bits =
                narrow(<Format as super::format::Format>::CANONICAL_NAN);

            operations!(@rounded $bits, add(a, b), arithmetic::add, "`a + b`.");
            operations!(@rounded $bits, sub(a, b), arithmetic::subtract, "`a - b`.");
            operations!(@rounded $bits, mul(a, b), arithmetic::multiply, "`a * b`.");
            operations!(@rounded $bits, div(a, b), arithmetic::divide, "`a / b`.");
            operations!(@rounded $bits, sqrt(a), arithmetic::square_root, "The square root of `a`.");
            operations!(@rounded $bits, fmadd(a, b, c), arithmetic::fused_multiply_add,
                "`(a * b) + c`, rounded once.");

            const SIGN: $bits = 1 << (<$bits>::BITS - 1);

            /// `(a * b) - c`, rounded once.
            #[inline]
            pub(crate) fn fmsub(a: $bits, b: $bits, c: $bits, rm: Rounding, flags: &mut Flags) -> $bits {
                fmadd(a, b, c ^ SIGN, rm, flags)
            }

            /// `-(a * b) + c`, rounded once.
            #[inline]
            pub(crate) fn fnmsub(a: $bits, b: $bits, c: $bits, rm: Rounding, flags: &mut Flags) -> $bits {
                fmadd(a ^ SIGN, b, c, rm, flags)
            }

            /// `-(a * b) - c`, rounded once.
            #[inline]
            pub(crate) fn fnmadd(a: $bits, b: $bits, c: $bits, rm: Rounding, flags: &mut Flags) -> $bits {
                fmadd(a ^ SIGN, b, c ^ SIGN, rm, flags)
            }

            /// IEEE 754-2019 minimumNumber: a NaN loses against a number, -0 is less than +0.
            #[inline]
            pub(crate) fn min(a: $bits, b: $bits, flags: &mut Flags) -> $bits {
                narrow(compare::minimum::<Format>(a.into(), b.into(), flags))
            }

            /// IEEE 754-2019 maximumNumber: a NaN loses against a number, +0 is more than -0.
            #[inline]
            pub(crate) fn max(a: $bits, b: $bits, flags: &mut Flags) -> $bits {
                narrow(compare::maximum::<Format>(a.into(), b.into(), flags))
            }

            /// `a == b`; only a signalling NaN is invalid.
            #[inline]
            pub(crate) fn eq(a: $bits, b: $bits, flags: &mut Flags) -> bool {
                compare::equal::<Format>(a.into(), b.into(), flags)
            }

            /// `a < b`; every NaN is invalid.
            #[inline]
            pub(crate) fn lt(a: $bits, b: $bits, flags: &mut Flags) -> bool {
                compare::less::<Format>(a.into(), b.into(), flags)
            }

            /// `a <= b`; every NaN is invalid.
            #[inline]
            pub(crate) fn le(a: $bits, b: $bits, flags: &mut Flags) -> bool {
                compare::less_or_equal::<Format>(a.into(), b.into(), flags)
            }

            /// The one-hot mask of FCLASS.
            #[inline]
            pub(crate) fn classify(a: $bits) -> u64 {
                compare::classify::<Format>(a.into())
            }

            /// FSGNJ: `a` with the sign of `b`.
            #[inline]
            pub(crate) const fn sgnj(a: $bits, b: $bits) -> $bits {
                (a & !SIGN) | (b & SIGN)
            }

            /// FSGNJN: `a` with the opposite of the sign of `b`.
            #[inline]
            pub(crate) const fn sgnjn(a: $bits, b: $bits) -> $bits {
                (a & !SIGN) | (!b & SIGN)
            }

            /// FSGNJX: `a` with the exclusive or of both signs.
            #[inline]
            pub(crate) const fn sgnjx(a: $bits, b: $bits) -> $bits {
                a ^ (b & SIGN)
            }

            operations!(@integer $bits, to_i32, from_i32, i32);
            operations!(@integer $bits, to_u32, from_u32, u32);
            operations!(@integer $bits, to_i64, from_i64, i64);
            operations!(@integer $bits, to_u64, from_u64, u64);
        }
    };
    (@rounded $bits:ty, $name:ident($($argument:ident),+), $generic:path, $doc:literal) => {
        #[doc = $doc]
        #[inline]
        pub(crate) fn $name($($argument: $bits,)+ rm: Rounding, flags: &mut Flags) -> $bits {
            use $generic as generic;
            narrow(generic::<Format>($($argument.into(),)+ rm, flags))
        }
    };
    (@integer $bits:ty, $to:ident, $from:ident, $integer:ty) => {
        /// To an integer; what does not fit, and a NaN, saturates and is invalid.
        #[inline]
        pub(crate) fn $to(a: $bits, rm: Rounding, flags: &mut Flags) -> $integer {
            let range = i128::from(<$integer>::MIN)..=i128::from(<$integer>::MAX);
            // Saturated to the type's range.
            convert::to_integer::<Format>(a.into(), range, rm, flags) as $integer
        }

        /// From an integer.
        #[inline]
        pub(crate) fn $from(a: $integer, rm: Rounding, flags: &mut Flags) -> $bits {
            narrow(convert::from_integer::<Format>(i128::from(a), rm, flags))
        }
    };
}

operations!(f32, Single, u32, "Single precision, binary32.");
operations!(f64, Double, u64, "Double precision, binary64.");

/// FCVT.S.D: double to single.
#[inline]
pub(crate) fn f64_to_f32(a: u64, rm: Rounding, flags: &mut Flags) -> u32 {
    // A single's bits fit by construction.
    convert::between::<format::Double, format::Single>(a, rm, flags) as u32
}

/// FCVT.D.S: single to double, always exact.
#[inline]
pub(crate) fn f32_to_f64(a: u32, flags: &mut Flags) -> u64 {
    convert::between::<format::Single, format::Double>(a.into(), Rounding::NearestEven, flags)
}
