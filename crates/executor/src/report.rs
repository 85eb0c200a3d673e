//! The reports of ranks.

use pp_schedule::{MicroBatch, Pipe, Rank, Stage};
use pp_trace::Span;
use serde::{Deserialize, Serialize};

/// Which tensors to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The values of the parameters.
    Values,
    /// The sums of their gradients, before clipping.
    Gradients,
}

/// The parameters of one stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// A rank's report of one step.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct StepReport {
    /// On the last stage's rank the mean loss of each micro-batch that ended there; else empty.
    pub losses: Vec<(MicroBatch, f32)>,
    /// The square sums of each parameter's gradient, by stage, in the first copy of the model of
    /// this replica. With several copies they are those of the mean, which all of them have.
    pub square_sums: Vec<(Stage, Vec<f64>)>,
    /// Its spans.
    pub spans: Vec<Span>,
    /// The most (stage, micro-batch) pairs that it held.
    pub stash_peak: u32,
    /// The most bytes that were kept for weight gradients still to be summed.
    pub residue_bytes_peak: u64,
    /// The most messages that waited for it.
    pub mailbox_peak: u32,
}

/// A rank's report of one update.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct UpdateReport {
    /// What it holds now, and the most that it held since the step began.
    pub memory: RankMemory,
    /// Its spans.
    pub spans: Vec<Span>,
}

/// The result of an evaluation. Only the rank of the last stage has one; for every other rank it is
/// empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Evaluated {
    /// The mean loss of each micro-batch, in order.
    pub losses: Vec<f32>,
    /// The number of right predictions and of all, where the objective counts them.
    pub correct: Option<(u64, u64)>,
}

/// Bytes that a rank holds, at the end of a step.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
