//! Model parallelism without a pipeline: each micro-batch goes all the way forward and back before the next one starts.
//!
//! ```text
//! rank 0  F0|.........B0---|F1|.........B1---|
//! rank 1  ...F0|B0---|.........F1|B1---|......
//! ```
//! One rank computes at a time, so (p−1)/p of all time is idle, for any number of micro-batches.

use crate::action::Action;
use crate::row::Row;

/// The row of one rank. F of the next micro-batch stands behind B of this one on rank 0, so nothing overlaps.
pub(crate) fn row(rank: u32, n_micro_batches: u32) -> Vec<Action> {
    let mut row = Row::with_capacity(2 * n_micro_batches as usize);
    for j in 0..n_micro_batches {
        row.forward(rank, j);
        row.backward(rank, j);
    }
    row.finish()
}
