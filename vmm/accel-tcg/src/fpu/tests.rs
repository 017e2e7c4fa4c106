//! Known cases, and the host's FPU as the judge of results rounded to nearest even.

use super::{Flags, Rounding, f32, f32_to_f64, f64, f64_to_f32};
use proptest::prelude::*;
use std::primitive::{f32 as Single, f64 as Double};

const NX: Flags = Flags::INEXACT;
const RNE: Rounding = Rounding::NearestEven;
const MODES: [Rounding; 5] =
    [RNE, Rounding::TowardZero, Rounding::Down, Rounding::Up, Rounding::NearestMaxMagnitude];

/// Runs an operation with no flags raised and gives the result and what it raised.
fn observe<T>(operation: impl FnOnce(&mut Flags) -> T) -> (T, u8) {
    let mut flags = Flags::NONE;
    let result = operation(&mut flags);
    (result, flags.bits())
}

fn double(value: Double) -> u64 {
    value.to_bits()
}

fn single(value: Single) -> u32 {
    value.to_bits()
}

const SIGNALLING_32: u32 = 0x7f80_0001;
const SIGNALLING_64: u64 = 0x7ff0_0000_0000_0001;
const QUIET_64: u64 = 0xfff8_0000_0000_1234;

#[test]
fn ties_and_directions_of_the_five_modes() {
    // 1 + 2^-53 is a tie between 1 and the next double.
    let (one, half_unit) = (double(1.0), double(Double::EPSILON / 2.0));
    let next = one + 1;
    for (rm, positive, negative) in [
        (MODES[0], one, one),
        (MODES[1], one, one),
        (MODES[2], one, next),
        (MODES[3], next, one),
        (MODES[4], next, next),
    ] {
        assert_eq!(observe(|f| f64::add(one, half_unit, rm, f)), (positive, 1));
        let sign = 1 << 63;
        let minus = observe(|f| f64::add(one | sign, half_unit | sign, rm, f));
        assert_eq!(minus, (negative | sign, 1), "{rm:?}");
    }
}

#[test]
fn an_exact_zero_sum_is_negative_only_when_rounding_down() {
    for rm in MODES {
        let zero = if rm == Rounding::Down { 1 << 31 } else { 0 };
        let three = single(3.0);
        assert_eq!(observe(|f| f32::sub(three, three, rm, f)), (zero, 0));
        let fused = observe(|f| f32::fmsub(three, single(1.0), three, rm, f));
        assert_eq!(fused, (zero, 0));
    }
}

#[test]
fn overflow_goes_where_the_mode_says() {
    let max = double(Double::MAX);
    let infinity = double(Double::INFINITY);
    for (rm, expected) in MODES.into_iter().zip([infinity, max, max, infinity, infinity]) {
        assert_eq!(observe(|f| f64::add(max, max, rm, f)), (expected, 5), "{rm:?}");
    }
}

#[test]
fn tininess_is_detected_after_rounding() {
    // (2 - 2^-23) * 2^-127, a tie between the largest subnormal and the least normal single. With
    // an unbounded exponent it is exact and stays below the normal range: tiny.
    let least = single(Single::MIN_POSITIVE);
    let below_one = single(1.0) - 1;
    assert_eq!(observe(|f| f32::mul(least, below_one, RNE, f)), (least, 3));
    // A double just below the least normal single that rounds up to it at full precision: not tiny.
    let double_least = double(Double::from(Single::MIN_POSITIVE));
    assert_eq!(observe(|f| f64_to_f32(double_least - 1, RNE, f)), (least, 1));
    // Exact subnormals never underflow.
    assert_eq!(observe(|f| f32::mul(least, single(0.5), RNE, f)), (least >> 1, 0));
}

#[test]
fn invalid_operations_give_the_canonical_nan() {
    let (infinity, zero, one) = (double(Double::INFINITY), 0, double(1.0));
    let minus = 1 << 63;
    let nan = f64::CANONICAL_NAN;
    assert_eq!(nan, 0x7ff8_0000_0000_0000);
    assert_eq!(observe(|f| f64::sub(infinity, infinity, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::mul(infinity, zero, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::div(zero, zero, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::div(infinity, infinity, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::sqrt(one | minus, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::sqrt(minus, RNE, f)), (minus, 0));
    assert_eq!(observe(|f| f64::add(QUIET_64, one, RNE, f)), (nan, 0));
    assert_eq!(observe(|f| f64::add(SIGNALLING_64, one, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::fmadd(infinity, zero, QUIET_64, RNE, f)), (nan, 16));
    assert_eq!(observe(|f| f64::fmadd(one, one, QUIET_64, RNE, f)), (nan, 0));
    assert_eq!(observe(|f| f64::fmadd(infinity, one, infinity | minus, RNE, f)), (nan, 16));
}

#[test]
fn division_by_zero_is_its_own_flag() {
    let (one, minus) = (single(1.0), 1 << 31);
    let infinity = single(Single::INFINITY);
    assert_eq!(observe(|f| f32::div(one, minus, RNE, f)), (infinity | minus, 8));
    assert_eq!(observe(|f| f32::div(infinity, 0, RNE, f)), (infinity, 0));
}

#[test]
fn the_fused_family_has_the_signs_of_its_names() {
    let [a, b, c] = [2.0, 3.0, 1.0].map(double);
    assert_eq!(observe(|f| f64::fmadd(a, b, c, RNE, f)), (double(7.0), 0));
    assert_eq!(observe(|f| f64::fmsub(a, b, c, RNE, f)), (double(5.0), 0));
    assert_eq!(observe(|f| f64::fnmsub(a, b, c, RNE, f)), (double(-5.0), 0));
    assert_eq!(observe(|f| f64::fnmadd(a, b, c, RNE, f)), (double(-7.0), 0));
}

#[test]
fn minimum_and_maximum_prefer_numbers_and_order_zeros() {
    let minus_zero = 1 << 31;
    assert_eq!(observe(|f| f32::min(0, minus_zero, f)), (minus_zero, 0));
    assert_eq!(observe(|f| f32::max(minus_zero, 0, f)), (0, 0));
    let one = single(1.0);
    assert_eq!(observe(|f| f32::min(f32::CANONICAL_NAN, one, f)), (one, 0));
    assert_eq!(observe(|f| f32::max(one, SIGNALLING_32, f)), (one, 16));
    let both = observe(|f| f32::max(0xffc0_0001, SIGNALLING_32, f));
    assert_eq!(both, (f32::CANONICAL_NAN, 16));
}

#[test]
fn only_equality_is_quiet() {
    let one = double(1.0);
    assert_eq!(observe(|f| f64::eq(QUIET_64, one, f)), (false, 0));
    assert_eq!(observe(|f| f64::eq(QUIET_64, QUIET_64, f)), (false, 0));
    assert_eq!(observe(|f| f64::eq(one, SIGNALLING_64, f)), (false, 16));
    assert_eq!(observe(|f| f64::lt(one, QUIET_64, f)), (false, 16));
    assert_eq!(observe(|f| f64::le(QUIET_64, one, f)), (false, 16));
    assert_eq!(observe(|f| f64::eq(0, 1 << 63, f)), (true, 0));
    assert_eq!(observe(|f| f64::lt(1 << 63, 0, f)), (false, 0));
    assert_eq!(observe(|f| f64::le(0, 1 << 63, f)), (true, 0));
}

#[test]
fn classes_are_one_hot_in_the_order_of_the_specification() {
    let ordered = [
        double(Double::NEG_INFINITY),
        double(-1.0),
        1 << 63 | 1,
        1 << 63,
        0,
        1,
        double(1.0),
        double(Double::INFINITY),
        SIGNALLING_64,
        QUIET_64,
    ];
    for (bit, value) in ordered.into_iter().enumerate() {
        assert_eq!(f64::classify(value), 1 << bit, "{value:#x}");
    }
}

#[test]
fn signs_are_injected_into_anything() {
    let (one, minus_two) = (single(1.0), single(-2.0));
    assert_eq!(f32::sgnj(one, minus_two), single(-1.0));
    assert_eq!(f32::sgnjn(one, minus_two), one);
    assert_eq!(f32::sgnjx(minus_two, minus_two), single(2.0));
    assert_eq!(f64::sgnjn(SIGNALLING_64, 0), SIGNALLING_64 | 1 << 63);
}

#[test]
fn conversions_to_integers_saturate() {
    let rtz = Rounding::TowardZero;
    assert_eq!(observe(|f| f64::to_i32(double(-1.5), rtz, f)), (-1, 1));
    assert_eq!(observe(|f| f64::to_i32(double(2.5), RNE, f)), (2, 1));
    assert_eq!(observe(|f| f64::to_i32(double(2.5), MODES[4], f)), (3, 1));
    assert_eq!(observe(|f| f64::to_u32(double(-0.5), rtz, f)), (0, 1));
    assert_eq!(observe(|f| f64::to_u32(double(-0.5), Rounding::Down, f)), (0, 16));
    assert_eq!(observe(|f| f64::to_u32(double(4_294_967_295.5), rtz, f)), (u32::MAX, 1));
    assert_eq!(observe(|f| f64::to_u32(double(4_294_967_296.0), rtz, f)), (u32::MAX, 16));
    assert_eq!(observe(|f| f64::to_i64(double(Double::NAN), rtz, f)), (i64::MAX, 16));
    assert_eq!(observe(|f| f64::to_i64(double(-9.223_372_036_854_776e18), rtz, f)), (i64::MIN, 0));
    assert_eq!(observe(|f| f64::to_u64(double(1.8e19), rtz, f)), (18_000_000_000_000_000_000, 0));
    assert_eq!(observe(|f| f32::to_u64(single(Single::NEG_INFINITY), rtz, f)), (0, 16));
    assert_eq!(observe(|f| f32::to_i32(single(Single::MIN), rtz, f)), (i32::MIN, 16));
}

#[test]
fn a_single_becomes_a_double_exactly() {
    assert_eq!(observe(|f| f32_to_f64(1, f)), (double(Double::from(Single::from_bits(1))), 0));
    assert_eq!(observe(|f| f32_to_f64(SIGNALLING_32, f)), (f64::CANONICAL_NAN, 16));
}

/// Bits of either format with all exponents, and the edges, as likely as one another.
fn bits_64() -> impl Strategy<Value = u64> {
    let near =
        (any::<bool>(), 1000u64..1050, any::<u64>()).prop_map(|(sign, exponent, fraction)| {
            u64::from(sign) << 63 | exponent << 52 | fraction >> 12
        });
    let sparse = (any::<u64>(), 0u32..64, any::<u64>()).prop_map(|(top, shift, low)| {
        (top & 0xfff0_0000_0000_0000) | 1u64 << shift >> 12 | low & 3
    });
    let edge = prop::sample::select(vec![
        0,
        1,
        2,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x0010_0000_0000_0001,
        0x3ff0_0000_0000_0000,
        0x3fef_ffff_ffff_ffff,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        QUIET_64,
        SIGNALLING_64,
    ]);
    let signed = (edge, any::<bool>()).prop_map(|(bits, sign)| bits ^ u64::from(sign) << 63);
    prop_oneof![3 => any::<u64>(), 3 => near, 2 => sparse, 2 => signed]
}

fn bits_32() -> impl Strategy<Value = u32> {
    let near = (any::<bool>(), 110u32..145, any::<u32>()).prop_map(|(sign, exponent, fraction)| {
        u32::from(sign) << 31 | exponent << 23 | fraction >> 9
    });
    let edge = prop::sample::select(vec![
        0,
        1,
        2,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x3f80_0000,
        0x3f7f_ffff,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
        SIGNALLING_32,
    ]);
    let signed = (edge, any::<bool>()).prop_map(|(bits, sign)| bits ^ u32::from(sign) << 31);
    prop_oneof![3 => any::<u32>(), 3 => near, 2 => signed]
}

fn same_64(ours: u64, host: Double) -> bool {
    ours == host.to_bits() || (host.is_nan() && ours == f64::CANONICAL_NAN)
}

fn same_32(ours: u32, host: Single) -> bool {
    ours == host.to_bits() || (host.is_nan() && ours == f32::CANONICAL_NAN)
}

/// The result with no flag raised, which is always the integer path; the one with NX raised, which
/// may be the host's, must be the same and raise the same.
fn on_both_paths<T: PartialEq + std::fmt::Debug>(operation: impl Fn(&mut Flags) -> T) -> T {
    let (exact, raised) = observe(&operation);
    let mut flags = NX;
    assert_eq!(operation(&mut flags), exact);
    assert_eq!(flags.bits(), raised | NX.bits());
    exact
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn doubles_agree_with_the_host(a in bits_64(), b in bits_64(), c in bits_64()) {
        let [x, y, z] = [a, b, c].map(Double::from_bits);
        prop_assert!(same_64(on_both_paths(|f| f64::add(a, b, RNE, f)), x + y));
        prop_assert!(same_64(on_both_paths(|f| f64::sub(a, b, RNE, f)), x - y));
        prop_assert!(same_64(on_both_paths(|f| f64::mul(a, b, RNE, f)), x * y));
        prop_assert!(same_64(on_both_paths(|f| f64::div(a, b, RNE, f)), x / y));
        prop_assert!(same_64(on_both_paths(|f| f64::sqrt(a, RNE, f)), x.sqrt()));
        prop_assert!(same_64(on_both_paths(|f| f64::fmadd(a, b, c, RNE, f)), x.mul_add(y, z)));
        prop_assert_eq!(observe(|f| f64::lt(a, b, f)).0, x < y);
        prop_assert_eq!(observe(|f| f64::le(a, b, f)).0, x <= y);
        prop_assert_eq!(observe(|f| f64::eq(a, b, f)).0, x == y);
    }

    #[test]
    fn singles_agree_with_the_host(a in bits_32(), b in bits_32(), c in bits_32()) {
        let [x, y, z] = [a, b, c].map(Single::from_bits);
        prop_assert!(same_32(on_both_paths(|f| f32::add(a, b, RNE, f)), x + y));
        prop_assert!(same_32(on_both_paths(|f| f32::sub(a, b, RNE, f)), x - y));
        prop_assert!(same_32(on_both_paths(|f| f32::mul(a, b, RNE, f)), x * y));
        prop_assert!(same_32(on_both_paths(|f| f32::div(a, b, RNE, f)), x / y));
        prop_assert!(same_32(on_both_paths(|f| f32::sqrt(a, RNE, f)), x.sqrt()));
        prop_assert!(same_32(on_both_paths(|f| f32::fmadd(a, b, c, RNE, f)), x.mul_add(y, z)));
        prop_assert_eq!(observe(|f| f32::lt(a, b, f)).0, x < y);
        prop_assert_eq!(observe(|f| f32::le(a, b, f)).0, x <= y);
        prop_assert_eq!(observe(|f| f32::eq(a, b, f)).0, x == y);
    }

    #[test]
    fn conversions_agree_with_the_host(a in bits_64(), b in bits_32(), word: u64) {
        let (x, y) = (Double::from_bits(a), Single::from_bits(b));
        prop_assert!(same_32(observe(|f| f64_to_f32(a, RNE, f)).0, x as Single));
        prop_assert!(same_64(observe(|f| f32_to_f64(b, f)).0, Double::from(y)));
        prop_assert!(same_64(observe(|f| f64::from_u64(word, RNE, f)).0, word as Double));
        prop_assert!(same_64(observe(|f| f64::from_i64(word as i64, RNE, f)).0, word as i64 as Double));
        prop_assert!(same_32(observe(|f| f32::from_u64(word, RNE, f)).0, word as Single));
        prop_assert!(same_32(observe(|f| f32::from_i32(word as i32, RNE, f)).0, word as i32 as Single));
        if !x.is_nan() {
            // Rust's casts truncate and saturate.
            let rtz = Rounding::TowardZero;
            prop_assert_eq!(observe(|f| f64::to_i64(a, rtz, f)).0, x as i64);
            prop_assert_eq!(observe(|f| f64::to_u64(a, rtz, f)).0, x as u64);
            prop_assert_eq!(observe(|f| f64::to_i32(a, rtz, f)).0, x as i32);
            prop_assert_eq!(observe(|f| f64::to_u32(a, rtz, f)).0, x as u32);
        }
    }

    /// A sum and a product rounded down and up enclose the exact result, one unit apart at most,
    /// and differ exactly when NX is raised.
    #[test]
    fn directed_modes_enclose_the_result(a in bits_64(), b in bits_64()) {
        type Operation = fn(u64, u64, Rounding, &mut Flags) -> u64;
        for operation in [f64::add as Operation, f64::mul, f64::div] {
            let (down, flags) = observe(|f| operation(a, b, Rounding::Down, f));
            let (up, _) = observe(|f| operation(a, b, Rounding::Up, f));
            let (low, high) = (Double::from_bits(down), Double::from_bits(up));
            if low.is_nan() {
                prop_assert_eq!(down, up);
            } else if flags & 1 == 0 {
                prop_assert_eq!(low, high);
            } else {
                prop_assert_eq!(low.next_up(), high);
            }
        }
    }
}
