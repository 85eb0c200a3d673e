//! A matrix inside a slice, whatever its numbers say.

/// No slice of `f32` has more elements.
const ELEMENTS_MAX: usize = isize::MAX as usize / size_of::<f32>();

/// A matrix inside a slice: element (r, c) stands at `offset + r·row_stride + c·column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where its first element stands.
    pub offset: usize,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// From one row to the next, in elements.
    pub row_stride: usize,
    /// From one column to the next, in elements.
    pub column_stride: usize,
}

impl View {
    /// A whole row-major matrix.
    pub fn row_major(rows: usize, columns: usize) -> Self {
        Self { offset: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same elements, rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some of its rows.
    pub(crate) fn rows(self, rows: std::ops::Range<usize>) -> Self {
        debug_assert!(rows.end <= self.rows);
        Self { offset: self.offset + rows.start * self.row_stride, rows: rows.len(), ..self }
    }

    /// One past the last position that the matrix touches: 0 where it has no element, `None` where
    /// no slice could hold it. A stride of 0 repeats elements, and counts as if they were there.
    pub(super) fn end(&self) -> Option<usize> {
        if self.rows == 0 || self.columns == 0 {
            return Some(0);
        }
        self.rows.checked_mul(self.columns).filter(|&n| n <= ELEMENTS_MAX)?;
        let down = (self.rows - 1).checked_mul(self.row_stride)?;
        let right = (self.columns - 1).checked_mul(self.column_stride)?;
        self.offset.checked_add(down)?.checked_add(right)?.checked_add(1)
    }

    /// Whether every element stands in `slice`.
    pub(super) fn is_inside(&self, slice: &[f32]) -> bool {
        self.end().is_some_and(|end| end <= slice.len())
    }

    /// Whether no two positions are one element: whole rows lie behind each other, or whole columns
    /// do. For a matrix inside a slice: there neither product can overflow.
    pub(super) fn is_without_overlap(&self) -> bool {
        let (row, column) = (self.columns - 1, self.rows - 1);
        let (row, column) = (row * self.column_stride, column * self.row_stride);
        match (self.rows, self.columns) {
            (1, 1) => true,
            (1, _) => self.column_stride > 0,
            (_, 1) => self.row_stride > 0,
            // A stride of 0 fails both.
            _ => {
                self.row_stride > row && self.column_stride > 0
                    || self.column_stride > column && self.row_stride > 0
            }
        }
    }

    /// The same positions. The stride of a single row, or column, is never taken, so that it may be
    /// any number; kernels that compute with it get one that stays inside the slice.
    pub(super) fn with_strides_in(self, slice: &[f32]) -> Self {
        let kept = |n: usize, stride: usize| if n > 1 { stride } else { stride.min(slice.len()) };
        Self {
            row_stride: kept(self.rows, self.row_stride),
            column_stride: kept(self.columns, self.column_stride),
            ..self
        }
    }
}
