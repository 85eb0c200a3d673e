//! Numbers of the steps other than the loss, over the whole run, in bounded memory.

use serde::{Deserialize, Serialize};

use crate::step::StepEvent;

use super::loss::LossHistory;

/// Buckets of each number at most: a log holds all of them in each of its marks.
const BUCKETS_MAX: usize = 1024;

/// Numbers of the steps, each with its lowest and its highest value over some consecutive steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The norm of all gradients, before clipping.
    pub grad_norm: LossHistory,
    /// The learning rate.
    pub lr: LossHistory,
    /// How long the steps took, in seconds.
    pub seconds: LossHistory,
    /// The measured bubble ratio.
    pub bubble_ratio: LossHistory,
    /// Tokens a second, or samples a second where the samples are not made of tokens.
    pub rate: LossHistory,
}

impl Default for Metrics {
    fn default() -> Self {
        let history = || LossHistory::bounded(BUCKETS_MAX);
        Self {
            grad_norm: history(),
            lr: history(),
            seconds: history(),
            bubble_ratio: history(),
            rate: history(),
        }
    }
}

impl Metrics {
    pub(crate) fn push(&mut self, step: &StepEvent) {
        self.grad_norm.push(step.step, step.grad_norm);
        self.lr.push(step.step, step.lr);
        self.seconds.push(step.step, step.seconds);
        self.bubble_ratio.push(step.step, step.bubble_ratio);
        // A step that took no time has no rate; that is no number, and not an infinite one.
        let n = if step.tokens > 0 { step.tokens } else { step.samples };
        let rate = if step.seconds > 0.0 { n as f64 / step.seconds } else { f64::NAN };
        self.rate.push(step.step, rate);
    }
}
