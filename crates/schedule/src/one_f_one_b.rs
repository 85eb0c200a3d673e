//! One forward, one backward (PipeDream-Flush, Narayanan et al. 2021, arXiv:2006.09503).
//!
//! ```text
//! rank 0  F0|F1|......B0---|F2|B1---|...B2---|
//! rank 1  ...F0|B0---|F1|B1---|F2|B2---|......
//! ```
//! The makespan is that of GPipe; rank r holds at most p−r activations instead of m.

use crate::action::Action;
use crate::row::Row;

/// The row of one rank: enough forwards to keep the ranks behind it busy, then pairs, then the backwards that are left.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    let n_warm_up = n_micro_batches.min(n_ranks - 1 - rank);
    let mut row = Row::with_capacity(2 * n_micro_batches as usize);
    (0..n_warm_up).for_each(|j| row.forward(rank, j));
    for j in n_warm_up..n_micro_batches {
        row.forward(rank, j);
        row.backward(rank, j - n_warm_up);
    }
    (n_micro_batches - n_warm_up..n_micro_batches).for_each(|j| row.backward(rank, j));
    row.finish()
}
