//! The two binary interchange formats and how their bits come apart.

/// A binary interchange format of IEEE 754 (section 3.4), its bits held in a `u64`.
pub(super) trait Format {
    /// Bits of the fraction, without the implicit leading one.
    const FRACTION_BITS: u32;
    /// Bits of the exponent.
    const EXPONENT_BITS: u32;

    /// The sign bit.
    const SIGN: u64 = 1 << (Self::FRACTION_BITS + Self::EXPONENT_BITS);
    /// Positive infinity; as a magnitude, everything above it is NaN.
    const INFINITY: u64 = ((1 << Self::EXPONENT_BITS) - 1) << Self::FRACTION_BITS;
    /// The smallest positive normal number.
    const MIN_NORMAL: u64 = 1 << Self::FRACTION_BITS;
    /// The largest finite number.
    const MAX_FINITE: u64 = Self::INFINITY - 1;
    /// The fraction bit that tells a quiet NaN from a signalling one.
    const QUIET: u64 = 1 << (Self::FRACTION_BITS - 1);
    /// RISC-V's canonical NaN: positive, quiet, all other fraction bits clear.
    const CANONICAL_NAN: u64 = Self::INFINITY | Self::QUIET;
    /// What is added to an exponent when it is stored.
    const BIAS: i32 = (1 << (Self::EXPONENT_BITS - 1)) - 1;

    /// `a + b` by the host's FPU, to nearest even.
    fn host_add(a: u64, b: u64) -> u64;
    /// `a * b` by the host's FPU, to nearest even.
    fn host_multiply(a: u64, b: u64) -> u64;
    /// `a / b` by the host's FPU, to nearest even.
    fn host_divide(a: u64, b: u64) -> u64;
    /// The square root of `a` by the host's FPU, to nearest even.
    fn host_square_root(a: u64) -> u64;
    /// `(a * b) + c` rounded once, to nearest even, by the host.
    fn host_multiply_add(a: u64, b: u64, c: u64) -> u64;
}

/// binary32.
pub(super) struct Single;
/// binary64.
pub(super) struct Double;

impl Format for Single {
    const FRACTION_BITS: u32 = 23;
    const EXPONENT_BITS: u32 = 8;

    #[inline]
    fn host_add(a: u64, b: u64) -> u64 {
        from_single(single(a) + single(b))
    }
    #[inline]
    fn host_multiply(a: u64, b: u64) -> u64 {
        from_single(single(a) * single(b))
    }
    #[inline]
    fn host_divide(a: u64, b: u64) -> u64 {
        from_single(single(a) / single(b))
    }
    #[inline]
    fn host_square_root(a: u64) -> u64 {
        from_single(single(a).sqrt())
    }
    #[inline]
    fn host_multiply_add(a: u64, b: u64, c: u64) -> u64 {
        from_single(single(a).mul_add(single(b), single(c)))
    }
}

impl Format for Double {
    const FRACTION_BITS: u32 = 52;
    const EXPONENT_BITS: u32 = 11;

    #[inline]
    fn host_add(a: u64, b: u64) -> u64 {
        (f64::from_bits(a) + f64::from_bits(b)).to_bits()
    }
    #[inline]
    fn host_multiply(a: u64, b: u64) -> u64 {
        (f64::from_bits(a) * f64::from_bits(b)).to_bits()
    }
    #[inline]
    fn host_divide(a: u64, b: u64) -> u64 {
        (f64::from_bits(a) / f64::from_bits(b)).to_bits()
    }
    #[inline]
    fn host_square_root(a: u64) -> u64 {
        f64::from_bits(a).sqrt().to_bits()
    }
    #[inline]
    fn host_multiply_add(a: u64, b: u64, c: u64) -> u64 {
        f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
    }
}

// The upper half of a single's `u64` is zero.
fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn from_single(value: f32) -> u64 {
    value.to_bits().into()
}

/// A number that is neither zero, infinite nor NaN: `significand / 2^63 * 2^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finite {
    /// Whether it is below zero.
    pub(super) negative: bool,
    /// Exponent of the significand's leading bit.
    pub(super) exponent: i32,
    /// Leading bit at bit 63, so always set. Bit 0 of an intermediate result is sticky.
    pub(super) significand: u64,
}

/// What some bits mean.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unpacked {
    /// Zero.
    Zero {
        /// The zero's sign.
        negative: bool,
    },
    /// A normal or subnormal number.
    Finite(Finite),
    /// Infinity.
    Infinite {
        /// Whether it is minus infinity.
        negative: bool,
    },
    /// Not a number.
    Nan {
        /// Whether its use is an invalid operation.
        signalling: bool,
    },
}

/// Takes bits apart.
#[inline]
pub(super) fn unpack<F: Format>(bits: u64) -> Unpacked {
    let negative = bits & F::SIGN != 0;
    let magnitude = bits & !F::SIGN;
    if magnitude == 0 {
        Unpacked::Zero { negative }
    } else if magnitude < F::INFINITY {
        Unpacked::Finite(unpack_finite::<F>(negative, magnitude))
    } else if magnitude == F::INFINITY {
        Unpacked::Infinite { negative }
    } else {
        let signalling = magnitude & F::QUIET == 0;
        Unpacked::Nan { signalling }
    }
}

fn unpack_finite<F: Format>(negative: bool, magnitude: u64) -> Finite {
    let stored = (magnitude >> F::FRACTION_BITS) as i32;
    if stored == 0 {
        let shift = magnitude.leading_zeros();
        // A subnormal's unit is the least normal exponent less the fraction's width.
        let unit = 1 - F::BIAS - F::FRACTION_BITS as i32;
        return Finite {
            negative,
            exponent: unit + 63 - shift as i32,
            significand: magnitude << shift,
        };
    }
    let fraction = magnitude << (63 - F::FRACTION_BITS);
    Finite { negative, exponent: stored - F::BIAS, significand: fraction | 1 << 63 }
}

/// Whether the bits are a signalling NaN.
#[inline]
pub(super) fn is_signalling<F: Format>(bits: u64) -> bool {
    is_nan::<F>(bits) && bits & F::QUIET == 0
}

/// Whether the bits are a NaN.
#[inline]
pub(super) fn is_nan<F: Format>(bits: u64) -> bool {
    bits & !F::SIGN > F::INFINITY
}

/// Infinity of the given sign.
#[inline]
pub(super) fn infinity<F: Format>(negative: bool) -> u64 {
    signed::<F>(negative, F::INFINITY)
}

/// Zero of the given sign.
#[inline]
pub(super) fn zero<F: Format>(negative: bool) -> u64 {
    signed::<F>(negative, 0)
}

/// A magnitude with a sign.
#[inline]
pub(super) fn signed<F: Format>(negative: bool, magnitude: u64) -> u64 {
    if negative { magnitude | F::SIGN } else { magnitude }
}
