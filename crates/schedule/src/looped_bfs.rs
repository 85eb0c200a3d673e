//! Looped breadth-first (Lamy-Poirier 2023, arXiv:2211.05953): GPipe over several stages a rank.
//!
//! ```text
//! p=2 m=2 v=2; stages 0 and 2 on rank 0, 1 and 3 on rank 1
//! rank 0  0F0|0F1|2F0|2F1|............2B0----|2B1----|0B0----|0B1----|
//! rank 1  ....1F0|1F1|3F0|3F1|3B0----|3B1----|1B0----|1B1----|........
//! ```
//! Stage by stage upwards all forwards, then stage by stage downwards all backwards: the pipeline
//! fills and drains in steps of a stage, 1/v of a rank, while each rank holds everything. Backwards
//! run in ascending order of micro-batches; `PyTorch` reverses it, with the same makespan and peak.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::row::Row;

pub(crate) static FACTS: Facts = Facts {
    name: "looped-bfs",
    about: "gpipe over several stages a rank",
    chunks: Chunks::Any,
    passes: Passes::Whole,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m, layout.v)),
    // As interleaved-1f1b with one group of all m, and with all mv chunks.
    formula: Some(Formula {
        idle: |case| Some(Idle::both(case.looped(case.whole()))),
        peak: |case, _| case.n_pairs() as u32,
    }),
};

/// The row of one rank.
pub(crate) fn row(
    rank: u32,
    n_ranks: u32,
    n_micro_batches: u32,
    n_virtual_stages: u32,
) -> Vec<Action> {
    let mut row = Row::with_capacity(2 * n_micro_batches as usize * n_virtual_stages as usize);
    for chunk in 0..n_virtual_stages {
        (0..n_micro_batches).for_each(|j| row.forward(chunk * n_ranks + rank, j));
    }
    for chunk in (0..n_virtual_stages).rev() {
        (0..n_micro_batches).for_each(|j| row.backward(chunk * n_ranks + rank, j));
    }
    row.finish()
}
