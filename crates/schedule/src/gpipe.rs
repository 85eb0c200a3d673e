//! GPipe (Huang et al. 2019, arXiv:1811.06965): every micro-batch forward, then every micro-batch
//! back.
//!
//! ```text
//! rank 0  F0|F1|F2|.........B0---|B1---|B2---|
//! rank 1  ...F0|F1|F2|B0---|B1---|B2---|......
//! ```
//! Each rank holds all m activations when the first backward starts. Backwards run in ascending
//! order, so that weight gradients are added up in the order that every other schedule has.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::looped_bfs;

pub(crate) static FACTS: Facts = Facts {
    name: "gpipe",
    about: "all forwards, then all backwards",
    chunks: Chunks::One,
    passes: Passes::Whole,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m)),
    // (p−1)(F+B), with all m activations.
    formula: Some(Formula {
        idle: |case| Some(Idle::both((case.p() - 1.0) * case.whole())),
        peak: |case, _| case.n_pairs() as u32,
    }),
};

/// The row of one rank: breadth first over its only stage.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    looped_bfs::row(rank, n_ranks, n_micro_batches, 1)
}
