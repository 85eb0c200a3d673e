//! `softmax` of rows: each turned into probabilities where it stands.
#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]

use pulp::{Simd, WithSimd};

use super::{exp, max_of, sum_of, vectorized};

/// Replaces each row of `width` numbers by its softmax; for each the largest number and the sum of
/// `exp(x − max)`.
pub(crate) fn softmax(rows: &mut [f32], width: usize) -> Vec<(f32, f32)> {
    vectorized(Softmax { rows, width })
}

struct Softmax<'a> {
    rows: &'a mut [f32],
    width: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = Vec<(f32, f32)>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<(f32, f32)> {
        let mut found = Vec::with_capacity(self.rows.len() / self.width.max(1));
        for row in self.rows.chunks_exact_mut(self.width.max(1)) {
            let max = max_of(row);
            for x in row.iter_mut() {
                *x = exp(*x - max);
            }
            let sum = sum_of(row, |x| x);
            for x in row.iter_mut() {
                *x /= sum;
            }
            found.push((max, sum));
        }
        found
    }
}
