//! Products by panels: the right factor in the order in which a kernel reads it.
//!
//! ```text
//! c[r, :] (+)= scale · Σ a[r, k] · b[k, :]
//!
//! b  (k × n)   blocks of 256 terms; in each, panels of two vectors of columns, term by term
//! c  (m × n)   tiles of up to 13 rows × two vectors stay in registers while a block's terms pass
//! ```
//!
//! A panel (256 terms × 32 columns with AVX-512: 32 KiB) stays in the first-level cache while the rows of `a` pass, which are read
//! where they lie. Goto and van de Geijn 2008 (ACM TOMS 34:12) have the reasons; what differs here is
//! that `a` is not copied, since its rows are contiguous in two of a layer's three products.
//!
//! An element of `c` is the sum of its terms in ascending order, block by block, with one rounding for each term: the same bits for
//! every instruction set, every number of rows, and panels that were made before or on the way.

#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows, terms and columns are indices of several matrices"
)]

use std::ops::Range;

use pulp::{NullaryFnOnce, Simd, WithSimd};

use super::kernel::InstructionSet;
use super::view::View;

/// Terms of a block.
const TERMS: usize = 256;
/// Vectors that a panel is wide.
const VECTORS: usize = 2;
/// Rows of `a` whose block of terms stays in the second-level cache.
const ROWS: usize = 512;
/// Numbers in 64 bytes, which is a cache line and the longest vector.
const LINE: usize = 16;

/// Rows of a tile: two sums for each, two vectors of the panel and one factor are all in registers.
const fn tile_rows(lanes: usize) -> usize {
    match lanes {
        16 => 13,
        8 => 6,
        _ => 8,
    }
}

/// A right factor (k × n) as panels.
#[derive(Debug)]
pub(crate) struct Panels {
    set: InstructionSet,
    terms: usize,
    columns: usize,
    data: Vec<f32>,
    /// Where the first panel begins: at a cache line.
    start: usize,
}

impl Panels {
    /// Panels for a matrix of this shape, not filled yet.
    pub(crate) fn new(set: InstructionSet, terms: usize, columns: usize) -> Self {
        let data = vec![0.0; len(set, terms, columns) + LINE];
        let start = start_of_line(&data);
        Self { set, terms, columns, data, start }
    }

    pub(crate) fn set(&self) -> InstructionSet {
        self.set
    }

    /// Terms and columns.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.terms, self.columns)
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    /// Takes the elements of `b`.
    pub(crate) fn fill(&mut self, (b, view): (&[f32], View)) {
        debug_assert_eq!((view.rows, view.columns), (self.terms, self.columns));
        let width = VECTORS * self.set.lanes();
        let padded = self.columns.next_multiple_of(width);
        for block in blocks(self.terms) {
            let n = block.len();
            for (i, column) in (0..self.columns).step_by(width).enumerate() {
                let at = self.start + block.start * padded + i * n * width;
                let panel = &mut self.data[at..at + n * width];
                pack(panel, width, (b, view), block.clone(), column);
            }
        }
    }

    /// The panel of a block of terms that begins with `column`.
    #[inline(always)]
    fn panel(&self, block: &Range<usize>, column: usize) -> &[f32] {
        let width = VECTORS * self.set.lanes();
        let padded = self.columns.next_multiple_of(width);
        let at = self.start + block.start * padded + column * block.len();
        &self.data[at..at + block.len() * width]
    }
}

/// Numbers in the panels of such a matrix: the last is filled up with zeros.
fn len(set: InstructionSet, terms: usize, columns: usize) -> usize {
    terms * columns.next_multiple_of(VECTORS * set.lanes())
}

/// The first element that begins a cache line.
fn start_of_line(data: &[f32]) -> usize {
    data.as_ptr().align_offset(LINE * size_of::<f32>()).min(data.len())
}

fn blocks(terms: usize) -> impl Iterator<Item = Range<usize>> {
    (0..terms).step_by(TERMS).map(move |first| first..(first + TERMS).min(terms))
}

/// Copies some terms of `width` columns from `column` on. Columns that `b` does not have are zero.
fn pack(
    panel: &mut [f32],
    width: usize,
    (b, view): (&[f32], View),
    terms: Range<usize>,
    column: usize,
) {
    let columns = width.min(view.columns - column);
    let at = |term: usize, column: usize| {
        view.offset + term * view.row_stride + column * view.column_stride
    };
    if view.column_stride == 1 {
        for (row, term) in panel.chunks_exact_mut(width).zip(terms) {
            let start = at(term, column);
            row[..columns].copy_from_slice(&b[start..start + columns]);
            row[columns..].fill(0.0);
        }
        return;
    }
    if columns < width {
        panel.fill(0.0);
    }
    if view.row_stride == 1 {
        // Eight columns at a time: as many streams as a core can follow, and a whole half line to write.
        for first in (0..columns).step_by(8) {
            if first + 8 <= columns {
                transpose_eight(&mut panel[first..], width, b, terms.len(), |i| {
                    at(terms.start, column + first + i)
                });
            } else {
                for q in first..columns {
                    let start = at(terms.start, column + q);
                    let from = &b[start..start + terms.len()];
                    for (to, &from) in panel[q..].iter_mut().step_by(width).zip(from) {
                        *to = from;
                    }
                }
            }
        }
        return;
    }
    for (row, term) in panel.chunks_exact_mut(width).zip(terms) {
        for (q, to) in row[..columns].iter_mut().enumerate() {
            *to = b[at(term, column + q)];
        }
    }
}

/// Eight columns that lie contiguous in `b`, each from where `start` says, become rows of eight.
fn transpose_eight(
    panel: &mut [f32],
    width: usize,
    b: &[f32],
    n: usize,
    start: impl Fn(usize) -> usize,
) {
    let columns: [&[f32]; 8] = std::array::from_fn(|i| &b[start(i)..start(i) + n]);
    for term in 0..n {
        let row = &mut panel[term * width..term * width + 8];
        for i in 0..8 {
            row[i] = columns[i][term];
        }
    }
}

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As it lies: each panel is made on the way, in the first-level cache.
    Matrix(&'a [f32], View),
    /// Panels from before.
    Panels(&'a Panels),
}

impl Right<'_> {
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Matrix(_, view) => (view.rows, view.columns),
            Self::Panels(panels) => panels.shape(),
        }
    }
}

/// `c (+)= scale·a·b`. Rows of `c` are contiguous; all views lie inside their slices.
pub(super) fn product(
    set: InstructionSet,
    c: (&mut [f32], View),
    a: (&[f32], View),
    b: Right<'_>,
    scale: f32,
    accumulate: bool,
) {
    debug_assert!(c.1.column_stride == 1 || c.1.columns <= 1);
    let width = VECTORS * set.lanes();
    let mut panel = Vec::new();
    if matches!(b, Right::Matrix(..)) {
        panel.resize(TERMS.min(a.1.columns) * width + LINE, 0.0);
    }
    let start = start_of_line(&panel);
    let panel = &mut panel[start..];
    // Columns of `a` that lie contiguous, or elements with strides both ways, become tiles first.
    let mut tiles = Vec::new();
    if a.1.column_stride != 1 {
        tiles.resize(ROWS.min(a.1.rows) * TERMS.min(a.1.columns), 0.0);
    }
    set.run(PanelProduct { c, a, b, scale, accumulate, panel, tiles: &mut tiles });
}

struct PanelProduct<'a> {
    c: (&'a mut [f32], View),
    a: (&'a [f32], View),
    b: Right<'a>,
    scale: f32,
    accumulate: bool,
    /// Room for one panel that is made on the way.
    panel: &'a mut [f32],
    /// Room for tiles of `a`, where its rows are not contiguous.
    tiles: &'a mut [f32],
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { c: (c, cv), a: (a, av), b, scale, accumulate, panel: room, tiles } = self;
        let width = VECTORS * S::F32_LANES;
        let (rows, terms, columns) = (av.rows, av.columns, cv.columns);
        let has_rows = av.column_stride == 1;
        for first in (0..rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(rows);
            let split = Split::new(rows.clone(), tile_rows(S::F32_LANES));
            for term in (0..terms).step_by(TERMS) {
                let block = term..(term + TERMS).min(terms);
                let n = block.len();
                let add = accumulate || term > 0;
                if !has_rows {
                    for tile in 0..split.n {
                        let of_tile = split.rows(tile);
                        let at = (of_tile.start - first) * n;
                        let to = &mut tiles[at..at + of_tile.len() * n];
                        let at =
                            av.offset + of_tile.start * av.row_stride + term * av.column_stride;
                        let from = (&a[at..], av.row_stride, av.column_stride);
                        pack_tile(to, from, of_tile.len());
                    }
                }
                for column in (0..columns).step_by(width) {
                    let panel = match b {
                        Right::Panels(panels) => panels.panel(&block, column),
                        Right::Matrix(b, view) => {
                            let panel = &mut room[..n * width];
                            if view.column_stride == 1 && column + width <= columns {
                                let at = view.offset + term * view.row_stride + column;
                                copy_panel::<S>(panel, &b[at..], view.row_stride);
                            } else {
                                pack(panel, width, (b, view), block.clone(), column);
                            }
                            &*panel
                        }
                    };
                    let n_columns = width.min(columns - column);
                    for tile in 0..split.n {
                        let of_tile = split.rows(tile);
                        let at = cv.offset + of_tile.start * cv.row_stride + column;
                        let to = Target {
                            c: &mut c[at..],
                            stride: cv.row_stride,
                            columns: n_columns,
                            scale,
                            add,
                        };
                        if has_rows {
                            let at = av.offset + of_tile.start * av.row_stride + term;
                            let rows = Rows { a: &a[at..], stride: av.row_stride, n };
                            by_rows(simd, rows, panel, to, of_tile.len());
                        } else {
                            let at = (of_tile.start - first) * n;
                            let a = &tiles[at..at + of_tile.len() * n];
                            by_tiles(simd, a, panel, to, of_tile.len());
                        }
                    }
                }
            }
        }
    }
}

/// Rows in tiles that differ by one row at most.
struct Split {
    rows: Range<usize>,
    n: usize,
    /// Rows of a smaller tile, and how many tiles have one more.
    least: usize,
    larger: usize,
}

impl Split {
    #[inline(always)]
    fn new(rows: Range<usize>, most: usize) -> Self {
        let n = rows.len().div_ceil(most);
        let least = rows.len() / n.max(1);
        Self { n, least, larger: rows.len() - least * n, rows }
    }

    #[inline(always)]
    fn rows(&self, tile: usize) -> Range<usize> {
        let first = self.rows.start + tile * self.least + tile.min(self.larger);
        first..first + self.least + usize::from(tile < self.larger)
    }
}

/// Copies a panel that has all its columns: row by row two vectors.
#[inline(always)]
fn copy_panel<S: Simd>(panel: &mut [f32], b: &[f32], stride: usize) {
    let width = VECTORS * S::F32_LANES;
    for (i, to) in panel.chunks_exact_mut(width).enumerate() {
        let (from, _) = S::as_simd_f32s(&b[i * stride..i * stride + width]);
        let (to, _) = S::as_mut_simd_f32s(to);
        to[0] = from[0];
        to[1] = from[1];
    }
}

/// Puts the rows of a tile side by side, term by term. `from` begins with its first element, and has the strides of rows and columns.
#[inline(always)]
fn pack_tile(to: &mut [f32], from: (&[f32], usize, usize), n: usize) {
    match n {
        1 => pack_rows::<1>(to, from),
        2 => pack_rows::<2>(to, from),
        3 => pack_rows::<3>(to, from),
        4 => pack_rows::<4>(to, from),
        5 => pack_rows::<5>(to, from),
        6 => pack_rows::<6>(to, from),
        7 => pack_rows::<7>(to, from),
        8 => pack_rows::<8>(to, from),
        9 => pack_rows::<9>(to, from),
        10 => pack_rows::<10>(to, from),
        11 => pack_rows::<11>(to, from),
        12 => pack_rows::<12>(to, from),
        _ => pack_rows::<13>(to, from),
    }
}

/// As many rows as the compiler knows: the copy of one term is some moves, and no call.
#[inline(always)]
fn pack_rows<const R: usize>(
    to: &mut [f32],
    (a, row_stride, column_stride): (&[f32], usize, usize),
) {
    if row_stride == 1 {
        for (i, to) in to.chunks_exact_mut(R).enumerate() {
            to.copy_from_slice(&a[i * column_stride..i * column_stride + R]);
        }
        return;
    }
    for (i, to) in to.chunks_exact_mut(R).enumerate() {
        for (r, to) in to.iter_mut().enumerate() {
            *to = a[i * column_stride + r * row_stride];
        }
    }
}

/// Rows of `a` from their first term on.
struct Rows<'a> {
    a: &'a [f32],
    stride: usize,
    /// Terms.
    n: usize,
}

/// Where a tile goes.
struct Target<'a> {
    c: &'a mut [f32],
    stride: usize,
    columns: usize,
    scale: f32,
    add: bool,
}

/// Sums of a tile.
type Sums<S, const R: usize> = [[<S as Simd>::f32s; VECTORS]; R];

/// A tile of R rows of `a`.
struct Tile<'a, S, A, const R: usize> {
    simd: S,
    a: A,
    panel: &'a [f32],
    to: Target<'a>,
}

/// One function for each tile, which its registers are found for alone. Inlined into the loops around it, the thirteen of them kept sums
/// in memory: 111 instead of 170 GFLOP/s (256 rows, Intel Xeon, model 207, 2026-11-29).
#[inline(never)]
fn apart<S: Simd, T: NullaryFnOnce<Output = ()>>(simd: S, tile: T) {
    simd.vectorize(tile);
}

macro_rules! by_number_of_rows {
    ($n:expr, $simd:expr, $a:expr, $panel:expr, $to:expr, [$($rows:literal)*], $most:literal) => {
        match $n {
            $($rows => apart($simd, Tile::<_, _, $rows> { simd: $simd, a: $a, panel: $panel, to: $to }),)*
            _ => apart($simd, Tile::<_, _, $most> { simd: $simd, a: $a, panel: $panel, to: $to }),
        }
    };
}

#[inline(always)]
fn by_rows<S: Simd>(simd: S, a: Rows<'_>, panel: &[f32], to: Target<'_>, n: usize) {
    by_number_of_rows!(n, simd, a, panel, to, [1 2 3 4 5 6 7 8 9 10 11 12], 13);
}

#[inline(always)]
fn by_tiles<S: Simd>(simd: S, a: &[f32], panel: &[f32], to: Target<'_>, n: usize) {
    let a = Packed(a);
    by_number_of_rows!(n, simd, a, panel, to, [1 2 3 4 5 6 7 8 9 10 11 12], 13);
}

/// Rows that lie in `a` as they are.
impl<S: Simd, const R: usize> NullaryFnOnce for Tile<'_, S, Rows<'_>, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, a: from, panel, to } = self;
        let width = VECTORS * S::F32_LANES;
        let n = from.n;
        // The same length for all, so that one check serves them.
        let mut rows: [&[f32]; R] = [&[]; R];
        for i in 0..R {
            rows[i] = &from.a[i * from.stride..i * from.stride + n];
        }
        let panel = &panel[..n * width];
        let mut sums: Sums<S, R> = [[simd.splat_f32s(0.0); VECTORS]; R];
        for term in 0..n {
            let (b, _) = S::as_simd_f32s(&panel[term * width..(term + 1) * width]);
            let b = [b[0], b[1]];
            for i in 0..R {
                let a = simd.splat_f32s(rows[i][term]);
                for v in 0..VECTORS {
                    sums[i][v] = simd.mul_add_f32s(a, b[v], sums[i][v]);
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
        let Self { simd, a: Packed(a), panel, to } = self;
        let width = VECTORS * S::F32_LANES;
        let mut sums: Sums<S, R> = [[simd.splat_f32s(0.0); VECTORS]; R];
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
        store(simd, sums, to);
    }
}

/// Scales finished sums and puts them where they go.
// Each index of `sums` has to be a constant here, in loops that are unrolled whole: one that is not keeps all of them in memory, and
// every term is stored then.
#[inline(always)]
fn store<S: Simd, const R: usize>(simd: S, sums: Sums<S, R>, to: Target<'_>) {
    let width = VECTORS * S::F32_LANES;
    if to.columns != width {
        return apart(simd, StorePart { simd, sums, to });
    }
    let scale = simd.splat_f32s(to.scale);
    if to.add {
        for i in 0..R {
            let (row, _) = S::as_mut_simd_f32s(&mut to.c[i * to.stride..i * to.stride + width]);
            for v in 0..VECTORS {
                row[v] = simd.mul_add_f32s(scale, sums[i][v], row[v]);
            }
        }
    } else {
        for i in 0..R {
            let (row, _) = S::as_mut_simd_f32s(&mut to.c[i * to.stride..i * to.stride + width]);
            for v in 0..VECTORS {
                row[v] = simd.mul_f32s(scale, sums[i][v]);
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
        let scale = simd.splat_f32s(to.scale);
        for i in 0..R {
            let row = &mut to.c[i * to.stride..i * to.stride + to.columns];
            for (v, part) in row.chunks_mut(S::F32_LANES).enumerate() {
                let finished = if to.add {
                    simd.mul_add_f32s(scale, sums[i][v], simd.partial_load_f32s(part))
                } else {
                    simd.mul_f32s(scale, sums[i][v])
                };
                simd.partial_store_f32s(part, finished);
            }
        }
    }
}
