//! Prefetches: a tile asks for memory before it is needed.
//!
//! Summing the terms of a tile takes about a microsecond, several times the latency of memory.
//! Between its terms, a tile prefetches the rows of the next tile, a part of the next panel, and
//! its rows of the result. The processor does not foresee these accesses: rows lie far apart, and a
//! panel is a page or more. A few prefetches at a time leave the processor's fill buffers to the
//! tile's own loads.
//!
//! docs/decisions.md, "Products of many rows", says what it gains.

#![expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#![expect(unsafe_code, reason = "the instruction has no safe name")]

use std::hint::black_box;

use super::LINE;

/// What a tile asks for, some of it at each cache line of its terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    panel: Pairs,
    result: Pairs,
    rows: NextRows,
    /// Whether a line of terms asks for more than one pair of the panel and one of the result.
    has_more: bool,
}

impl Ahead {
    #[inline(always)]
    pub(super) fn new(panel: Pairs, result: Pairs, rows: NextRows) -> Self {
        let has_more = panel.count > 1 || result.count > 1 || rows.n > 0;
        Self { panel, result, rows, has_more }
    }

    /// Asks for what is due at a line of terms.
    #[inline(always)]
    pub(super) fn ask(&self, line: usize) {
        // `black_box` keeps these numbers on the stack. In registers they would displace the
        // addresses of the rows, which each term needs (docs/decisions.md, "Tried and rejected").
        let Self { panel, result, rows, has_more } = black_box(self);
        panel.ask::<SECOND>(line, 0);
        result.ask::<FIRST>(line, 0);
        // One branch, which goes the same way for all lines of a tile.
        if *has_more {
            for i in 1..panel.count {
                panel.ask::<SECOND>(line, i);
            }
            for i in 1..result.count {
                result.ask::<FIRST>(line, i);
            }
            for row in 0..rows.n {
                prefetch::<SECOND>(rows.start.wrapping_add(row * rows.stride + line * LINE));
            }
        }
    }
}

/// What each tile of a block of terms prefetches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Pairs of the next panel at each line of terms.
    panel_pairs: usize,
    /// Elements of the next panel for each tile.
    panel_part: usize,
    /// Rows of the result at each line of terms.
    result_rows: usize,
}

impl Shares {
    /// For so many tiles, of so many rows at most, and panels of `width` columns.
    #[inline(always)]
    pub(super) fn new(tiles: usize, rows: usize, terms: usize, width: usize) -> Self {
        Self {
            panel_pairs: width.div_ceil(2 * tiles.max(1)),
            panel_part: terms * width / tiles.max(1),
            result_rows: rows.div_ceil(terms.div_ceil(LINE).max(1)),
        }
    }

    /// A tile of the result, row by row. With fewer lines of terms than rows, this tile's rows
    /// would arrive too late, and those of the tile below are prefetched.
    #[inline(always)]
    pub(super) fn result<T>(self, tile: &[T], rows: usize, stride: usize) -> Pairs {
        let below = if self.result_rows > 1 { rows * stride } else { 0 };
        Pairs::new(address(tile, below), self.result_rows, stride)
    }

    /// A tile's part of the panel that follows `panel` in memory.
    #[inline(always)]
    pub(super) fn panel_after(self, panel: &[f32], tile: usize) -> Pairs {
        let start = panel.len() + tile * self.panel_part;
        Pairs::new(address(panel, start), self.panel_pairs, 2 * LINE)
    }
}

/// Pairs of neighbouring cache lines, some of them at each line of terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs {
    start: *const f32,
    /// Pairs at each line of terms.
    count: usize,
    /// Elements from a pair to the next.
    stride: usize,
    /// Elements from the first pair at a line to the first at the next one. Computed here, not at
    /// each line, where it costs 1 to 2 % of a product.
    step: usize,
}

impl Pairs {
    #[inline(always)]
    fn new(start: *const f32, count: usize, stride: usize) -> Self {
        Self { start, count, stride, step: count * stride }
    }

    /// The rows of a panel that is not copied yet, one at each line of terms, from element `at` on.
    #[inline(always)]
    pub(super) fn of_matrix(matrix: &[f32], at: usize, stride: usize) -> Self {
        Self::new(address(matrix, at), 1, stride)
    }

    #[inline(always)]
    fn ask<const TO_FIRST: bool>(&self, line: usize, i: usize) {
        let start = self.start.wrapping_add(line * self.step + i * self.stride);
        prefetch::<TO_FIRST>(start);
        prefetch::<TO_FIRST>(start.wrapping_add(LINE));
    }
}

/// Rows of the left factor: a cache line of each at each line of terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextRows {
    start: *const f32,
    n: usize,
    stride: usize,
}

impl NextRows {
    /// `n` rows from element `at` on.
    #[inline(always)]
    pub(super) fn new(matrix: &[f32], at: usize, n: usize, stride: usize) -> Self {
        Self { start: address(matrix, at), n, stride }
    }
}

/// Where an element lies, or would lie if there were one.
#[inline(always)]
fn address<T>(values: &[T], at: usize) -> *const f32 {
    values.as_ptr().wrapping_add(at).cast()
}

/// For the first-level or the second-level cache.
const FIRST: bool = true;
const SECOND: bool = false;

/// Asks for the cache line of an element; does nothing where there is none.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) fn prefetch<const TO_FIRST: bool>(at: *const f32) {
    use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
    // SAFETY: the instruction reads nothing that a program could see and never faults, whatever the
    // address. Why: see the top of this file.
    unsafe {
        if TO_FIRST {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast());
        }
    }
}

#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn prefetch<const TO_FIRST: bool>(_: *const f32) {}
