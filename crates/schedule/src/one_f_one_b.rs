//! One forward, one backward (PipeDream-Flush, Narayanan et al. 2021, arXiv:2006.09503).
//!
//! ```text
//! rank 0  F0|F1|......B0---|F2|B1---|...B2---|
//! rank 1  ...F0|B0---|F1|B1---|F2|B2---|......
//! ```
//! The makespan is that of GPipe; rank r holds at most p−r activations instead of m.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::row::Row;

pub(crate) static FACTS: Facts = Facts {
    name: "1f1b",
    about: "one forward, one backward: the memory of p activations",
    chunks: Chunks::One,
    passes: Passes::Whole,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m)),
    // (p−1)(F+B), with min(m, p−r) activations.
    formula: Some(Formula {
        idle: |case| Some(Idle::both((case.p() - 1.0) * case.whole())),
        peak: |case, rank| case.sizes.n_micro_batches.min(case.sizes.n_ranks - rank),
    }),
};

/// The row of one rank: enough forwards to keep the ranks behind it busy, then pairs, then the
/// backwards that are left.
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
