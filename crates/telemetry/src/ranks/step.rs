//! The line of a step, from the lines of its ranks.

use pp_trace::{RankStep, Span, StepEvent, measure};

use super::jobs::Member;
use super::merged::Merged;

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
        // The mean over the replicas of what the first rank of each tells that knows.
        let per_replica = |value: fn(&RankStep) -> Option<f64>| {
            let mut each: Vec<(u32, f64)> = closed
                .iter()
                .filter_map(|(member, step)| Some((member.replica, value(step)?)))
                .collect();
            each.dedup_by_key(|(replica, _)| *replica);
            each
        };
        let mean = |each: &[(u32, f64)]| {
            (!each.is_empty())
                .then(|| each.iter().map(|(_, value)| value).sum::<f64>() / each.len() as f64)
        };
        let sum = |value: fn(&RankStep) -> Option<u64>| {
            let mut each: Vec<(u32, u64)> = closed
                .iter()
                .filter_map(|(member, step)| Some((member.replica, value(step)?)))
                .collect();
            each.dedup_by_key(|(replica, _)| *replica);
            // If only some replicas tell, the sum is not known.
            if each.len() == self.crew.dp as usize {
                each.iter().fold(0_u64, |sum, (_, value)| sum.saturating_add(*value))
            } else {
                0
            }
        };
        let loss = mean(&per_replica(|step| step.loss)).map(|loss| loss as f32);
        StepEvent {
            step,
            loss,
            loss_bits: loss.map(StepEvent::bits_of).unwrap_or_default(),
            lr: per_replica(|step| step.lr).first().map(|(_, lr)| *lr),
            grad_norm: per_replica(|step| step.grad_norm).first().map(|(_, norm)| *norm),
            seconds: step_ns as f64 * 1e-9,
            elapsed_seconds: end_ns as f64 * 1e-9,
            samples: sum(|step| step.samples),
            tokens: sum(|step| step.tokens),
            bubble_ratio: told(bubble.bubble_ratio),
            idle_of_step: told(bubble.idle_of_step),
            // A clock of a device and a trace know nothing of cores.
            starved_ratio: if self.knows_starved { told(bubble.starved_ratio) } else { f64::NAN },
            window_seconds: told(bubble.window_seconds),
            dropped: self.n_dropped,
        }
    }
}
