//! What ranks are told, and what they answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use pp_schedule::{LoweredPlan, MicroBatch, Pipe, Rank, Stage};
use pp_trace::Span;

use crate::batch::Batch;

/// For every stage the gradients of its parameters, as each copy of the model has them: replica by replica, in each pipe by pipe.
pub type StageGradients = BTreeMap<Stage, Vec<Vec<Tensor>>>;

/// One thing for a rank to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Forward and backward of a whole batch, by the plan. Answer: [`Reply::Stepped`].
    Step {
        /// The step, from 1.
        step: u64,
        /// This replica's data.
        batch: Arc<Batch>,
    },
    /// The mean over all copies of the model of the gradients that they reported, in their order. Answer:
    /// [`Reply::Reduced`].
    Reduce {
        /// Those of every stage.
        copies: Arc<StageGradients>,
    },
    /// An optimizer step. Answer: [`Reply::Updated`].
    Update {
        /// The learning rate.
        lr: f64,
        /// What gradients are multiplied with first.
        clip: f32,
    },
    /// Forward only, by its own plan. Answer: [`Reply::Evaluated`].
    Evaluate {
        /// The data.
        batch: Arc<Batch>,
        /// A forward-only plan for as many micro-batches.
        plan: Arc<LoweredPlan>,
    },
    /// Copies of tensors on the host. Answer: [`Reply::Tensors`].
    Collect(What),
}

/// Which tensors to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The values of the parameters.
    Values,
    /// The sums of their gradients, before clipping.
    Gradients,
}

/// The parameters of one stage.
#[derive(Clone, Debug)]
pub struct StageParameters {
    /// The copy of the model.
    pub pipe: Pipe,
    /// The rank that holds it.
    pub rank: Rank,
    /// The stage.
    pub stage: Stage,
    /// How many numbers it trains.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a rank answers.
#[derive(Debug)]
pub enum Reply {
    /// It has built its stages.
    Ready(Vec<StageParameters>),
    /// It has run its row.
    Stepped(StepReport),
    /// It has the mean gradients; the square sums of each parameter, by stage.
    Reduced(Vec<(Stage, Vec<f64>)>, Vec<Span>),
    /// It has changed its parameters.
    Updated(RankMemory, Vec<Span>),
    /// It has evaluated.
    Evaluated(Evaluated),
    /// Names and host copies, by stage.
    Tensors(Vec<(Stage, Vec<(String, Tensor)>)>),
}

/// What a rank did in one step.
#[derive(Debug, Default)]
pub struct StepReport {
    /// On the last stage's rank the mean loss of each micro-batch that ended there; else empty.
    pub losses: Vec<(MicroBatch, f32)>,
    /// The square sums of each parameter's gradient, by stage; empty with several copies of the model.
    pub square_sums: Vec<(Stage, Vec<f64>)>,
    /// With several copies of the model the gradients of each stage, in parameter order.
    pub gradients: Vec<(Pipe, Stage, Vec<Tensor>)>,
    /// What it did when.
    pub spans: Vec<Span>,
    /// The most (stage, micro-batch) pairs that it held.
    pub stash_peak: u32,
    /// The most bytes that were kept for weight gradients still to be summed.
    pub residue_bytes_peak: u64,
    /// The most messages that waited for it.
    pub mailbox_peak: u32,
}

/// What an evaluation found, on the rank of the last stage.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// The mean loss of each micro-batch, in order.
    pub losses: Vec<f32>,
    /// Right predictions and predictions, where the objective counts them.
    pub correct: Option<(u64, u64)>,
}

/// Bytes that a rank holds, at the end of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct RankMemory {
    /// Everything alive now.
    pub live_bytes: u64,
    /// The most within the step.
    pub peak_bytes: u64,
    /// Parameters.
    pub parameter_bytes: u64,
    /// Sums of gradients.
    pub gradient_bytes: u64,
    /// State of the optimizer.
    pub optimizer_bytes: u64,
    /// Packed copies of weights.
    pub packed_bytes: u64,
    /// The most between two ops beyond what stays: activations, residues, messages.
    pub stash_bytes: u64,
    /// What ops needed beyond that while they ran, where the whole was largest.
    pub temporary_bytes: u64,
}
