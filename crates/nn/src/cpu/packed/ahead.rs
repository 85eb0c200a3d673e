//! Memory that is asked for before it is needed.
//!
//! The terms of a tile take about a microsecond, several times as long as a word from memory. So each
//! tile asks, bit by bit between its terms, for what comes next: the rows of the next tile, a part of the
//! next panel, and its rows of the result. No processor foresees these: rows lie far apart, and a panel
//! is a page or more. All at once they would fill the buffers in which the tile's own loads wait.
//!
//! What it gains: ARCHITECTURE.md, "Products of many rows".

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
    /// Whether it is more than one pair of each.
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
        // Read from the stack each time: held in registers, these numbers would drive out the
        // addresses of the rows, which each term needs (ARCHITECTURE.md, "Tried, and left").
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

/// How the tiles of a block of terms share what is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Pairs of the next panel at each line of terms, and the numbers that are one tile's.
    panel_pairs: usize,
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

    /// A tile of the result, row by row. If there are fewer lines of terms than rows, it is the tile
    /// below this one that is asked for: for this one it would be too late.
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

/// Some pairs of neighbouring cache lines at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs {
    start: *const f32,
    /// Pairs at a time, and from one of them to the next, in numbers.
    count: usize,
    stride: usize,
    /// From the first pair of a time to that of the next.
    step: usize,
}

impl Pairs {
    #[inline(always)]
    fn new(start: *const f32, count: usize, stride: usize) -> Self {
        Self { start, count, stride, step: count * stride }
    }

    /// A row after the other, from element `at` on, of a panel that is not made yet.
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

/// A line of each of some rows at a time.
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
