//! Medians, spreads, ratios, histograms.

use serde::Serialize;
use serde_json::{Value, json};

/// The middle one; of an even number, the mean of the two in the middle. `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted.get(middle).copied()
    } else {
        Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
    }
}

/// The value that `share` of all, from 0 to 1, do not exceed, by nearest rank. `None` of nothing.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A figure over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Runs that have it.
    pub runs: usize,
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let known = || values.iter().copied().filter(|value| value.is_finite());
        Some(Self {
            runs: known().count(),
            median: rounded(median(values)?),
            min: rounded(known().reduce(f64::min)?),
            max: rounded(known().reduce(f64::max)?),
        })
    }
}

/// The ratio of each pair, what was measured one after the other; pairs without a ratio are left out.
#[must_use]
pub fn pair_ratios(above: &[Option<f64>], below: &[Option<f64>]) -> Vec<f64> {
    let pairs = above.iter().zip(below);
    pairs
        .filter_map(|(above, below)| Some((*above)? / (*below).filter(|value| *value > 0.0)?))
        .collect()
}

/// How many values are at most so large and larger than the bound before, by bounds that grow by half an octave.
/// Only what lies between the least and the greatest value is told.
#[must_use]
pub fn histogram(values: &[f64]) -> Vec<(f64, usize)> {
    let step = |value: f64| (2.0 * value.max(1e-3).log2()).ceil() as i32;
    let steps: Vec<i32> =
        values.iter().copied().filter(|value| value.is_finite()).map(step).collect();
    let (Some(first), Some(last)) = (steps.iter().min(), steps.iter().max()) else {
        return Vec::new();
    };
    (*first..=*last)
        .map(|bucket| {
            let count = steps.iter().filter(|step| **step == bucket).count();
            (rounded(2f64.powf(f64::from(bucket) / 2.0)), count)
        })
        .collect()
}

/// Three digits are more than these machines repeat.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits.clamp(0, 9));
    (value * scale).round() / scale
}

/// The median of the field `name` over all runs; null when no run has it.
#[must_use]
pub fn median_of(runs: &[Value], name: &str) -> Value {
    let values: Vec<f64> = runs.iter().filter_map(|run| run[name].as_f64()).collect();
    median(&values).map_or(Value::Null, |value| json!(rounded(value)))
}

/// `above` by `below`; null when either is unknown or nothing.
#[must_use]
pub fn ratio(above: &Value, below: &Value) -> Value {
    match (above.as_f64(), below.as_f64()) {
        (Some(above), Some(below)) if below != 0.0 => json!(rounded(above / below)),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, histogram, median, median_of, pair_ratios, quantile, ratio, rounded};
    use serde_json::json;

    #[test]
    fn the_median_is_the_middle_one_and_of_two_their_mean() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values_by_nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(100.0));
        assert_eq!(quantile(&[7.0], 0.5), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_field_that_no_run_has_is_null_and_so_is_its_ratio() {
        let runs = [json!({ "ms": 3.0 }), json!({ "ms": 5.0 }), json!({ "ms": 4.0 })];
        assert_eq!(median_of(&runs, "ms"), json!(4.0));
        assert!(median_of(&runs, "us").is_null());
        assert!(ratio(&median_of(&runs, "us"), &json!(2.0)).is_null());
        assert_eq!(ratio(&json!(1.0), &json!(4.0)), json!(0.25));
    }

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
        let spread = Spread::of(&[3.0, 9.0, 1.0, f64::NAN]).unwrap();
        assert_eq!(spread, Spread { runs: 3, median: 3.0, min: 1.0, max: 9.0 });
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

    #[test]
    fn a_pair_has_a_ratio_when_both_have_the_figure() {
        let ours = [Some(1.0), None, Some(3.0), Some(1.0)];
        let theirs = [Some(2.0), Some(5.0), Some(1.0), Some(0.0)];
        assert_eq!(pair_ratios(&ours, &theirs), [0.5, 3.0]);
    }

    #[test]
    fn a_histogram_counts_every_value_once_below_its_bound() {
        let values = [1.0, 1.3, 8.0, 7.9, 7.9, 1000.0];
        let found = histogram(&values);
        assert_eq!(found.iter().map(|(_, count)| count).sum::<usize>(), values.len());
        assert_eq!(found[0], (1.0, 1));
        assert_eq!(found[1], (1.414, 1));
        assert!(found.contains(&(8.0, 3)), "{found:?}");
        assert_eq!(found.last(), Some(&(1024.0, 1)));
        assert!(histogram(&[]).is_empty());
    }

    #[test]
    fn rounding_keeps_four_digits_of_small_numbers_and_all_whole_ones() {
        assert_eq!(rounded(0.123_456), 0.1235);
        assert_eq!(rounded(123_456.7), 123_457.0);
    }
}
