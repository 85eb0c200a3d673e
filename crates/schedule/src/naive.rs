//! Model parallelism without a pipeline: each micro-batch goes all the way forward and back before
//! the next one starts.
//!
//! ```text
//! rank 0  F0|.........B0---|F1|.........B1---|
//! rank 1  ...F0|B0---|.........F1|B1---|......
//! ```
//! One rank computes at a time, so (p−1)/p of all time is idle, for any number of micro-batches.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::row::Row;

pub(crate) static FACTS: Facts = Facts {
    name: "naive",
    about: "one micro-batch after another, no overlap",
    chunks: Chunks::One,
    passes: Passes::Whole,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(rank, layout.m)),
    // m(p−1)(F+B), with one activation at a time.
    formula: Some(Formula {
        idle: |case| Some(Idle::both(case.m() * (case.p() - 1.0) * case.whole())),
        peak: |_, _| 1,
    }),
};

/// The row of one rank. F of the next micro-batch stands behind B of this one on rank 0, so nothing
/// overlaps.
pub(crate) fn row(rank: u32, n_micro_batches: u32) -> Vec<Action> {
    let mut row = Row::with_capacity(2 * n_micro_batches as usize);
    for j in 0..n_micro_batches {
        row.forward(rank, j);
        row.backward(rank, j);
    }
    row.finish()
}
