//! A session that resumes from a checkpoint, and the record that the next checkpoint keeps of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use pp_executor::{InWorld, OptimizerState};
use pp_hybrid::checkpoint::{Continued, Restored};
use pp_nn::OptimizerKind;
use pp_schedule::Rank;

use super::Session;
use crate::continuing::JobRecord;
use crate::error::TrainError;

impl Session {
    /// Steps that were made before this run, which begins with the next one.
    pub fn steps_before(&self) -> u64 {
        self.config.resume.as_ref().map_or(0, |resume| resume.checkpoint.manifest().step)
    }

    /// The checkpoints that led to this run, the oldest first.
    pub(crate) fn lineage(&self) -> Vec<Continued> {
        let Some(resume) = &self.config.resume else { return Vec::new() };
        let manifest = resume.checkpoint.manifest();
        let last = Continued { run: manifest.run.clone(), step: manifest.step };
        manifest.continues.iter().cloned().chain([last]).collect()
    }

    /// What differs from the job of the checkpoint that the run resumes from, a line each.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// The checkpoint that the run resumes from, and what differs, in a few lines.
    pub fn continued(&self) -> Option<String> {
        let checkpoint = &self.config.resume.as_ref()?.checkpoint;
        let manifest = checkpoint.manifest();
        let (run, step) = (&manifest.run, manifest.step);
        let path = checkpoint.path().display();
        let first = format!("resumed after step {step} of run {run}, from {path}");
        Some([first].iter().chain(&self.changes).map(String::as_str).collect::<Vec<_>>().join("\n"))
    }

    /// Takes the state of the checkpoint that the run resumes from, if there is one.
    pub(super) fn resume(&mut self) -> Result<(), TrainError> {
        let Some(resume) = &self.config.resume else { return Ok(()) };
        let path = resume.checkpoint.path();
        let refused =
            |source| TrainError::Resume { path: path.to_owned(), source: Box::new(source) };
        let record = JobRecord::read(&resume.checkpoint).map_err(refused)?;
        let here = self.record(&[]);
        let changes = record.differences(&here, resume).map_err(refused)?;
        let known = self.job.stack.shapes()?;
        let own = self.own_parameters()?;
        let is_own = |name: &str| own.as_ref().is_none_or(|own| own.contains(name));
        let state = resume.checkpoint.load_part(&known, &is_own);
        let state = state.map_err(|error| refused(error.into()))?;
        let Restored { weights, moments, optimizer_steps: steps } = state;
        self.initial = Some(Arc::new(weights));
        self.resumed = Some(Arc::new(OptimizerState { steps, moments }));
        self.changes = changes;
        Ok(())
    }

    /// The parameters of the stages that the rank of this process has; `None` if all ranks are here.
    fn own_parameters(&self) -> Result<Option<BTreeSet<String>>, TrainError> {
        let Some(InWorld(world)) = &self.config.world else { return Ok(None) };
        let rank = Rank(world.index() % self.plan.n_ranks());
        let layers: Vec<_> = self.job.stack.parameters()?;
        let stages = self.plan.topology().stages_of(rank).iter();
        let own = stages.flat_map(|(_, stage)| self.partition.layers(stage.idx()));
        // The second place of a tied parameter has the value of the first.
        let ties = self.job.stack.ties();
        let first = |name: &String| ties.get(name).unwrap_or(name).clone();
        let names = own.flat_map(|layer| layers[layer].iter().map(|(name, _)| first(name)));
        Ok(Some(names.collect()))
    }

    /// The record of its job, with the words of the program.
    pub(crate) fn record(&self, words: &[String]) -> JobRecord {
        let Self { config, plan, .. } = self;
        JobRecord {
            model: config.workload.name().to_owned(),
            facts: config.workload.facts().into_iter().collect(),
            data: self.job.data.fingerprint(),
            seed: config.seed,
            steps: config.steps,
            batch_size: self.batch_size,
            micro_batches: plan.n_micro_batches(),
            dp: config.dp,
            pp: plan.n_ranks(),
            virtual_stages: plan.n_virtual_stages(),
            schedule: plan.name().to_owned(),
            layers: self.partition.to_string(),
            recompute: config.recompute.to_string(),
            kernels: self.chosen.as_ref().map(|c| c.kernels.to_string()).unwrap_or_default(),
            optimizer: optimizer(config.optimizer),
            device: if self.mesh.is_on_cpu() { "cpu" } else { "cuda" }.to_owned(),
            rate: config.rate.to_string(),
            rate_needs_steps: config.rate.needs_steps(),
            clip_norm: config.clip_norm.map(|norm| norm.to_string()).unwrap_or_default(),
            words: words.to_vec(),
        }
    }
}

/// The optimizer with its settings.
fn optimizer(kind: OptimizerKind) -> String {
    match kind {
        OptimizerKind::AdamW { weight_decay } => format!("{kind} with decay {weight_decay}"),
        OptimizerKind::Sgd | OptimizerKind::Adam => kind.to_string(),
    }
}
