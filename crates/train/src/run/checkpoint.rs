//! The checkpoints of a run: copied between two steps, written while the next ones run.

use std::time::{SystemTime, UNIX_EPOCH};

use pp_hybrid::ModelState;
use pp_hybrid::checkpoint::{About, CheckpointError, Recent};
use pp_telemetry::PhaseEvent;

use super::Run;
use crate::checkpoints::Settled;
use crate::ending::Stopped;
use crate::error::causes;
use crate::observer::Notice;

/// Steps whose losses a checkpoint keeps: as many as the watch over them looks back.
const RECENT: usize = 50;

impl Run<'_> {
    /// Copies the state after `step`, and begins to write it. A place that cannot be written is a
    /// warning, and the run goes on.
    pub(super) fn checkpoint(&mut self, step: u64) -> Result<(), Stopped> {
        if self.checkpoints.is_begun(step) {
            // It was due and asked for at the same time.
            return Ok(());
        }
        // One at a time: a second copy would take memory that is not in the plan.
        self.settle_checkpoint(true);
        if let Some(why) = self.why_no_checkpoint() {
            self.checkpoints.pass_over(step);
            self.no_checkpoint(step, why);
            return Ok(());
        }
        if let Err(error) = self.look_at_folder()? {
            self.checkpoints.pass_over(step);
            self.no_checkpoint(step, &causes(&error));
            return Ok(());
        }
        self.log_at(Some(step), format!("checkpoint of step {step} requested"));
        let phase = self.phases.begin(PhaseEvent::CHECKPOINT, Some(step), 0);
        let state = self.trainer.snapshot().map_err(Stopped::Failed)?;
        let (n_bytes, seconds) = (self.checkpoints.n_bytes(), phase.end());
        let message = format!(
            "checkpoint of step {step} copied: {:.1} MB in {seconds:.3} s",
            n_bytes as f64 / 1e6
        );
        self.log_at(Some(step), message);
        let about = match self.about(step, &state) {
            Ok(about) => about,
            Err(error) => {
                self.checkpoints.call_off();
                self.no_checkpoint(step, &error.to_string());
                return Ok(());
            }
        };
        if let Err(error) = self.checkpoints.begin(state, about) {
            self.no_checkpoint(step, &causes(&error));
        }
        Ok(())
    }

    /// Lets all processes look at the folder for checkpoints, before they write into it for the first
    /// time.
    pub(super) fn look_at_folder(&mut self) -> Result<Result<(), CheckpointError>, Stopped> {
        let Some(world) = self.session.config.world.clone() else { return Ok(Ok(())) };
        let probe = match self.checkpoints.probe() {
            Ok(Some(probe)) => probe,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        let without = self.trainer.look(&probe, &world).map_err(Stopped::Failed)?;
        Ok(self.checkpoints.seen(without))
    }

    /// Notes a checkpoint that has become durable, or could not be written. With `wait`, waits for
    /// it. Returns whether the last checkpoint that was begun is durable.
    pub(super) fn settle_checkpoint(&mut self, wait: bool) -> bool {
        let Some(Settled { step, seconds, written }) = self.checkpoints.settle(wait) else {
            return self.checkpoints.is_last_durable();
        };
        match written {
            Ok(written) => {
                let path = written.checkpoint.path().display();
                let message =
                    format!("checkpoint of step {step} is durable after {seconds:.2} s: {path}");
                self.log_at(Some(step), message);
                if let Some(error) = written.not_removed {
                    let why = causes(&error);
                    self.warn(Some(step), format!("an older checkpoint is still there: {why}"));
                }
            }
            Err(error) => self.no_checkpoint(step, &causes(&error)),
        }
        self.checkpoints.is_last_durable()
    }

    /// Before a run stops early: writes a checkpoint if the run was asked for checkpoints, and the
    /// weights if they were asked for. Says what is saved. The checkpoint comes first: it has the
    /// weights as well, and there may be little time.
    pub(super) fn save_before_stop(&mut self, step: u64) -> Result<(), Stopped> {
        self.settle_checkpoint(true);
        if self.checkpoints.is_asked() && self.checkpoints.last_step() != step {
            self.checkpoint(step)?;
            self.settle_checkpoint(true);
        }
        let message = match self.checkpoints.durable() {
            Some(durable) if durable.step == step => {
                format!("step {step} is saved in {}", durable.path.display())
            }
            Some(durable) => format!(
                "step {step} is not saved; the last checkpoint is that of step {} in {}",
                durable.step,
                durable.path.display()
            ),
            None => match &self.session.config.resume {
                Some(resume) => format!(
                    "step {step} is not saved; the run can resume from {}",
                    resume.checkpoint.path().display()
                ),
                None if self.checkpoints.is_asked() => {
                    format!("step {step} is not saved, and there is no checkpoint to resume from")
                }
                None => format!("no checkpoint was asked for: step {step} cannot be resumed"),
            },
        };
        self.tell(step, message);
        if let Some(file) = self.options.save.clone() {
            let phase = self.phases.begin(PhaseEvent::SAVING, Some(step), 0);
            let weights = self.trainer.weights().map_err(Stopped::Failed)?;
            self.save(&file, &weights)?;
            phase.end();
            let path = file.path.display();
            self.tell(step, format!("{}: the weights of step {step} are in {path}", file.called));
        }
        Ok(())
    }

    /// At the end of the run: waits for a checkpoint that is being written, and says where the last
    /// one is, unless that was said already.
    pub(super) fn name_last_checkpoint(&mut self) {
        self.settle_checkpoint(true);
        if self.saved.is_none()
            && let Some(durable) = self.checkpoints.durable().cloned()
        {
            let (step, path) = (durable.step, durable.path.display());
            self.tell(step, format!("the last checkpoint is that of step {step} in {path}"));
        }
    }

    /// Records a line of text, and notifies the observer.
    fn tell(&mut self, step: u64, message: String) {
        self.observer.notice(&Notice::Saved(&message));
        self.log_at(Some(step), message.clone());
        self.saved = Some(match self.saved.take() {
            Some(before) => format!("{before}; {message}"),
            None => message,
        });
    }

    fn no_checkpoint(&mut self, step: u64, why: &str) {
        self.warn(Some(step), format!("no checkpoint of step {step}: {why}"));
    }

    /// Keeps the losses of the last steps for the next checkpoint.
    pub(super) fn remember(&mut self, step: u64, loss: f64, grad_norm: f64) {
        if loss.is_finite() && grad_norm.is_finite() {
            self.recent.push_back(Recent { step, loss, grad_norm });
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
    }

    /// Takes over the losses of the checkpoint that the run resumes from: what is usual is known
    /// from the first step on.
    pub(super) fn recall(&mut self) {
        let Some(resume) = &self.session.config.resume else { return };
        for &Recent { step, loss, grad_norm } in &resume.checkpoint.manifest().recent {
            // What went wrong then was told then.
            let _ = self.watchdog.step(step, loss, grad_norm);
            self.recent.push_back(Recent { step, loss, grad_norm });
        }
    }

    /// The id of this run, and those of the runs that led to it.
    pub(super) fn runs(&self) -> Vec<String> {
        let before = self.session.lineage().into_iter().map(|continued| continued.run);
        before.chain([self.id.clone()]).collect()
    }

    /// Seconds of training so far, over all runs that led to this step.
    pub(super) fn elapsed_seconds(&self) -> f64 {
        self.seconds_before + self.origin.elapsed().as_secs_f64()
    }

    /// The facts of a checkpoint.
    fn about(&self, step: u64, state: &ModelState) -> serde_json::Result<About> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let job = self.session.record(&self.options.job_words);
        Ok(About {
            step,
            optimizer_steps: state.optimizer_steps,
            optimizer: self.session.config.optimizer.to_string(),
            run: self.id.clone(),
            continues: self.session.lineage(),
            recent: self.recent.iter().copied().collect(),
            written_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            elapsed_seconds: self.elapsed_seconds(),
            job: serde_json::to_value(job)?,
            companions: self.companions.clone(),
        })
    }
}
