//! What a run does when its training goes wrong.

use pp_hybrid::{NotFinite, StepOutcome};
use pp_telemetry::{Alarm, Event, Warn};

use super::Run;
use crate::ending::Stopped;
use crate::observer::Notice;
use crate::options::OnSpike;

/// The state of the last steps, as far as checkpoints depend on it.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Steps that were skipped.
    n_skipped: u64,
    /// Whether the last step was skipped.
    is_skipped: bool,
    /// Whether the last step was applied although it was not finite.
    is_broken: bool,
    /// Whether a checkpoint was due after a step that was skipped.
    is_owed: bool,
}

impl Run<'_> {
    /// Notes whether a step was skipped, and warns if it was.
    pub(super) fn look_at(&mut self, outcome: &StepOutcome) {
        let StepOutcome { step, loss, grad_norm, is_skipped, .. } = *outcome;
        self.guard.is_skipped = is_skipped;
        self.guard.is_broken = !(is_skipped || loss.is_finite() && grad_norm.is_finite());
        if !is_skipped {
            return;
        }
        self.guard.n_skipped += 1;
        let what = if loss.is_finite() {
            format!("the gradient norm of step {step} is {grad_norm}")
        } else {
            format!("the loss of step {step} is {loss}")
        };
        let n = self.guard.n_skipped;
        let message = format!("{what}: the step is skipped, the weights stay ({n} skipped so far)");
        self.raise(step, message);
    }

    /// Whether a checkpoint is due after `step`. One that is due after a skipped step waits for the
    /// next step that is applied: until then it would have the weights of an earlier step again.
    pub(super) fn is_checkpoint_due(&mut self, step: u64, is_last: bool) -> bool {
        let is_due = self.guard.is_owed || self.checkpoints.is_due(step, is_last);
        self.guard.is_owed = is_due && self.guard.is_skipped && !is_last;
        is_due && !self.guard.is_owed
    }

    /// The reason why the state after the last step is in no checkpoint.
    pub(super) fn why_no_checkpoint(&self) -> Option<&'static str> {
        self.guard.is_broken.then_some("its loss or its gradient norm is not finite")
    }

    /// Whether the options end a run with this alarm. A step that is not finite has a policy of its
    /// own.
    pub(super) fn ends_at(&self, alarm: Alarm) -> bool {
        let is_finite = !matches!(alarm, Alarm::LossNotFinite { .. } | Alarm::NormNotFinite { .. });
        is_finite && self.options.on_spike == OnSpike::Stop
    }

    /// Ends the run after a step that raised an alarm.
    pub(super) fn stop_at(&mut self, step: u64, alarm: Alarm) -> Stopped {
        self.name_last_good(step);
        Stopped::Spike { alarm, steps: self.n_steps }
    }

    /// Ends the run at a step that is not finite. The log has the step, and the run has not made
    /// it.
    pub(super) fn stop_not_finite(&mut self, found: Box<NotFinite>) -> Stopped {
        let step = found.outcome.step;
        self.stepped(&found.outcome);
        self.name_last_good(step);
        Stopped::NotFinite(found)
    }

    /// Says which checkpoint is the last one from before `step`, of which nothing is saved.
    fn name_last_good(&mut self, step: u64) {
        self.settle_checkpoint(true);
        let resume = self.session.config.resume.as_ref();
        let before =
            resume.map(|resume| (resume.checkpoint.manifest().step, resume.checkpoint.path()));
        let durable = self.checkpoints.durable();
        let last = durable.map(|durable| (durable.step, durable.path.as_path())).or(before);
        let mut message = match last {
            Some((last, path)) => format!(
                "step {step} is not saved; the last good checkpoint is that of step {last} in {}",
                path.display()
            ),
            None => format!("step {step} is not saved, and there is no checkpoint to resume from"),
        };
        if let Some(file) = &self.options.save {
            message = format!("{message}; {} is not written", file.called);
        }
        self.warn(Some(step), message.clone());
        self.saved = Some(message);
    }

    /// Records that the training goes wrong, and notifies the observer.
    pub(super) fn raise(&mut self, step: u64, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.observer.notice(&Notice::Alarm(&message));
        self.emit(Event::Warn(Warn { elapsed_ns, step: Some(step), rank: None, message }));
    }
}
