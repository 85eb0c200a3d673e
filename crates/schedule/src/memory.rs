//! The most memory that each rank holds while a plan runs.
//!
//! An activation is taken at the start of F. At the end of I all of it goes but the residue that W
//! needs; B is I and W in one, and so has the residue too while it runs. The residue goes when its
//! weight gradient is summed. Sums are taken in ascending order of micro-batches, so that every
//! plan rounds alike: a W, or the W in a B, that comes before its turn leaves its residue until
//! those before it are done.

use crate::action::Action;
use crate::costs::Costs;
use crate::ids::{MicroBatch, Stage};
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;
use crate::topology::Places;

/// A message that a rank gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The op that uses it.
    pub(crate) op: Op,
    /// When it is there.
    pub(crate) at: f64,
}

/// The peak of each rank. `arrivals` are the messages that it gets, where they count.
pub(crate) fn peak_memory(
    plan: &ValidPlan,
    costs: &Costs,
    starts: &[Vec<f64>],
    arrivals: &[Vec<Arrival>],
) -> Vec<f64> {
    let mut turns = Turns::new(plan);
    let peak = |((row, starts), arrivals): ((&Vec<Action>, &Vec<f64>), &Vec<Arrival>)| {
        if arrivals.is_empty() {
            without_messages(plan, costs, row, &mut turns)
        } else {
            with_messages(
                plan,
                costs,
                row.iter().copied().zip(starts.iter().copied()),
                arrivals,
                &mut turns,
            )
        }
    };
    plan.rows().iter().zip(starts).zip(arrivals).map(peak).collect()
}

fn without_messages(plan: &ValidPlan, costs: &Costs, row: &[Action], turns: &mut Turns<'_>) -> f64 {
    let (mut held, mut peak) = (0.0_f64, 0.0_f64);
    for action in row {
        for op in action.ops() {
            held += taken(costs, op);
        }
        peak = peak.max(held);
        for op in action.ops() {
            held -= released(plan, costs, op, turns);
        }
        // A residue may be larger than the activation that it is left of.
        peak = peak.max(held);
    }
    peak
}

fn with_messages(
    plan: &ValidPlan,
    costs: &Costs,
    row: impl Iterator<Item = (Action, f64)>,
    arrivals: &[Arrival],
    turns: &mut Turns<'_>,
) -> f64 {
    let message = |op: Op| {
        let from = plan.input_stage(op)?;
        let stays = plan.rank_of(from, op.micro_batch) == plan.rank_of(op.stage, op.micro_batch);
        (!stays).then(|| costs.boundary[from.min(op.stage).idx()])
    };
    let mut changes: Vec<(f64, f64)> = Vec::with_capacity(5 * arrivals.len());
    changes.extend(arrivals.iter().filter_map(|arrival| Some((arrival.at, message(arrival.op)?))));
    for (action, start) in row {
        let (mut at_start, mut at_end) = (0.0, 0.0);
        for op in action.ops() {
            at_start += taken(costs, op);
            at_end -= released(plan, costs, op, turns);
            // An activation that has arrived becomes part of what F keeps; a gradient is used up by
            // the whole backward.
            let used = message(op).unwrap_or(0.0);
            if op.phase == Phase::Forward { at_start -= used } else { at_end -= used }
        }
        changes.push((start, at_start));
        changes.push((start + costs.duration_of(action), at_end));
    }
    // What ends at a moment makes room for what starts then.
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1 > 0.0).cmp(&(b.1 > 0.0))));
    let (mut held, mut peak) = (0.0_f64, 0.0_f64);
    for (_, change) in changes {
        held += change;
        peak = peak.max(held);
    }
    peak
}

/// What an op takes at its start.
fn taken(costs: &Costs, op: Op) -> f64 {
    match op.phase {
        Phase::Forward => costs.activation[op.stage.idx()],
        Phase::Backward => beyond_activation(costs, op.stage),
        Phase::InputGrad | Phase::WeightGrad => 0.0,
    }
}

/// How much larger a residue is than the activation that it is left of.
fn beyond_activation(costs: &Costs, stage: Stage) -> f64 {
    (costs.residue[stage.idx()] - costs.activation[stage.idx()]).max(0.0)
}

/// What an op gives back at its end.
fn released(plan: &ValidPlan, costs: &Costs, op: Op, turns: &mut Turns<'_>) -> f64 {
    let (activation, residue) = (costs.activation[op.stage.idx()], costs.residue[op.stage.idx()]);
    let mut residues = || f64::from(turns.sum(op.stage, op.micro_batch)) * residue;
    match op.phase {
        Phase::Forward if plan.is_forward_only() => activation,
        Phase::Forward => 0.0,
        Phase::InputGrad => activation - residue,
        Phase::WeightGrad => residues(),
        Phase::Backward => activation + beyond_activation(costs, op.stage) - residue + residues(),
    }
}

/// Whose weight gradient is summed next, stage by stage, in each copy of the model.
pub(crate) struct Turns<'a> {
    places: Places<'a>,
    n_pipes: usize,
    n_micro_batches: usize,
    /// By stage and pipe.
    next: Vec<u32>,
    /// By stage and micro-batch: due before its turn. Made when the first one is.
    early: Vec<bool>,
}

impl<'a> Turns<'a> {
    pub(crate) fn new(plan: &'a ValidPlan) -> Self {
        let places = plan.places();
        let n_pipes = plan.n_pipes();
        let first = (0..n_pipes).map(|pipe| pipe * places.n_per_pipe());
        let next = plan.topology().stages().flat_map(|_| first.clone()).collect();
        let n_micro_batches = plan.n_micro_batches() as usize;
        Self { places, n_pipes: n_pipes as usize, n_micro_batches, next, early: Vec::new() }
    }

    /// A weight gradient is due. How many can be summed now: it, and those that waited for it.
    pub(crate) fn sum(&mut self, stage: Stage, micro_batch: MicroBatch) -> u32 {
        let pipe = self.places.pipe_of(micro_batch);
        let end = (pipe.0 + 1) * self.places.n_per_pipe();
        let next = &mut self.next[stage.idx() * self.n_pipes + pipe.idx()];
        let row = stage.idx() * self.n_micro_batches;
        if micro_batch.0 != *next {
            if self.early.is_empty() {
                let n_stages = self.next.len() / self.n_pipes;
                self.early = vec![false; n_stages * self.n_micro_batches];
            }
            self.early[row + micro_batch.idx()] = true;
            return 0;
        }
        let first = *next;
        *next += 1;
        while *next < end && self.early.get(row + *next as usize).copied().unwrap_or(false) {
            *next += 1;
        }
        *next - first
    }
}
