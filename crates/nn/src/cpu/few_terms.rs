//! A product that keeps each tile of its result in registers while all terms pass.
//!
//! ```text
//! c[r, :] += Σ a[r, q] · b[q, :]        rows of b and c are contiguous
//! ```
//!
//! Nothing is packed, so it is made for factors that lie in the cache: weight gradients of few
//! rows, whose `c` is far larger than both factors and passes once; and heads of attention, on a
//! processor that has no kernel on panels.
#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows, terms and columns are indices of several matrices"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::elementwise::square_sum_of_rows;
use super::view::View;

/// Rows of a tile.
const ROWS: usize = 4;

/// `c (+)= scale·a·b`. Returns `Σ c²` where it is wanted: each row is in the cache when it is
/// finished.
pub(super) struct FewTerms<'a> {
    pub(super) c: (&'a mut [f32], View),
    pub(super) a: (&'a [f32], View),
    pub(super) b: (&'a [f32], View),
    pub(super) scale: f32,
    pub(super) accumulate: bool,
    pub(super) wants_squares: bool,
}

impl WithSimd for FewTerms<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> f64 {
        let rows = self.c.1.rows;
        let mut squares = 0.0;
        for first in (0..rows).step_by(ROWS) {
            let end = (first + ROWS).min(rows);
            if end == first + ROWS {
                self.rows::<S, ROWS>(simd, first);
            } else {
                for r in first..end {
                    self.rows::<S, 1>(simd, r);
                }
            }
            if self.wants_squares {
                // Only of a whole matrix, whose rows follow each other.
                let finished = self.c_at(first, 0)..self.c_at(end - 1, self.c.1.columns);
                squares += square_sum_of_rows(simd, &self.c.0[finished]);
            }
        }
        squares
    }
}

impl FewTerms<'_> {
    /// R rows of the result, four vectors of columns at a time, then fewer, then what is less than
    /// one.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, r: usize) {
        let columns = self.c.1.columns;
        let mut column = 0;
        // 16 registers of 32 bytes have no room for four times four sums.
        if S::F32_LANES >= 16 {
            while column + 4 * S::F32_LANES <= columns {
                self.tile::<S, R, 4>(simd, r, column);
                column += 4 * S::F32_LANES;
            }
        }
        while column + 2 * S::F32_LANES <= columns {
            self.tile::<S, R, 2>(simd, r, column);
            column += 2 * S::F32_LANES;
        }
        while column + S::F32_LANES <= columns {
            self.tile::<S, R, 1>(simd, r, column);
            column += S::F32_LANES;
        }
        if column < columns {
            self.part_of_a_vector::<S, R>(simd, r, column..columns);
        }
    }

    /// R rows of columns that fill no vector.
    #[inline(always)]
    fn part_of_a_vector<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        r: usize,
        columns: Range<usize>,
    ) {
        let n = columns.len();
        let mut sums = [simd.splat_f32s(0.0); R];
        for q in 0..self.b.1.rows {
            let start = self.b_at(q, columns.start);
            let b = simd.partial_load_f32s(&self.b.0[start..start + n]);
            for i in 0..R {
                let a = simd.splat_f32s(self.a(r + i, q));
                sums[i] = simd.mul_add_f32s(a, b, sums[i]);
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for i in 0..R {
            let start = self.c_at(r + i, columns.start);
            let c = &mut self.c.0[start..start + n];
            let finished = if self.accumulate {
                simd.mul_add_f32s(scale, sums[i], simd.partial_load_f32s(c))
            } else {
                simd.mul_f32s(scale, sums[i])
            };
            simd.partial_store_f32s(c, finished);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, r: usize, column: usize) {
        let n = V * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for q in 0..self.b.1.rows {
            let start = self.b_at(q, column);
            let (b, _) = S::as_simd_f32s(&self.b.0[start..start + n]);
            for i in 0..R {
                let a = simd.splat_f32s(self.a(r + i, q));
                for v in 0..V {
                    sums[i][v] = simd.mul_add_f32s(a, b[v], sums[i][v]);
                }
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for i in 0..R {
            let start = self.c_at(r + i, column);
            let (c, _) = S::as_mut_simd_f32s(&mut self.c.0[start..start + n]);
            for v in 0..V {
                c[v] = if self.accumulate {
                    simd.mul_add_f32s(scale, sums[i][v], c[v])
                } else {
                    simd.mul_f32s(scale, sums[i][v])
                };
            }
        }
    }

    #[inline(always)]
    fn a(&self, row: usize, term: usize) -> f32 {
        let (a, view) = self.a;
        a[view.offset + row * view.row_stride + term * view.column_stride]
    }

    #[inline(always)]
    fn b_at(&self, term: usize, column: usize) -> usize {
        self.b.1.offset + term * self.b.1.row_stride + column
    }

    #[inline(always)]
    fn c_at(&self, row: usize, column: usize) -> usize {
        self.c.1.offset + row * self.c.1.row_stride + column
    }
}
