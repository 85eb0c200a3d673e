//! Loops over elements, compiled for the widest vectors that this processor has.
//!
//! A function of an element is a type: its method is inlined into each of the compiled loops, which
//! a closure or a function pointer need not be.
#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::fresh::Fresh;
use super::vectorized;

/// A function of one element.
pub(crate) trait Unary {
    /// Its value at `x`.
    fn at(&self, x: f32) -> f32;
}

/// A function of two elements.
pub(crate) trait Binary {
    /// Its value at `(x, y)`.
    fn at(&self, x: f32, y: f32) -> f32;
}

/// `f` of each element.
#[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
pub(crate) fn unary(f: &impl Unary, x: &[f32]) -> Vec<f32> {
    let mut out = Fresh::new(x.len());
    vectorized(UnaryLoop { f, x, out: out.slots() });
    // SAFETY: the loop has written as many slots as `x` has elements.
    unsafe { out.written() }
}

/// `f` of each pair of elements.
pub(crate) fn binary(f: &impl Binary, x: &[f32], y: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    vectorized(BinaryLoop { f, x, y, out: &mut out });
    out
}

/// `x = f(x)` of each element.
pub(crate) fn unary_in_place(f: &impl Unary, x: &mut [f32]) {
    vectorized(UnaryInPlace { f, x });
}

/// `y = f(x, y)` of each pair of elements.
pub(crate) fn binary_in_place(f: &impl Binary, x: &[f32], y: &mut [f32]) {
    vectorized(BinaryInPlace { f, x, y });
}

/// `sum += x`, element by element.
pub(crate) fn add(sum: &mut [f32], x: &[f32]) {
    vectorized(Add { sum, rows: x });
}

/// `sum +=` each row of `rows`, which are as long as `sum`.
pub(crate) fn add_columns(sum: &mut [f32], rows: &[f32]) {
    vectorized(Add { sum, rows });
}

/// `Σ x²` of a matrix of so many columns, in 16 sums of 64 bits for every four rows: as a product
/// that has finished them sums them up.
pub(crate) fn square_sum(x: &[f32], columns: usize) -> f64 {
    x.chunks((4 * columns).max(1)).map(|x| vectorized(SquareSum { x })).sum()
}

/// The same of rows that are a part of it, inside of a loop.
#[inline(always)]
pub(super) fn square_sum_of_rows<S: Simd>(simd: S, x: &[f32]) -> f64 {
    SquareSum { x }.with_simd(simd)
}

struct UnaryLoop<'a, F> {
    f: &'a F,
    x: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}

impl<F: Unary> WithSimd for UnaryLoop<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            out.write(self.f.at(x));
        }
    }
}

struct BinaryLoop<'a, F> {
    f: &'a F,
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Binary> WithSimd for BinaryLoop<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, (&x, &y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *out = self.f.at(x, y);
        }
    }
}

struct UnaryInPlace<'a, F> {
    f: &'a F,
    x: &'a mut [f32],
}

impl<F: Unary> WithSimd for UnaryInPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.x.iter_mut() {
            *x = self.f.at(*x);
        }
    }
}

struct BinaryInPlace<'a, F> {
    f: &'a F,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Binary> WithSimd for BinaryInPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = self.f.at(x, *y);
        }
    }
}

struct Add<'a> {
    sum: &'a mut [f32],
    rows: &'a [f32],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact(self.sum.len().max(1)) {
            for (sum, &x) in self.sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

struct SquareSum<'a> {
    x: &'a [f32],
}

impl WithSimd for SquareSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut lanes = [0.0f64; 16];
        let chunks = self.x.chunks_exact(16);
        let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

/// `Σ f(x)` of a row, in 16 sums, so that the loop becomes vector code.
#[inline(always)]
pub(crate) fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let chunks = row.chunks_exact(16);
    let mut rest = 0.0;
    for &x in chunks.remainder() {
        rest += f(x);
    }
    for chunk in chunks {
        for i in 0..16 {
            sums[i] += f(chunk[i]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// `Σ f(x, y)` of two rows.
#[inline(always)]
pub(crate) fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let mut rest = 0.0;
    for (&x, &y) in xs.remainder().iter().zip(ys.remainder()) {
        rest += f(x, y);
    }
    for (x, y) in xs.zip(ys) {
        for i in 0..16 {
            sums[i] += f(x[i], y[i]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The largest element; −∞ of nothing. NaN is passed over.
#[inline(always)]
pub(crate) fn max_of(row: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    for chunk in chunks {
        for i in 0..16 {
            most[i] = if chunk[i] > most[i] { chunk[i] } else { most[i] };
        }
    }
    most.iter().fold(rest, |most, &x| most.max(x))
}
