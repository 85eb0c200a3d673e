//! What one rank did from one moment to another.

use pp_schedule::Phase;
use serde::{Deserialize, Serialize};

/// The kind of work, or of waiting, that a [`Span`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    /// Forward.
    #[serde(rename = "F")]
    F,
    /// Full backward.
    #[serde(rename = "B")]
    B,
    /// Backward for the gradient of the input only.
    #[serde(rename = "I")]
    I,
    /// Backward for the gradient of the weights only.
    #[serde(rename = "W")]
    W,
    /// Handing a tensor to a neighbour.
    Send,
    /// Taking over a tensor that has already arrived.
    Recv,
    /// Waiting for an activation of the stage before.
    WaitAct,
    /// Waiting for a gradient of the stage behind.
    WaitGrad,
    /// The mean of the gradients over the replicas.
    AllReduce,
    /// The optimizer.
    Optim,
    /// Writing a checkpoint.
    Checkpoint,
    /// Reading and preparing the batch.
    Data,
}

impl SpanKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::F,
        Self::B,
        Self::I,
        Self::W,
        Self::Send,
        Self::Recv,
        Self::WaitAct,
        Self::WaitGrad,
        Self::AllReduce,
        Self::Optim,
        Self::Checkpoint,
        Self::Data,
    ];

    /// Whether the rank computes for the model: only these kinds count as busy.
    pub fn is_compute(self) -> bool {
        match self {
            Self::F | Self::B | Self::I | Self::W => true,
            Self::Send
            | Self::Recv
            | Self::WaitAct
            | Self::WaitGrad
            | Self::AllReduce
            | Self::Optim
            | Self::Checkpoint
            | Self::Data => false,
        }
    }

    /// Whether the rank moves a tensor between stages.
    pub fn is_copy(self) -> bool {
        matches!(self, Self::Send | Self::Recv)
    }

    /// Whether the rank waits for a neighbour.
    pub fn is_wait(self) -> bool {
        matches!(self, Self::WaitAct | Self::WaitGrad)
    }

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::F => "F",
            Self::B => "B",
            Self::I => "I",
            Self::W => "W",
            Self::Send => "send",
            Self::Recv => "recv",
            Self::WaitAct => "wait_act",
            Self::WaitGrad => "wait_grad",
            Self::AllReduce => "all_reduce",
            Self::Optim => "optim",
            Self::Checkpoint => "checkpoint",
            Self::Data => "data",
        }
    }
}

impl From<Phase> for SpanKind {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Forward => Self::F,
            Phase::Backward => Self::B,
            Phase::InputGrad => Self::I,
            Phase::WeightGrad => Self::W,
        }
    }
}

/// What one rank did, from `start_ns` on, for `dur_ns`.
///
/// Times are those of the run's monotonic clock, which starts with the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The training step, from 1.
    pub step: u64,
    /// The replica that the rank belongs to.
    #[serde(default)]
    pub replica: u32,
    /// The place along the pipeline.
    pub rank: u32,
    /// The stage that was worked on; 0 for work that belongs to no stage.
    #[serde(default)]
    pub stage: u32,
    /// The micro-batch that was worked on; 0 for work that belongs to none.
    #[serde(default)]
    pub mb: u32,
    /// What was done.
    pub op: SpanKind,
    /// When it began.
    pub start_ns: u64,
    /// How long it took by the wall clock.
    pub dur_ns: u64,
    /// How long this thread really ran on a core meanwhile.
    #[serde(default)]
    pub cpu_ns: u64,
    /// Bytes moved; 0 for anything but copies and reductions.
    #[serde(default)]
    pub bytes: u64,
    /// How long the thread was ready to run but had no core.
    #[serde(default)]
    pub starved_ns: u64,
}

impl Span {
    /// The moment at which the span is over.
    pub fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.dur_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_log() {
        for kind in SpanKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }

    #[test]
    fn four_kinds_compute() {
        let computing: Vec<_> =
            SpanKind::ALL.into_iter().filter(|kind| kind.is_compute()).collect();
        assert_eq!(computing, [SpanKind::F, SpanKind::B, SpanKind::I, SpanKind::W]);
    }
}
