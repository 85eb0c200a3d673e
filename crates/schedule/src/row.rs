//! A row while a generator writes it.

use crate::action::{Action, Pair};
use crate::ids::{MicroBatch, Stage};
use crate::op::Op;

/// The row of one rank, cell by cell.
#[derive(Debug, Default)]
pub(crate) struct Row(Vec<Action>);

impl Row {
    pub(crate) fn with_capacity(n_cells: usize) -> Self {
        Self(Vec::with_capacity(n_cells))
    }

    pub(crate) fn forward(&mut self, stage: u32, micro_batch: u32) {
        self.0.push(Op::forward(stage, micro_batch).into());
    }

    pub(crate) fn backward(&mut self, stage: u32, micro_batch: u32) {
        self.0.push(Op::backward(stage, micro_batch).into());
    }

    pub(crate) fn input_grad(&mut self, stage: u32, micro_batch: u32) {
        self.0.push(Op::input_grad(stage, micro_batch).into());
    }

    pub(crate) fn weight_grad(&mut self, stage: u32, micro_batch: u32) {
        self.0.push(Op::weight_grad(stage, micro_batch).into());
    }

    /// F and B, each of a stage and a micro-batch, as one.
    pub(crate) fn overlapped(&mut self, forward: (u32, u32), backward: (u32, u32)) {
        let place = |(stage, micro_batch)| (Stage(stage), MicroBatch(micro_batch));
        self.0.push(Action::Overlapped(Pair::new(place(forward), place(backward))));
    }

    pub(crate) fn finish(self) -> Vec<Action> {
        self.0
    }
}
