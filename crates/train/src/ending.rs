//! How a run ends.

use pp_hybrid::checkpoint::CheckpointError;
use pp_hybrid::{NotFinite, TrainerError};
use pp_telemetry::Alarm;
use signal_hook::consts::SIGTERM;

use crate::error::{ResultError, TrainError};
use crate::stopping;

/// A run that reached its last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// SHA-256 of all weights, in layer order.
    pub weights_hash: String,
    /// Steps that were made.
    pub steps: u64,
}

/// The reason why a run ended before its last step, or without its results. The log has it as well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// A signal asked for it.
    #[error("stopped by {} after step {steps}", stopping::name(*signal))]
    Signal {
        /// The signal's number.
        signal: i32,
        /// Steps that were made.
        steps: u64,
    },
    /// A request over the socket asked for it.
    #[error("stopped by request after step {steps}")]
    Asked {
        /// Steps that were made.
        steps: u64,
    },
    /// The loss or the gradient norm of a step is not finite.
    #[error(transparent)]
    NotFinite(Box<NotFinite>),
    /// The training goes wrong in another way, and the options end such a run.
    #[error("stopped after step {steps}: {alarm}")]
    Spike {
        /// What is wrong.
        alarm: Alarm,
        /// Steps that were made.
        steps: u64,
    },
    /// The run ended before its first step.
    #[error(transparent)]
    NotStarted(Box<TrainError>),
    /// Checkpoints cannot be written where they were asked for, which was found before the first step.
    #[error("cannot write checkpoints")]
    Checkpoints(#[source] Box<CheckpointError>),
    /// A step could not be made.
    #[error("training failed")]
    Failed(#[source] TrainerError),
    /// A result could not be made or written.
    #[error(transparent)]
    Result(#[from] ResultError),
}

impl From<TrainError> for Stopped {
    fn from(error: TrainError) -> Self {
        Self::NotStarted(Box::new(error))
    }
}

impl Stopped {
    /// The exit code of a process that ends with it.
    pub fn code(&self) -> i32 {
        match self {
            Self::Signal { signal, .. } => 128 + signal,
            // The code of a run that SIGTERM ended.
            Self::Asked { .. } => 128 + SIGTERM,
            Self::NotStarted(error) if error.is_refusal() => 2,
            Self::NotFinite(_)
            | Self::Spike { .. }
            | Self::NotStarted(_)
            | Self::Checkpoints(_)
            | Self::Failed(_)
            | Self::Result(_) => 1,
        }
    }
}
