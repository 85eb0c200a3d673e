#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::cmp::Ordering;

/// A number with a total order.
pub trait Number: Copy {
    /// The order of the two.
    fn order(&self, other: &Self) -> Ordering;
}

impl Number for f64 {
    fn order(&self, other: &Self) -> Ordering {
        self.total_cmp(other)
    }
}

impl Number for u64 {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

/// The number at `place` if the numbers were sorted, counted from 0; `None` past their end. The
/// time grows linearly with their count.
pub fn at_place<T: Number>(values: &mut [T], place: usize) -> Option<T> {
    (place < values.len()).then(|| *values.select_nth_unstable_by(place, T::order).1)
}

/// The median; of two in the middle the larger one. `None` without numbers.
pub fn upper_median<T: Number>(values: &mut [T]) -> Option<T> {
    at_place(values, values.len() / 2)
}

/// The median; of two in the middle the smaller one. `None` without numbers.
pub fn lower_median<T: Number>(values: &mut [T]) -> Option<T> {
    at_place(values, lower_middle(values.len()))
}

/// The median; of two in the middle their mean. `None` without numbers.
pub fn mean_median(values: &mut [f64]) -> Option<f64> {
    Some(f64::midpoint(lower_median(values)?, upper_median(values)?))
}

/// The place of the median among `count` sorted items; of two in the middle the first one. For
/// items that the caller has sorted by a key.
pub fn lower_middle(count: usize) -> usize {
    count.saturating_sub(1) / 2
}

/// The smallest number such that at least `percent` % of the numbers are no larger. `None`
/// without numbers.
pub fn nearest_rank<T: Number>(values: &mut [T], percent: usize) -> Option<T> {
    at_place(values, (values.len() * percent).div_ceil(100).saturating_sub(1))
}

/// The number whose place is nearest to `q` times the last place, with `q` from 0 to 1; of two
/// equally near the larger one. `None` without numbers.
pub fn nearest<T: Number>(values: &mut [T], q: f64) -> Option<T> {
    let last = values.len().saturating_sub(1);
    at_place(values, (last as f64 * q).round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_own_middle_of_an_even_count() {
        let mut odd = [5_u64, 1, 3];
        assert_eq!((lower_median(&mut odd), upper_median(&mut odd)), (Some(3), Some(3)));
        let mut even = [4.0, 1.0, 8.0, 2.0];
        assert_eq!((lower_median(&mut even), upper_median(&mut even)), (Some(2.0), Some(4.0)));
        assert_eq!((mean_median(&mut even), nearest(&mut even, 0.5)), (Some(3.0), Some(4.0)));
        assert_eq!(nearest_rank(&mut even, 50), Some(2.0));
        let mut with_nan = [f64::NAN, 1.0, f64::INFINITY];
        assert_eq!(upper_median(&mut with_nan), Some(f64::INFINITY));
    }

    #[test]
    fn quantiles_are_numbers_that_are_there() {
        let mut values: Vec<u64> = (1..=20).rev().collect();
        assert_eq!(
            [0, 1, 50, 95, 100].map(|p| nearest_rank(&mut values, p).unwrap()),
            [1, 1, 10, 19, 20]
        );
        assert_eq!(
            [0.0, 0.5, 0.95, 1.0].map(|q| nearest(&mut values, q).unwrap()),
            [1, 11, 19, 20]
        );
    }

    #[test]
    fn nothing_has_no_middle() {
        assert_eq!(upper_median::<u64>(&mut []), None);
        assert_eq!(lower_median::<f64>(&mut []), None);
        assert_eq!(mean_median(&mut []), None);
        assert_eq!(nearest_rank::<u64>(&mut [], 95), None);
        assert_eq!(nearest::<f64>(&mut [], 1.0), None);
        assert_eq!(at_place(&mut [1.0], 1), None);
    }
}
