//! What a run does that lasts and is no training step: evaluation, checkpoints, and all that comes
//! before the first step.

use serde::{Deserialize, Serialize};

/// One phase of a run, told by its driver when it begins, while it goes on, and when it is over.
///
/// All lines of one phase have the same name and the same `start_ns`. The name is shown as it is,
/// so it is a word for what happens: `evaluating`, `profiling`. A program of another kind may use
/// names of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseEvent {
    /// What is done: one of the names in [`PhaseEvent`], or another.
    pub phase: String,
    /// The training step after which it began; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// When it began, since the run did.
    pub start_ns: u64,
    /// When this line was written, since the run began.
    pub elapsed_ns: u64,
    /// How long it took; `None` while it goes on.
    pub dur_ns: Option<u64>,
    /// How much of it is done.
    pub done: u64,
    /// Of how much; 0 where that is not known.
    pub total: u64,
}

impl PhaseEvent {
    /// Layers are measured.
    pub const PROFILING: &str = "profiling";
    /// A plan and a cut are looked for.
    pub const CUTTING: &str = "cutting";
    /// One micro-batch goes through all stages, to know what each rank will hold.
    pub const REHEARSING: &str = "rehearsing";
    /// The ranks build their parts of the model.
    pub const BUILDING: &str = "building";
    /// The held-out samples are looked at.
    pub const EVALUATING: &str = "evaluating";
    /// The weights are written because somebody asked for it.
    pub const CHECKPOINT: &str = "checkpoint";
    /// The trained model makes up a text.
    pub const SAMPLING: &str = "sampling";
    /// A result is written.
    pub const SAVING: &str = "saving";

    /// Names of what comes before the first step.
    pub const OF_THE_START: [&str; 4] =
        [Self::PROFILING, Self::CUTTING, Self::REHEARSING, Self::BUILDING];

    /// What is done and how far: `evaluating 3/12`.
    pub fn text(&self) -> String {
        match (self.total, self.dur_ns) {
            (0, _) | (_, Some(_)) => self.phase.clone(),
            (total, None) => format!("{} {}/{total}", self.phase, self.done),
        }
    }
}
