//! The right factor in the order in which the kernels read it.

use std::ops::Range;

use pulp::Simd;

use super::super::kernel::InstructionSet;
use super::super::view::View;
use super::ahead::prefetch;
use super::{LINE, TERMS, VECTORS};

/// A right factor (k × n) in the order in which a kernel on panels reads it: packed once, for many
/// products.
#[derive(Debug)]
pub struct Panels {
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
        assert_eq!((view.rows, view.columns), (self.terms, self.columns), "matrix shapes");
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
    #[expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
    #[inline(always)]
    pub(super) fn panel(&self, block: &Range<usize>, column: usize) -> &[f32] {
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
pub(super) fn start_of_line(data: &[f32]) -> usize {
    data.as_ptr().align_offset(LINE * size_of::<f32>()).min(data.len())
}

fn blocks(terms: usize) -> impl Iterator<Item = Range<usize>> {
    (0..terms).step_by(TERMS).map(move |first| first..(first + TERMS).min(terms))
}

/// Copies some terms of `width` columns from `column` on. Columns that `b` does not have are zero.
pub(super) fn pack(
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
        // Eight columns at a time: eight streams to read, and half a cache line to write.
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

/// Rows that are asked for ahead: the processor does not foresee the next one, which may lie on
/// another page.
const AHEAD: usize = 8;

/// Copies a panel that has all its columns: row by row two vectors.
#[expect(clippy::inline_always, reason = "a call inside would be code for any processor")]
#[inline(always)]
pub(super) fn copy_panel<S: Simd>(panel: &mut [f32], b: &[f32], stride: usize) {
    let width = VECTORS * S::F32_LANES;
    for (i, to) in panel.chunks_exact_mut(width).enumerate() {
        let ahead = b.as_ptr().wrapping_add((i + AHEAD) * stride);
        prefetch::<true>(ahead);
        prefetch::<true>(ahead.wrapping_add(LINE));
        let (from, _) = S::as_simd_f32s(&b[i * stride..i * stride + width]);
        let (to, _) = S::as_mut_simd_f32s(to);
        to[0] = from[0];
        to[1] = from[1];
    }
}
