//! Columns of buffers: matrices side by side, and parts of one.

use std::ops::Range;

use candle_core::{Result, Shape};

use crate::buffer::Buffer;

/// Rows of several buffers, each with so many columns, side by side.
pub(crate) fn joined(parts: &[(Buffer, usize)]) -> Result<Vec<f32>> {
    let columns: usize = parts.iter().map(|(_, columns)| columns).sum();
    let elements: usize = parts.iter().map(|(part, _)| part.shape().elem_count()).sum();
    let mut whole = vec![0.0; elements];
    let mut first = 0;
    for (part, width) in parts {
        part.read(|part| {
            let rows = whole.chunks_exact_mut(columns.max(1));
            for (to, from) in rows.zip(part.chunks_exact((*width).max(1))) {
                to[first..first + width].copy_from_slice(from);
            }
            Ok(())
        })?;
        first += width;
    }
    Ok(whole)
}

/// Some columns of a buffer of so many.
pub(crate) fn part(whole: &Buffer, columns: usize, part: Range<usize>) -> Result<Buffer> {
    let shape = with_last(whole.shape(), part.len());
    whole.read(|whole| {
        let rows = whole.chunks_exact(columns.max(1));
        let values = rows.flat_map(|row| &row[part.clone()]).copied().collect();
        Ok(Buffer::Owned(values, shape))
    })
}

/// A shape with another last dimension.
pub(crate) fn with_last(shape: &Shape, columns: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    dims.into()
}
