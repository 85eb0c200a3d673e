//! Evaluation: forwards alone, stage by stage upwards.
//!
//! ```text
//! rank 0  F0|F1|F2|......
//! rank 1  ...F0|F1|F2|...
//! rank 2  ......F0|F1|F2|
//! ```
//! Nothing waits for a backward, so a rank holds one micro-batch at a time.

use crate::action::Action;
use crate::draft::Draft;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::ids::{Pipe, Rank};
use crate::plan::ValidPlan;
use crate::row::Row;
use crate::topology::Topology;

pub(crate) static FACTS: Facts = Facts {
    name: "forward-only",
    about: "forwards alone: evaluation",
    chunks: Chunks::AnyOrOne,
    passes: Passes::Forward,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(Rank(rank), layout.topology, layout.m)),
    // As looped-bfs with F alone, with one activation at a time.
    formula: Some(Formula {
        idle: |case| {
            let (p, m, v, f) = (case.p(), case.m(), case.v(), case.share.forward);
            // Each rank works through its chunks without a pause, unless there are too few
            // micro-batches for that.
            let span = (v - 1.0) * (p - m).max(0.0) * f / v;
            Some(Idle { makespan: case.looped(f), span })
        },
        peak: |_, _| 1,
    }),
};

/// The plan that evaluates `n_micro_batches` micro-batches on any placement of one copy of a model.
///
/// # Errors
/// [`ScheduleError::Zero`] without a micro-batch, [`ScheduleError::UnevenPipes`] or
/// [`ScheduleError::Invalid`] where the topology has several copies.
pub fn forward_only(topology: Topology, n_micro_batches: u32) -> Result<ValidPlan, ScheduleError> {
    let rows = (0..topology.n_ranks()).map(|rank| row(Rank(rank), &topology, n_micro_batches));
    let rows = rows.collect();
    Draft { name: FACTS.name.to_owned(), topology, n_micro_batches, rows }.validate()
}

/// The row of one rank.
pub(crate) fn row(rank: Rank, topology: &Topology, n_micro_batches: u32) -> Vec<Action> {
    let mut row = Row::default();
    for &(_, stage) in topology.stages_of(rank).iter().filter(|(pipe, _)| *pipe == Pipe(0)) {
        (0..n_micro_batches).for_each(|j| row.forward(stage.0, j));
    }
    row.finish()
}
