//! Products by panels: the right factor in the order in which a kernel reads it.
//!
//! ```text
//! c[r, :] (+)= scale · Σ a[r, k] · b[k, :]
//!
//! b  (k × n)   blocks of 256 terms; in each, panels of two vectors of columns, term by term
//! c  (m × n)   tiles of some rows (13 with AVX-512) × two vectors stay in registers meanwhile
//! ```
//!
//! A panel (32 KiB with AVX-512: 256 terms × 32 columns) stays in the first-level cache while the
//! rows of `a` pass. Goto and van de Geijn 2008 (ACM TOMS 34:12) give the reasons. `a` is not
//! copied where its rows are contiguous, as in two of a layer's three products; otherwise its tiles
//! are copied first.
//!
//! Each term is added with one rounding, in ascending order within a block, and the blocks follow
//! each other. So the bits are the same for every instruction set and every number of rows, and for
//! panels that were packed before or on the way.

#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]

mod ahead;
mod panels;
mod tile;

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::fresh::as_slots;
use super::kernel::InstructionSet;
use super::view::View;
use ahead::{Ahead, NextRows, Pairs, Shares};
use panels::{copy_panel, pack, start_of_line};
use tile::{Rows, Split, Start, Target, by_rows, by_tiles, pack_tiles, tile_rows};

pub use panels::Panels;

/// Numbers in 64 bytes, which is a cache line and the longest vector.
const LINE: usize = 16;
/// Terms of a block.
const TERMS: usize = 256;
/// Vectors that a panel is wide.
const VECTORS: usize = 2;
/// Rows of `a` whose block of terms stays in the second-level cache.
const ROWS: usize = 512;

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As it lies: each panel is made on the way, in the first-level cache.
    Matrix(&'a [f32], View),
    /// Panels from before.
    Panels(&'a Panels),
}

/// What becomes of the sums of a product.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    pub(super) scale: f32,
    /// Whether they are added to what stands in `c`.
    pub(super) accumulate: bool,
    pub(super) addends: Addends<'a>,
}

/// What a product has added to it while its result is in the cache.
#[derive(Clone, Copy, Default)]
pub(crate) struct Addends<'a> {
    /// One number for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// A matrix that lies as the result does. It is added last.
    pub(crate) onto: Option<&'a [f32]>,
}

/// `c (+)= scale·a·b + addends`. Rows of `c` are contiguous; all views lie inside their slices, and
/// `c` is a whole matrix if a matrix is added to it.
pub(super) fn product(
    set: InstructionSet,
    (c, cv): (&mut [f32], View),
    a: (&[f32], View),
    b: Right<'_>,
    sums: Sums<'_>,
    room: &mut Room,
) {
    debug_assert!(cv.column_stride == 1 || cv.columns <= 1);
    let width = VECTORS * set.lanes();
    let (mut of_panel, mut of_tiles) = (0, 0);
    if matches!(b, Right::Matrix(..)) {
        of_panel = TERMS.min(a.1.columns) * width + LINE;
    }
    // If the rows of `a` are not contiguous, its tiles are copied first.
    if a.1.column_stride != 1 {
        of_tiles = ROWS.min(a.1.rows) * TERMS.min(a.1.columns);
    }
    let panel = at_least(&mut room.panel, of_panel);
    let start = start_of_line(panel);
    let panel = &mut panel[start..];
    let c = (as_slots(c), cv);
    set.run(PanelProduct { c, a, b, sums, panel, tiles: at_least(&mut room.tiles, of_tiles) });
}

/// `c = a·b + addends`: every element of `c` is written, and none is read before. Rows of `a` are
/// contiguous.
///
/// # Panics
/// If they are not.
pub(super) fn product_of_panels(
    panels: &Panels,
    c: (&mut [MaybeUninit<f32>], View),
    a: (&[f32], View),
    addends: Addends<'_>,
) {
    assert!(a.1.column_stride == 1, "rows are contiguous");
    let sums = Sums { scale: 1.0, accumulate: false, addends };
    let b = Right::Panels(panels);
    panels.set().run(PanelProduct { c, a, b, sums, panel: &mut [], tiles: &mut [] });
}

/// Memory for copies of parts of the factors, which one product leaves to the next.
#[derive(Debug, Default)]
pub(crate) struct Room {
    panel: Vec<f32>,
    tiles: Vec<f32>,
}

fn at_least(room: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if room.len() < n {
        room.resize(n, 0.0);
    }
    room
}

struct PanelProduct<'a> {
    c: (&'a mut [MaybeUninit<f32>], View),
    a: (&'a [f32], View),
    b: Right<'a>,
    sums: Sums<'a>,
    /// Room for one panel that is made on the way.
    panel: &'a mut [f32],
    /// Room for tiles of `a`, where its rows are not contiguous.
    tiles: &'a mut [f32],
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { c: (c, cv), a: (a, av), b, sums, panel: room, tiles } = self;
        let Sums { scale, accumulate, addends } = sums;
        let width = VECTORS * S::F32_LANES;
        let (rows, terms, columns) = (av.rows, av.columns, cv.columns);
        let has_rows = av.column_stride == 1;
        for first in (0..rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(rows);
            let split = Split::new(rows.clone(), tile_rows(S::F32_LANES));
            for term in (0..terms).step_by(TERMS) {
                let block = term..(term + TERMS).min(terms);
                let n = block.len();
                let is_last = block.end == terms;
                let shares = Shares::new(split.n, split.rows(0).len(), n, width);
                if !has_rows {
                    let at = av.offset + first * av.row_stride + term * av.column_stride;
                    let from = (&a[at..], av.row_stride, av.column_stride);
                    pack_tiles(&mut tiles[..rows.len() * n], from, &split, n);
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
                    let start = match addends.bias {
                        _ if accumulate || term > 0 => Start::Sums,
                        Some(bias) => Start::Bias(&bias[column..column + n_columns]),
                        None => Start::Zero,
                    };
                    for tile in 0..split.n {
                        let of_tile = split.rows(tile);
                        let at = cv.offset + of_tile.start * cv.row_stride + column;
                        let to = Target {
                            c: &mut c[at..],
                            stride: cv.row_stride,
                            columns: n_columns,
                            scale,
                            start,
                            onto: addends.onto.filter(|_| is_last).map(|onto| &onto[at..]),
                        };
                        let panel_ahead = match b {
                            Right::Panels(_) => shares.panel_after(panel, tile),
                            Right::Matrix(b, view) => {
                                let row = term + (tile * LINE).min(n);
                                let at = view.offset + row * view.row_stride + column + width;
                                Pairs::of_matrix(b, at, view.row_stride)
                            }
                        };
                        let result_ahead = shares.result(to.c, of_tile.len(), cv.row_stride);
                        // The rows are in the cache once the first panel has passed.
                        let n_ahead = if has_rows && column == 0 { of_tile.len() } else { 0 };
                        let below = av.offset + of_tile.end * av.row_stride + term;
                        let rows_ahead = NextRows::new(a, below, n_ahead, av.row_stride);
                        let ahead = Ahead::new(panel_ahead, result_ahead, rows_ahead);
                        if has_rows {
                            let at = av.offset + of_tile.start * av.row_stride + term;
                            let rows = Rows { a: &a[at..], stride: av.row_stride, n };
                            by_rows(simd, rows, (panel, &ahead), to, of_tile.len());
                        } else {
                            let at = (of_tile.start - first) * n;
                            let a = &tiles[at..at + of_tile.len() * n];
                            by_tiles(simd, a, (panel, &ahead), to, of_tile.len());
                        }
                    }
                }
            }
        }
    }
}
