//! From ops to instructions: where a plan's ops need each other across ranks, messages are put in.
//!
//! Whoever has made something sends it at once. The executor's sends never block ([`lower`]): each
//! receive stands just before the op that uses the message. For links whose sends wait until they
//! are received there is [`lower_rendezvous`]: the sender puts its receive onto the other row at
//! the very moment at which it sends.

use std::collections::VecDeque;
use std::fmt;

use crate::action::Action;
use crate::ids::{MicroBatch, Rank, Stage};
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;
use crate::walk::Walk;

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// What a stage put out, on its way forward.
    Activation,
    /// The gradient of a stage's input, on its way back.
    Gradient,
}

/// One message between two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transfer {
    /// What it carries.
    pub payload: Payload,
    /// The stage that made it.
    pub from_stage: Stage,
    /// The stage that uses it.
    pub to_stage: Stage,
    /// The micro-batch that it belongs to.
    pub micro_batch: MicroBatch,
    /// The rank that sends.
    pub from: Rank,
    /// The rank that receives.
    pub to: Rank,
}

/// One thing for a rank to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instruction {
    /// Run a cell of the plan.
    Compute(Action),
    /// Hand a message to a neighbour.
    Send(Transfer),
    /// Wait for a message from a neighbour.
    Recv(Transfer),
}

/// A plan with its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoweredPlan {
    /// For every rank its instructions, in order.
    pub rows: Vec<Vec<Instruction>>,
    /// The micro-batches of one step.
    pub n_micro_batches: u32,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.payload {
            Payload::Activation => 'a',
            Payload::Gradient => 'g',
        };
        write!(f, "{}>{}{letter}{}", self.from_stage, self.to_stage, self.micro_batch)
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compute(action) => write!(f, "{action}"),
            Self::Send(transfer) => write!(f, "send({transfer})"),
            Self::Recv(transfer) => write!(f, "recv({transfer})"),
        }
    }
}

/// Puts sends and receives into a plan for links that hold messages until they are received.
///
/// No message where both stages are on one rank. Linear in the ops.
pub fn lower(plan: &ValidPlan) -> LoweredPlan {
    let row = |row: &Vec<Action>| {
        let mut instructions = Vec::with_capacity(3 * row.len());
        for &action in row {
            let receives = action.ops().filter_map(|op| incoming(plan, op));
            instructions.extend(receives.map(Instruction::Recv));
            instructions.push(Instruction::Compute(action));
            let sends = action.ops().filter_map(|op| outgoing(plan, op));
            instructions.extend(sends.map(Instruction::Send));
        }
        instructions
    };
    let rows = plan.rows().iter().map(row).collect();
    LoweredPlan { rows, n_micro_batches: plan.n_micro_batches() }
}

/// Puts sends and receives into a plan for links whose sends end only when they are received.
///
/// Free of deadlock by construction: rows grow along one order of all ops, and a send and its
/// receive enter their two rows together, so that every rank meets its messages in that common
/// order.
pub fn lower_rendezvous(plan: &ValidPlan) -> Vec<Vec<Instruction>> {
    let mut rows: Vec<Vec<Instruction>> =
        plan.rows().iter().map(|row| Vec::with_capacity(3 * row.len())).collect();
    Walk::new(plan.rows(), plan.topology(), plan.n_micro_batches()).run(|rank, _, action| {
        rows[rank.idx()].push(Instruction::Compute(action));
        for transfer in action.ops().filter_map(|op| outgoing(plan, op)) {
            rows[transfer.from.idx()].push(Instruction::Send(transfer));
            rows[transfer.to.idx()].push(Instruction::Recv(transfer));
        }
    });
    rows
}

/// The message that an op waits for.
fn incoming(plan: &ValidPlan, op: Op) -> Option<Transfer> {
    let from_stage = plan.input_stage(op)?;
    transfer(plan, op, from_stage, op.stage)
}

/// The message that an op gives rise to.
fn outgoing(plan: &ValidPlan, op: Op) -> Option<Transfer> {
    let to_stage = plan.topology().output_stage(op)?;
    transfer(plan, op, op.stage, to_stage)
}

fn transfer(plan: &ValidPlan, op: Op, from_stage: Stage, to_stage: Stage) -> Option<Transfer> {
    let payload = if op.phase == Phase::Forward { Payload::Activation } else { Payload::Gradient };
    let rank_of = |stage| plan.rank_of(stage, op.micro_batch);
    let (from, to) = (rank_of(from_stage), rank_of(to_stage));
    (from != to).then_some(Transfer {
        payload,
        from_stage,
        to_stage,
        micro_batch: op.micro_batch,
        from,
        to,
    })
}

/// For every rank the most messages that can ever wait for it, however fast or slow each rank is.
/// It takes the ops of the plan times the ranks: to check what a run measured, not to prepare one.
///
/// For each rank: hold it before each of its ops in turn while everybody else runs as far as they
/// can get without it. What then waits for it is the most that can wait at that op, whatever the
/// times are.
pub fn mailbox_peaks(plan: &ValidPlan) -> Vec<u32> {
    let peak = |held: usize| {
        let mut walk = Walk::new(plan.rows(), plan.topology(), plan.n_micro_batches());
        let (mut waiting, mut peak) = (0_u32, 0);
        let mut awake: VecDeque<usize> =
            (0..plan.rows().len()).filter(|&rank| rank != held).collect();
        for n_done in 0..=plan.rows()[held].len() {
            let is_held = Rank(held as u32);
            let may_run = |rank: Rank, cell: usize| rank != is_held || cell < n_done;
            walk.run_from(std::mem::take(&mut awake), may_run, |rank, _, action| {
                for op in action.ops() {
                    if rank == is_held {
                        waiting -= u32::from(incoming(plan, op).is_some());
                    } else if outgoing(plan, op).is_some_and(|transfer| transfer.to == is_held) {
                        waiting += 1;
                        peak = peak.max(waiting);
                    }
                }
            });
            awake.push_back(held);
        }
        peak
    };
    (0..plan.rows().len()).map(peak).collect()
}
