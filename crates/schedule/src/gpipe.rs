//! GPipe (Huang et al. 2019, arXiv:1811.06965): every micro-batch forward, then every micro-batch back.
//!
//! ```text
//! rank 0  F0|F1|F2|.........B0---|B1---|B2---|
//! rank 1  ...F0|F1|F2|B0---|B1---|B2---|......
//! ```
//! Each rank holds all m activations when the first backward starts. Backwards run in ascending order, so that weight gradients
//! are added up in the order that every other schedule has.

use crate::action::Action;
use crate::looped_bfs;

/// The row of one rank: breadth first over its only stage.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    looped_bfs::row(rank, n_ranks, n_micro_batches, 1)
}
