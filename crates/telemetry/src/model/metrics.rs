//! Numbers of the steps other than the loss, over the whole run, in bounded memory.

use pp_trace::StepEvent;

use crate::mark_v1::MetricsV1;

use super::loss::LossHistory;

/// Buckets of each number at most: a log holds all of them in each of its marks.
const BUCKETS_MAX: usize = 1024;

/// Numbers of the steps, each with its lowest and its highest value over some consecutive steps.
#[derive(Debug, Clone, PartialEq)]
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
    /// Whether all of them keep their bounds.
    pub(crate) fn is_bounded(&self) -> bool {
        [&self.grad_norm, &self.lr, &self.seconds, &self.bubble_ratio, &self.rate]
            .into_iter()
            .all(LossHistory::is_bounded)
    }

    /// Puts the steps of earlier numbers in front of these, up to `step`.
    pub(crate) fn follow(&mut self, earlier: &Self, step: u64) {
        self.grad_norm.follow(&earlier.grad_norm, step);
        self.lr.follow(&earlier.lr, step);
        self.seconds.follow(&earlier.seconds, step);
        self.bubble_ratio.follow(&earlier.bubble_ratio, step);
        self.rate.follow(&earlier.rate, step);
    }

    pub(crate) fn push(&mut self, step: &StepEvent) {
        // What a run does not tell has no place in a curve.
        if let Some(norm) = step.grad_norm {
            self.grad_norm.push(step.step, norm);
        }
        if let Some(lr) = step.lr {
            self.lr.push(step.step, lr);
        }
        self.seconds.push(step.step, step.seconds);
        self.bubble_ratio.push(step.step, step.bubble_ratio);
        // A step that took no time has no rate; that is no number, and not an infinite one.
        let n = if step.tokens > 0 { step.tokens } else { step.samples };
        if n > 0 {
            let rate = if step.seconds > 0.0 { n as f64 / step.seconds } else { f64::NAN };
            self.rate.push(step.step, rate);
        }
    }
}

impl From<&Metrics> for MetricsV1 {
    fn from(metrics: &Metrics) -> Self {
        Self {
            grad_norm: (&metrics.grad_norm).into(),
            lr: (&metrics.lr).into(),
            seconds: (&metrics.seconds).into(),
            bubble_ratio: (&metrics.bubble_ratio).into(),
            rate: (&metrics.rate).into(),
        }
    }
}

impl From<MetricsV1> for Metrics {
    fn from(saved: MetricsV1) -> Self {
        Self {
            grad_norm: saved.grad_norm.into(),
            lr: saved.lr.into(),
            seconds: saved.seconds.into(),
            bubble_ratio: saved.bubble_ratio.into(),
            rate: saved.rate.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark_v1::HistoryV1;

    #[test]
    fn every_number_is_kept_and_comes_back_from_a_log() {
        let mut metrics = Metrics::default();
        for step in 1..=5000 {
            metrics.push(&StepEvent {
                step,
                loss: Some(1.0),
                loss_bits: String::new(),
                lr: Some(0.001),
                grad_norm: Some(if step == 4000 { f64::NAN } else { 2.0 }),
                seconds: if step == 3000 { 0.0 } else { 0.5 },
                elapsed_seconds: 0.0,
                samples: 8,
                tokens: 1000,
                bubble_ratio: if step == 2000 { 0.9 } else { 0.25 },
                idle_of_step: 0.0,
                starved_ratio: 0.0,
                window_seconds: 0.0,
                dropped: 0,
            });
        }
        assert!(metrics.lr.buckets().len() <= BUCKETS_MAX);
        assert_eq!(metrics.grad_norm.n_nonfinite(), 1);
        assert_eq!(metrics.rate.last(), Some(2000.0));
        assert_eq!(metrics.rate.n_nonfinite(), 1, "a step that took no time has no rate");
        assert!(metrics.bubble_ratio.buckets().iter().any(|bucket| bucket.max > 0.8));
        let text = serde_json::to_string(&MetricsV1::from(&metrics)).unwrap();
        let back: MetricsV1 = serde_json::from_str(&text).unwrap();
        let back = Metrics::from(back);
        assert_eq!(back.lr, metrics.lr);
        assert_eq!(back.seconds, metrics.seconds);
        assert_eq!(back.bubble_ratio, metrics.bubble_ratio);
        assert_eq!(back.grad_norm.n_nonfinite(), 1);
        // A history of an older log has no last steps and no bound of its own.
        let old = r#"{"buckets":[[1,1,2.0,2.0,2.0,0]],"stride":1,"n_in_last":1,"marks":[],
            "last":2.0,"ema_raw":0.2,"ema_bias":0.9,"n_nonfinite":0}"#;
        let old: HistoryV1 = serde_json::from_str(old).unwrap();
        let mut old = LossHistory::from(old);
        old.push(2, 1.0);
        assert_eq!(old.since(1).len(), 2);
        assert_eq!(old.since(2).len(), 1);
    }
}
