//! Runs through a plan in an order that respects what each op waits for: the one place that knows
//! the dependencies across rows.

use std::collections::VecDeque;

use crate::action::Action;
use crate::ids::{Rank, Stage};
use crate::op::{Op, Phase};
use crate::topology::{Places, Topology};
use crate::work;

const FORWARD_DONE: u8 = 1;
const GRADIENT_DONE: u8 = 2;

/// What an op of a phase leaves done: an activation, the gradient of an input, or nothing that
/// another op waits for.
#[inline]
fn done_by(phase: Phase) -> u8 {
    match phase {
        Phase::Forward => FORWARD_DONE,
        Phase::Backward | Phase::InputGrad => GRADIENT_DONE,
        Phase::WeightGrad => 0,
    }
}

/// The ops that are finished, and for every rank the position of its next cell. Linear: a cell is
/// looked at once when it runs, and once more each time that its rank was woken and found it not
/// ready.
pub(crate) struct Walk<'a> {
    rows: &'a [Vec<Action>],
    topology: &'a Topology,
    places: Places<'a>,
    n_micro_batches: usize,
    done: Vec<u8>,
    heads: Vec<usize>,
    queued: Vec<bool>,
}

impl<'a> Walk<'a> {
    /// Before the first op. The rows must be in range and complete.
    pub(crate) fn new(
        rows: &'a [Vec<Action>],
        topology: &'a Topology,
        n_micro_batches: u32,
    ) -> Self {
        let done = vec![0; topology.n_stages() as usize * n_micro_batches as usize];
        Self {
            rows,
            topology,
            places: Places::new(topology, n_micro_batches),
            n_micro_batches: n_micro_batches as usize,
            done,
            heads: vec![0; rows.len()],
            queued: vec![false; rows.len()],
        }
    }

    /// Runs every rank as far as it can get, calling `visit` for each cell in the order in which
    /// they run.
    pub(crate) fn run(&mut self, visit: impl FnMut(Rank, usize, Action)) {
        self.run_from((0..self.rows.len()).collect(), |_, _| true, visit);
    }

    /// Runs the ranks in `awake` and those that they wake, a cell only where `may_run` says so.
    pub(crate) fn run_from(
        &mut self,
        mut awake: VecDeque<usize>,
        mut may_run: impl FnMut(Rank, usize) -> bool,
        mut visit: impl FnMut(Rank, usize, Action),
    ) {
        for &rank in &awake {
            self.queued[rank] = true;
        }
        while let Some(rank) = awake.pop_front() {
            self.queued[rank] = false;
            let row = &self.rows[rank];
            while let Some(&action) = row.get(self.heads[rank]) {
                let cell = self.heads[rank];
                work::done(1);
                if !may_run(Rank(rank as u32), cell) || self.missing(action).is_some() {
                    break;
                }
                visit(Rank(rank as u32), cell, action);
                self.heads[rank] += 1;
                for op in action.ops() {
                    if let Some(waiting) = self.finish(op)
                        && waiting.idx() != rank
                        && !self.queued[waiting.idx()]
                    {
                        self.queued[waiting.idx()] = true;
                        awake.push_back(waiting.idx());
                    }
                }
            }
        }
    }

    /// The position of the next cell on every row.
    pub(crate) fn heads(&self) -> &[usize] {
        &self.heads
    }

    /// Whether every row is at its end.
    pub(crate) fn is_finished(&self) -> bool {
        self.heads.iter().zip(self.rows).all(|(&head, row)| head == row.len())
    }

    /// An op of a cell that cannot run yet, and the stage whose output it waits for.
    #[inline]
    pub(crate) fn missing(&self, action: Action) -> Option<(Op, Stage)> {
        action.ops().find_map(|op| self.missing_input(op).map(|stage| (op, stage)))
    }

    fn missing_input(&self, op: Op) -> Option<Stage> {
        let stage = self.topology.input_stage(op)?;
        let needed = done_by(op.phase);
        (self.done[self.at(op.on(stage))] & needed == 0).then_some(stage)
    }

    /// Marks an op as done and names the rank that may have waited for it.
    fn finish(&mut self, op: Op) -> Option<Rank> {
        let at = self.at(op);
        self.done[at] |= done_by(op.phase);
        let waiting = self.topology.output_stage(op)?;
        Some(self.places.rank_of(waiting, op.micro_batch))
    }

    fn at(&self, op: Op) -> usize {
        op.stage.idx() * self.n_micro_batches + op.micro_batch.idx()
    }
}
