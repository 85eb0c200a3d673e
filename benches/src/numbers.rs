//! Arithmetic that the measurements share.

use pp_quantile::upper_median;

/// The median: the larger one of two in the middle, NaN without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    upper_median(&mut values.to_vec()).unwrap_or(f64::NAN)
}
