//! The line of a step, from the lines of its ranks.

use pp_trace::{RankStep, Span, StepEvent, measure};

use super::jobs::Member;
use super::merged::Merged;
use super::replicas::{per_replica, total};

impl Merged {
    /// The line of a step.
    pub(super) fn step(
        &self,
        step: u64,
        spans: &[Span],
        closed: &[(Member, RankStep)],
        is_whole: bool,
    ) -> StepEvent {
        let start_ns = closed.iter().map(|(_, step)| step.start_ns).min().unwrap_or(0);
        let end_ns = closed.iter().map(|(_, step)| step.end_ns).max().unwrap_or(0);
        let step_ns = end_ns.saturating_sub(start_ns);
        let bubble = measure(spans, self.crew.pp, step_ns);
        let told = |ratio: f64| if is_whole { ratio } else { f64::NAN };
        let losses = per_replica(closed, |step| step.loss);
        let loss = (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
        let loss = loss.map(|loss| loss as f32);
        StepEvent {
            step,
            loss,
            loss_bits: loss.map(StepEvent::bits_of).unwrap_or_default(),
            lr: per_replica(closed, |step| step.lr).first().copied(),
            grad_norm: per_replica(closed, |step| step.grad_norm).first().copied(),
            seconds: step_ns as f64 * 1e-9,
            elapsed_seconds: end_ns as f64 * 1e-9,
            samples: total(closed, self.crew.dp, |step| step.samples),
            tokens: total(closed, self.crew.dp, |step| step.tokens),
            bubble_ratio: told(bubble.bubble_ratio),
            idle_of_step: told(bubble.idle_of_step),
            // A clock of a device and a trace know nothing of cores.
            starved_ratio: if self.knows_starved { told(bubble.starved_ratio) } else { f64::NAN },
            window_seconds: told(bubble.window_seconds),
            dropped: self.n_dropped,
        }
    }
}
