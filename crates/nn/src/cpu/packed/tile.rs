//! Tiles of the result, which stay in registers while the terms of a block pass.

#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#![expect(unsafe_code, reason = "results that nobody has written yet")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows, terms and columns are indices of several matrices"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{NullaryFnOnce, Simd};

use super::super::fresh::as_numbers;
use super::ahead::Ahead;
use super::{LINE, VECTORS};

/// Rows of a tile. Two sums for each row, two vectors of the panel and one factor fit the
/// registers: 32 with AVX-512 and NEON, 16 with AVX2.
pub(super) const fn tile_rows(lanes: usize) -> usize {
    match lanes {
        16 => 13,
        8 => 6,
        _ => 8,
    }
}

/// Rows in tiles that differ by one row at most.
pub(super) struct Split {
    rows: Range<usize>,
    /// How many tiles.
    pub(super) n: usize,
    /// Rows of a smaller tile, and how many tiles have one more.
    least: usize,
    larger: usize,
}

impl Split {
    #[inline(always)]
    pub(super) fn new(rows: Range<usize>, most: usize) -> Self {
        let n = rows.len().div_ceil(most);
        let least = rows.len() / n.max(1);
        Self { n, least, larger: rows.len() - least * n, rows }
    }

    #[inline(always)]
    pub(super) fn rows(&self, tile: usize) -> Range<usize> {
        let first = self.rows.start + tile * self.least + tile.min(self.larger);
        first..first + self.least + usize::from(tile < self.larger)
    }
}

/// Puts the rows of each tile side by side, term by term, one tile after the other. `from` begins
/// with the first element of the first tile, and has the strides of rows and columns.
#[inline(always)]
pub(super) fn pack_tiles(
    to: &mut [f32],
    (a, row_stride, column_stride): (&[f32], usize, usize),
    split: &Split,
    n: usize,
) {
    let larger = split.larger * (split.least + 1);
    let (first, rest) = to.split_at_mut(larger * n);
    if split.larger > 0 {
        pack_run(first, (a, row_stride, column_stride), split.least + 1, n);
    }
    if !rest.is_empty() {
        pack_run(rest, (&a[larger * row_stride..], row_stride, column_stride), split.least, n);
    }
}

/// Tiles of the same number of rows.
#[inline(always)]
fn pack_run(to: &mut [f32], from: (&[f32], usize, usize), rows: usize, n: usize) {
    match rows {
        1 => pack_rows::<1>(to, from, n),
        2 => pack_rows::<2>(to, from, n),
        3 => pack_rows::<3>(to, from, n),
        4 => pack_rows::<4>(to, from, n),
        5 => pack_rows::<5>(to, from, n),
        6 => pack_rows::<6>(to, from, n),
        7 => pack_rows::<7>(to, from, n),
        8 => pack_rows::<8>(to, from, n),
        9 => pack_rows::<9>(to, from, n),
        10 => pack_rows::<10>(to, from, n),
        11 => pack_rows::<11>(to, from, n),
        12 => pack_rows::<12>(to, from, n),
        _ => pack_rows::<13>(to, from, n),
    }
}

/// The number of rows is a constant, so that copying a term compiles to moves and not to a call.
#[inline(always)]
fn pack_rows<const R: usize>(
    to: &mut [f32],
    (a, row_stride, column_stride): (&[f32], usize, usize),
    n: usize,
) {
    if row_stride == 1 {
        // A term of all tiles, and then the next one: `a` is read as it lies.
        let rows = to.len() / n;
        for term in 0..n {
            let from = &a[term * column_stride..term * column_stride + rows];
            for (from, to) in from.chunks_exact(R).zip(to.chunks_exact_mut(R * n)) {
                to[term * R..(term + 1) * R].copy_from_slice(from);
            }
        }
        return;
    }
    for (tile, to) in to.chunks_exact_mut(R * n).enumerate() {
        let a = &a[tile * R * row_stride..];
        for (i, to) in to.chunks_exact_mut(R).enumerate() {
            for (r, to) in to.iter_mut().enumerate() {
                *to = a[i * column_stride + r * row_stride];
            }
        }
    }
}

/// Rows of `a` from their first term on.
pub(super) struct Rows<'a> {
    pub(super) a: &'a [f32],
    pub(super) stride: usize,
    /// Terms.
    pub(super) n: usize,
}

/// Where a tile goes.
///
/// With [`Start::Sums`], every slot of the tile holds a number.
pub(super) struct Target<'a> {
    pub(super) c: &'a mut [MaybeUninit<f32>],
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) scale: f32,
    pub(super) start: Start<'a>,
    /// A matrix with the same stride, which is added at the end.
    pub(super) onto: Option<&'a [f32]>,
}

/// What the scaled sums are added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// What stands there.
    Sums,
    /// The same numbers for each row.
    Bias(&'a [f32]),
}

/// Sums of a tile.
type Sums<S, const R: usize> = [[<S as Simd>::f32s; VECTORS]; R];

/// A tile of R rows of `a`.
struct Tile<'a, S, A, const R: usize> {
    simd: S,
    a: A,
    panel: &'a [f32],
    ahead: &'a Ahead,
    to: Target<'a>,
}

/// Keeps each tile size a function of its own, so that registers are allocated for it alone.
/// Inlined into one loop, the thirteen sizes kept their sums in memory (docs/decisions.md, "Tried
/// and rejected").
#[inline(never)]
fn apart<S: Simd, T: NullaryFnOnce<Output = ()>>(simd: S, tile: T) {
    simd.vectorize(tile);
}

macro_rules! by_number_of_rows {
    ($n:expr, $tile:expr, [$($rows:literal)*], $most:literal) => {{
        let (simd, a, panel, ahead, to) = $tile;
        match $n {
            $($rows => apart(simd, Tile::<_, _, $rows> { simd, a, panel, ahead, to }),)*
            _ => apart(simd, Tile::<_, _, $most> { simd, a, panel, ahead, to }),
        }
    }};
}

/// A tile of `n` rows that lie in `a` as they are.
#[inline(always)]
pub(super) fn by_rows<S: Simd>(
    simd: S,
    a: Rows<'_>,
    (panel, ahead): (&[f32], &Ahead),
    to: Target<'_>,
    n: usize,
) {
    by_number_of_rows!(n, (simd, a, panel, ahead, to), [1 2 3 4 5 6 7 8 9 10 11 12], 13);
}

/// A tile of `n` rows that were put side by side.
#[inline(always)]
pub(super) fn by_tiles<S: Simd>(
    simd: S,
    a: &[f32],
    (panel, ahead): (&[f32], &Ahead),
    to: Target<'_>,
    n: usize,
) {
    by_number_of_rows!(n, (simd, Packed(a), panel, ahead, to), [1 2 3 4 5 6 7 8 9 10 11 12], 13);
}

/// Rows that lie in `a` as they are.
impl<S: Simd, const R: usize> NullaryFnOnce for Tile<'_, S, Rows<'_>, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, a: from, panel, ahead, to } = self;
        let width = VECTORS * S::F32_LANES;
        let n = from.n;
        // The same length for all, so that one check serves them.
        let mut rows: [&[f32]; R] = [&[]; R];
        for i in 0..R {
            rows[i] = &from.a[i * from.stride..i * from.stride + n];
        }
        let panel = &panel[..n * width];
        let mut sums: Sums<S, R> = [[simd.splat_f32s(0.0); VECTORS]; R];
        for (line, first) in (0..n).step_by(LINE).enumerate() {
            ahead.ask(line);
            for term in first..n.min(first + LINE) {
                let (b, _) = S::as_simd_f32s(&panel[term * width..(term + 1) * width]);
                let b = [b[0], b[1]];
                for i in 0..R {
                    let a = simd.splat_f32s(rows[i][term]);
                    for v in 0..VECTORS {
                        sums[i][v] = simd.mul_add_f32s(a, b[v], sums[i][v]);
                    }
                }
            }
        }
        store(simd, sums, to);
    }
}

/// Rows that were put side by side, term by term.
struct Packed<'a>(&'a [f32]);

impl<S: Simd, const R: usize> NullaryFnOnce for Tile<'_, S, Packed<'_>, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, a: Packed(a), panel, ahead, to } = self;
        let width = VECTORS * S::F32_LANES;
        let mut sums: Sums<S, R> = [[simd.splat_f32s(0.0); VECTORS]; R];
        let lines = a.chunks(R * LINE).zip(panel.chunks(width * LINE));
        for (line, (a, panel)) in lines.enumerate() {
            ahead.ask(line);
            for (a, b) in a.chunks_exact(R).zip(panel.chunks_exact(width)) {
                let (b, _) = S::as_simd_f32s(b);
                let b = [b[0], b[1]];
                for i in 0..R {
                    let a = simd.splat_f32s(a[i]);
                    for v in 0..VECTORS {
                        sums[i][v] = simd.mul_add_f32s(a, b[v], sums[i][v]);
                    }
                }
            }
        }
        store(simd, sums, to);
    }
}

/// Scales finished sums and puts them where they go.
// Every index of `sums` must be a constant once the loops are unrolled. A variable index keeps all
// sums in memory, and each term stores them.
#[inline(always)]
fn store<S: Simd, const R: usize>(simd: S, sums: Sums<S, R>, to: Target<'_>) {
    let width = VECTORS * S::F32_LANES;
    if to.columns != width {
        return apart(simd, StorePart { simd, sums, to });
    }
    let Target { c, stride, scale, start, onto, .. } = to;
    let scale = simd.splat_f32s(scale);
    // Two loops and no choice inside, or they are not unrolled.
    let bias = match start {
        Start::Sums => None,
        Start::Zero => Some(&NOTHING[..width]),
        Start::Bias(bias) => Some(bias),
    };
    if let Some(bias) = bias {
        let (bias, _) = S::as_simd_f32s(&bias[..width]);
        let bias = [bias[0], bias[1]];
        for i in 0..R {
            let (row, _) = S::as_uninit_mut_simd_f32s(&mut c[i * stride..i * stride + width]);
            for v in 0..VECTORS {
                row[v].write(simd.mul_add_f32s(scale, sums[i][v], bias[v]));
            }
        }
    } else {
        for i in 0..R {
            // SAFETY: with `Start::Sums` the tile holds numbers.
            let row = unsafe { as_numbers(&mut c[i * stride..i * stride + width]) };
            let (row, _) = S::as_mut_simd_f32s(row);
            for v in 0..VECTORS {
                row[v] = simd.mul_add_f32s(scale, sums[i][v], row[v]);
            }
        }
    }
    if let Some(onto) = onto {
        apart(simd, AddOnto { simd, c, onto, stride, rows: R });
    }
}

/// A bias of the longest panel that adds nothing.
const NOTHING: [f32; 2 * LINE] = [-0.0; 2 * LINE];

/// Adds a matrix to a finished tile.
struct AddOnto<'a, S> {
    simd: S,
    c: &'a mut [MaybeUninit<f32>],
    onto: &'a [f32],
    stride: usize,
    rows: usize,
}

impl<S: Simd> NullaryFnOnce for AddOnto<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, c, onto, stride, rows } = self;
        let width = VECTORS * S::F32_LANES;
        for i in 0..rows {
            // SAFETY: the tile is finished, all its rows and columns.
            let row = unsafe { as_numbers(&mut c[i * stride..i * stride + width]) };
            let (row, _) = S::as_mut_simd_f32s(row);
            let (onto, _) = S::as_simd_f32s(&onto[i * stride..i * stride + width]);
            for v in 0..VECTORS {
                row[v] = simd.add_f32s(row[v], onto[v]);
            }
        }
    }
}

/// The last columns, which fill no panel.
struct StorePart<'a, S: Simd, const R: usize> {
    simd: S,
    sums: Sums<S, R>,
    to: Target<'a>,
}

impl<S: Simd, const R: usize> NullaryFnOnce for StorePart<'_, S, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, sums, to } = self;
        let Target { c, stride, columns, scale, start, onto } = to;
        let scale = simd.splat_f32s(scale);
        for i in 0..R {
            let row = &mut c[i * stride..i * stride + columns];
            for (v, part) in row.chunks_mut(S::F32_LANES).enumerate() {
                let lanes = v * S::F32_LANES..v * S::F32_LANES + part.len();
                let sum = match start {
                    Start::Zero => simd.mul_f32s(scale, sums[i][v]),
                    Start::Sums => {
                        // SAFETY: with `Start::Sums` the tile holds numbers.
                        let part = unsafe { as_numbers(part) };
                        simd.mul_add_f32s(scale, sums[i][v], simd.partial_load_f32s(part))
                    }
                    Start::Bias(bias) => {
                        let bias = simd.partial_load_f32s(&bias[lanes.clone()]);
                        simd.mul_add_f32s(scale, sums[i][v], bias)
                    }
                };
                let finished = match onto {
                    Some(onto) => {
                        let onto = &onto[i * stride..i * stride + columns];
                        simd.add_f32s(sum, simd.partial_load_f32s(&onto[lanes]))
                    }
                    None => sum,
                };
                let mut numbers = [0.0; LINE];
                simd.partial_store_f32s(&mut numbers[..part.len()], finished);
                for (slot, number) in part.iter_mut().zip(numbers) {
                    slot.write(number);
                }
            }
        }
    }
}
