//! What a run writes into its log, and tells its observer, step by step.

use pp_hybrid::StepOutcome;
use pp_telemetry::{Alarm, Event, Log, Mem, StepEvent, Warn};

use super::Run;
use crate::observer::Notice;

impl Run<'_> {
    /// Records a step, and notifies the observer. Returns what goes wrong from here on.
    pub(super) fn stepped(&mut self, outcome: &StepOutcome) -> Option<Alarm> {
        let samples = self.session.batch_size;
        let tokens = samples * self.session.job.data.tokens_per_sample();
        let event = StepEvent {
            step: outcome.step,
            loss: Some(outcome.loss),
            loss_bits: StepEvent::bits_of(outcome.loss),
            lr: Some(outcome.lr),
            grad_norm: Some(outcome.grad_norm),
            seconds: outcome.seconds,
            elapsed_seconds: self.origin.elapsed().as_secs_f64(),
            samples,
            tokens,
            bubble_ratio: outcome.bubble.bubble_ratio,
            idle_of_step: outcome.bubble.idle_of_step,
            starved_ratio: outcome.bubble.starved_ratio,
            window_seconds: outcome.bubble.window_seconds,
            dropped: self.recorder.dropped(),
        };
        let n_ranks = self.session.plan.n_ranks();
        for (index, memory) in outcome.memory.iter().enumerate() {
            self.recorder.record(Event::Mem(Mem {
                step: outcome.step,
                replica: index as u32 / n_ranks,
                rank: index as u32 % n_ranks,
                live_bytes: memory.live_bytes,
                peak_bytes: memory.peak_bytes,
                parameter_bytes: memory.parameter_bytes,
                gradient_bytes: memory.gradient_bytes,
                optimizer_bytes: memory.optimizer_bytes,
                packed_bytes: memory.packed_bytes,
                stash_bytes: memory.stash_bytes,
                temporary_bytes: memory.temporary_bytes,
            }));
        }
        self.emit(Event::Step(event));
        self.observer.notice(&Notice::Stepped(outcome));
        let (loss, grad_norm) = (f64::from(outcome.loss), outcome.grad_norm);
        let alarm = self.watchdog.step(outcome.step, loss, grad_norm);
        self.remember(outcome.step, loss, grad_norm);
        if let Some(alarm) = alarm {
            self.raise(outcome.step, alarm.to_string());
        }
        if let Some(message) = self.recorder.take_warning() {
            self.warn(Some(outcome.step), format!("{message}; the run goes on"));
        }
        alarm
    }

    /// Records a warning, and notifies the observer.
    pub(super) fn warn(&mut self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.observer.notice(&Notice::Warning(&message));
        self.emit(Event::Warn(Warn { elapsed_ns, step, rank: None, message }));
    }

    /// Warns of what is known before the first step: that nobody can send requests, and what the data
    /// say of themselves.
    pub(super) fn warn_at_first(&mut self, no_control: Option<impl std::fmt::Display>) {
        if let Some(error) = no_control {
            self.warn(None, format!("this run takes no requests, only signals: {error}"));
        }
        for remark in self.session.job.data.remarks() {
            self.warn(None, remark);
        }
    }

    /// Records a line of text, which the observer does not get.
    pub(super) fn log(&self, message: String) {
        self.log_at(None, message);
    }

    pub(super) fn log_at(&self, step: Option<u64>, message: String) {
        let elapsed_ns = self.origin.elapsed().as_nanos() as u64;
        self.recorder.record(Event::Log(Log { elapsed_ns, step, message }));
    }

    /// Records an event, and notifies the observer.
    pub(super) fn emit(&mut self, event: Event) {
        self.observer.notice(&Notice::Event(&event));
        self.recorder.record(event);
    }
}
