//! Products of matrices with few rows, or few terms: what a micro-batch of a handful of samples
//! asks for.
//!
//! A packed product copies a factor into the order of its kernel first. With eight rows that copy
//! costs as much as the product, which needs each weight eight times only. The two kernels here
//! read both factors where they lie:
//!
//! ```text
//! dots     c[r, q] += a[r, :] · b[q, :]           both rows are contiguous: y = x·wᵀ
//! combine  c[r, :] += Σ a[r, q] · b[q, :]         rows of b and c are: gx = gy·w, gw += gyᵀ·x
//! ```
//!
//! Both work on tiles of four by four rows, so that each vector that is loaded serves four
//! multiplications. They are compiled for each instruction set and the best of this processor is
//! taken at run time.

#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows, terms and columns are indices of several matrices"
)]

use pulp::{Simd, WithSimd};

use super::view::View;

/// Rows of a tile, of either factor.
const TILE: usize = 4;

/// Bytes of the factor that is read again and again, for one strip of columns: a part of a
/// second-level cache.
const STRIP_BYTES: usize = 128 << 10;

/// `c (+)= scale·a·bᵀ`, rows of `a` and `b` contiguous. `b` has the shape (columns of c, k).
pub(super) struct Dots<'a> {
    pub(super) c: (&'a mut [f32], View),
    pub(super) a: (&'a [f32], View),
    pub(super) b: (&'a [f32], View),
    pub(super) scale: f32,
    pub(super) accumulate: bool,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, columns) = (self.a.1.rows, self.b.1.rows);
        for (q, tall) in tiles(columns) {
            for (r, wide) in tiles(rows) {
                match (wide, tall) {
                    (true, true) => self.tile::<S, TILE, TILE>(simd, r, q),
                    (true, false) => self.tile::<S, TILE, 1>(simd, r, q),
                    (false, true) => self.tile::<S, 1, TILE>(simd, r, q),
                    (false, false) => self.tile::<S, 1, 1>(simd, r, q),
                }
            }
        }
    }
}

impl Dots<'_> {
    /// R rows of `a` times Q rows of `b`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const Q: usize>(&mut self, simd: S, r: usize, q: usize) {
        let k = self.a.1.columns;
        let vectors = k / S::F32_LANES;
        let a = vectors_of::<S, R>(self.a, r, 0..k);
        let b = vectors_of::<S, Q>(self.b, q, 0..k);
        let mut sums = [[simd.splat_f32s(0.0); R]; Q];
        for i in 0..vectors {
            let mut terms = [simd.splat_f32s(0.0); R];
            for j in 0..R {
                terms[j] = a[j].0[i];
            }
            for p in 0..Q {
                let b = b[p].0[i];
                for j in 0..R {
                    sums[p][j] = simd.mul_add_f32s(terms[j], b, sums[p][j]);
                }
            }
        }
        if k > vectors * S::F32_LANES {
            let mut terms = [simd.splat_f32s(0.0); R];
            for j in 0..R {
                terms[j] = simd.partial_load_f32s(a[j].1);
            }
            for p in 0..Q {
                let b = simd.partial_load_f32s(b[p].1);
                for j in 0..R {
                    sums[p][j] = simd.mul_add_f32s(terms[j], b, sums[p][j]);
                }
            }
        }
        let (c, view) = (&mut *self.c.0, self.c.1);
        for (j, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                let dot = self.scale * simd.reduce_sum_f32s(sum);
                let c =
                    &mut c[view.offset + (r + i) * view.row_stride + (q + j) * view.column_stride];
                *c = if self.accumulate { *c + dot } else { dot };
            }
        }
    }
}

/// `c (+)= scale·a·b`, rows of `b` and `c` contiguous; `a` is read element by element.
pub(super) struct Combine<'a> {
    pub(super) c: (&'a mut [f32], View),
    pub(super) a: (&'a [f32], View),
    pub(super) b: (&'a [f32], View),
    pub(super) scale: f32,
    pub(super) accumulate: bool,
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, terms) = (self.c.1.rows, self.b.1.rows);
        // What has fewer rows stays in the cache while the other streams past it.
        let strip = (STRIP_BYTES / 4 / rows.min(terms).max(1)).next_multiple_of(64).max(512);
        let mut start = 0;
        while start < self.c.1.columns {
            let columns = start..(start + strip).min(self.c.1.columns);
            if rows >= terms {
                for r in tiles(rows) {
                    for q in tiles(terms) {
                        self.tile_of(simd, r, q, &columns);
                    }
                }
            } else {
                for q in tiles(terms) {
                    for r in tiles(rows) {
                        self.tile_of(simd, r, q, &columns);
                    }
                }
            }
            start = columns.end;
        }
    }
}

/// Some columns of N rows from `row` on, as vectors and what is left over.
// Loops here and below, not `array::from_fn`: what it calls is not inlined into code for another
// instruction set.
#[inline(always)]
fn vectors_of<S: Simd, const N: usize>(
    (data, view): (&[f32], View),
    row: usize,
    columns: std::ops::Range<usize>,
) -> [(&[S::f32s], &[f32]); N] {
    let n = columns.len();
    let mut rows: [(&[S::f32s], &[f32]); N] = [(&[], &[]); N];
    for (i, found) in rows.iter_mut().enumerate() {
        let start = view.offset + (row + i) * view.row_stride + columns.start;
        let (whole, tail) = S::as_simd_f32s(&data[start..start + n]);
        // The same length for all, so that one check serves them.
        *found = (&whole[..n / S::F32_LANES], tail);
    }
    rows
}

/// The first row of each tile, and whether it is a whole one: the last rows come one by one.
fn tiles(rows: usize) -> impl Iterator<Item = (usize, bool)> {
    let whole = rows / TILE * TILE;
    (0..whole).step_by(TILE).map(|row| (row, true)).chain((whole..rows).map(|row| (row, false)))
}

impl Combine<'_> {
    #[inline(always)]
    fn tile_of<S: Simd>(
        &mut self,
        simd: S,
        (r, tall): (usize, bool),
        (q, wide): (usize, bool),
        columns: &std::ops::Range<usize>,
    ) {
        // The first terms start a sum.
        match (tall, wide, self.accumulate || q > 0) {
            (true, true, true) => self.tile::<S, TILE, TILE, true>(simd, r, q, columns),
            (true, true, false) => self.tile::<S, TILE, TILE, false>(simd, r, q, columns),
            (true, false, true) => self.tile::<S, TILE, 1, true>(simd, r, q, columns),
            (true, false, false) => self.tile::<S, TILE, 1, false>(simd, r, q, columns),
            (false, true, true) => self.tile::<S, 1, TILE, true>(simd, r, q, columns),
            (false, true, false) => self.tile::<S, 1, TILE, false>(simd, r, q, columns),
            (false, false, true) => self.tile::<S, 1, 1, true>(simd, r, q, columns),
            (false, false, false) => self.tile::<S, 1, 1, false>(simd, r, q, columns),
        }
    }

    /// Adds Q rows of `b` to R rows of `c`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const Q: usize, const ADD: bool>(
        &mut self,
        simd: S,
        r: usize,
        q: usize,
        columns: &std::ops::Range<usize>,
    ) {
        let n = columns.len();
        let vectors = n / S::F32_LANES;
        let mut factors = [[simd.splat_f32s(0.0); Q]; R];
        for i in 0..R {
            for j in 0..Q {
                let view = self.a.1;
                let at = view.offset + (r + i) * view.row_stride + (q + j) * view.column_stride;
                factors[i][j] = simd.splat_f32s(self.scale * self.a.0[at]);
            }
        }
        let b = vectors_of::<S, Q>(self.b, q, columns.clone());
        let (view, mut rest) = (self.c.1, &mut *self.c.0);
        let mut taken = 0;
        let mut c: [(&mut [S::f32s], &mut [f32]); R] = std::array::from_fn(|_| Default::default());
        for (i, c) in c.iter_mut().enumerate() {
            let start = view.offset + (r + i) * view.row_stride + columns.start;
            let (row, after) = std::mem::take(&mut rest)[start - taken..].split_at_mut(n);
            (taken, rest) = (start + n, after);
            let (whole, tail) = S::as_mut_simd_f32s(row);
            *c = (&mut whole[..vectors], tail);
        }
        for v in 0..vectors {
            let mut terms = [simd.splat_f32s(0.0); Q];
            for j in 0..Q {
                terms[j] = b[j].0[v];
            }
            for i in 0..R {
                let mut sum = if ADD { c[i].0[v] } else { simd.splat_f32s(0.0) };
                for j in 0..Q {
                    sum = simd.mul_add_f32s(factors[i][j], terms[j], sum);
                }
                c[i].0[v] = sum;
            }
        }
        if n > vectors * S::F32_LANES {
            let mut terms = [simd.splat_f32s(0.0); Q];
            for j in 0..Q {
                terms[j] = simd.partial_load_f32s(b[j].1);
            }
            for i in 0..R {
                let rest = &mut *c[i].1;
                let mut sum = if ADD { simd.partial_load_f32s(rest) } else { simd.splat_f32s(0.0) };
                for j in 0..Q {
                    sum = simd.mul_add_f32s(factors[i][j], terms[j], sum);
                }
                simd.partial_store_f32s(rest, sum);
            }
        }
    }
}
