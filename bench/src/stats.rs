//! Medians and ratios.

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
    use super::{median, median_of, quantile, ratio, rounded};
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
    fn rounding_keeps_four_digits_of_small_numbers_and_all_whole_ones() {
        assert_eq!(rounded(0.123_456), 0.1235);
        assert_eq!(rounded(123_456.7), 123_457.0);
    }
}
