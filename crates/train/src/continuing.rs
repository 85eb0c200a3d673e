//! Resuming from a checkpoint: what the new run must share with the old one, and what may differ.

use std::collections::{BTreeMap, BTreeSet};

use pp_hybrid::checkpoint::{Checkpoint, CheckpointError};
use pp_nn::Kernels;
use serde::{Deserialize, Serialize};

use crate::kernels::KernelChoice;

/// The checkpoint that a run resumes from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Whether the run accepts data other than the checkpoint's.
    pub takes_other_data: bool,
}

/// The job of a checkpoint, as far as a run that resumes from it compares it with its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRecord {
    /// The name of the model.
    pub model: String,
    /// The facts of the model.
    pub facts: BTreeMap<String, String>,
    /// The fingerprint of the data, if they have one.
    pub data: Option<String>,
    /// The seed of weights, dropout and data.
    pub seed: u64,
    /// Steps planned.
    pub steps: u64,
    /// Samples of a step.
    pub batch_size: u64,
    /// Micro-batches of each replica.
    pub micro_batches: u32,
    /// Replicas.
    pub dp: u32,
    /// Ranks.
    pub pp: u32,
    /// Stages on each rank.
    pub virtual_stages: u32,
    /// The name of the plan.
    pub schedule: String,
    /// Layers of each stage.
    pub layers: String,
    /// The stages that recompute.
    pub recompute: String,
    /// The kernels, in the form that the flag takes; empty where there are none.
    pub kernels: String,
    /// The optimizer.
    pub optimizer: String,
    /// The kind of device: `cpu` or `cuda`.
    pub device: String,
    /// The learning rate of every step.
    pub rate: String,
    /// Whether the learning rate depends on the number of steps.
    pub rate_needs_steps: bool,
    /// The limit of the gradient norm; empty if there is none.
    pub clip_norm: String,
    /// The job in the words of the program that trains it. They are kept, and never compared.
    pub words: Vec<String>,
}

/// A checkpoint that a run cannot resume from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It was written by a program that describes jobs in another way.
    #[error("the checkpoint does not name its job")]
    NoJob(#[source] serde_json::Error),
    /// Something differs that has to be the same.
    #[error("the checkpoint has {what} {there}, this run {here}")]
    Differs {
        /// What differs.
        what: &'static str,
        /// Its value in the checkpoint.
        there: String,
        /// Its value in this run.
        here: String,
    },
    /// The data differ, and the user did not ask for other data.
    #[error("the data differ from the checkpoint's")]
    OtherData,
    /// The checkpoint already has all the steps of this run.
    #[error("the checkpoint has {there} steps, and this run is to end after {here}")]
    NoSteps {
        /// Steps of the checkpoint.
        there: u64,
        /// Steps of this run.
        here: u64,
    },
}

impl JobRecord {
    /// Reads the record of a checkpoint.
    ///
    /// # Errors
    /// It has another form.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self, ResumeError> {
        Self::deserialize(&checkpoint.manifest().job).map_err(ResumeError::NoJob)
    }

    /// The kernels, if this machine has them.
    pub(crate) fn kernels(&self) -> Option<KernelChoice> {
        let kernels: Kernels = self.kernels.parse().ok()?;
        kernels.missing().is_none().then_some(KernelChoice::Kept(kernels))
    }

    /// Compares the job of a checkpoint with this run's. Returns a line for each difference.
    ///
    /// # Errors
    /// A difference that does not let the run go on.
    pub(crate) fn differences(
        &self,
        here: &Self,
        resume: &Resume,
    ) -> Result<Vec<String>, ResumeError> {
        let refused = |what, there: &str, here: &str| {
            Err(ResumeError::Differs { what, there: there.to_owned(), here: here.to_owned() })
        };
        if self.model != here.model {
            return refused("the model", &self.model, &here.model);
        }
        if self.optimizer != here.optimizer {
            return refused("the optimizer", &self.optimizer, &here.optimizer);
        }
        let done = resume.checkpoint.manifest().step;
        if done >= here.steps {
            return Err(ResumeError::NoSteps { there: done, here: here.steps });
        }
        let is_other_data = self.data != here.data;
        if is_other_data && !resume.takes_other_data {
            return Err(ResumeError::OtherData);
        }
        let mut lines = Vec::new();
        let mut line = |what: &str, there: &str, here: &str, effect: &str| {
            if there != here {
                let none = |text: &str| if text.is_empty() { "none" } else { text }.to_owned();
                lines.push(format!("{what}: {} instead of {}{effect}", none(here), none(there)));
            }
        };
        // A change of these leaves every bit as it is.
        line("schedule", &self.schedule, &here.schedule, "");
        line("ranks", &self.pp.to_string(), &here.pp.to_string(), "");
        let chunks = |record: &Self| record.virtual_stages.to_string();
        line("stages on each rank", &chunks(self), &chunks(here), "");
        line("layers of the stages", &self.layers, &here.layers, "");
        line("recomputation", &self.recompute, &here.recompute, "");
        // A change of these rounds differently.
        let rounds = "; the last bits of the losses will differ";
        line("replicas", &self.dp.to_string(), &here.dp.to_string(), rounds);
        let micro_batches = |record: &Self| record.micro_batches.to_string();
        line("micro-batches", &micro_batches(self), &micro_batches(here), rounds);
        line("kernels", &self.kernels, &here.kernels, rounds);
        line("device", &self.device, &here.device, rounds);
        // A change of these is another training.
        let other = "; the losses will differ";
        line("batch", &self.batch_size.to_string(), &here.batch_size.to_string(), other);
        line("seed", &self.seed.to_string(), &here.seed.to_string(), other);
        line("learning rate", &self.rate, &here.rate, other);
        line("gradient norm at most", &self.clip_norm, &here.clip_norm, other);
        let steps = if here.rate_needs_steps { "; the learning rate follows from it" } else { "" };
        line("steps", &self.steps.to_string(), &here.steps.to_string(), steps);
        let names: BTreeSet<&String> = self.facts.keys().chain(here.facts.keys()).collect();
        for name in names {
            let fact = |record: &Self| record.facts.get(name).cloned().unwrap_or_default();
            line(name, &fact(self), &fact(here), other);
        }
        if is_other_data {
            lines.push(format!("data: other than the checkpoint's{other}"));
        }
        Ok(lines)
    }
}
