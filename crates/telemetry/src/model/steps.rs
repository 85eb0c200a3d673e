//! Numbers over the last steps: how long they take, how much they get through, how much of them is
//! bubble.

use std::collections::VecDeque;

use pp_quantile::nearest_rank;
use pp_trace::StepEvent;

use crate::mark_v1::{StepsV1, TotalsV1};

/// Steps that the numbers are taken over.
pub const RECENT_STEPS: usize = 50;
/// Steps that have to be over before the rest of the run is estimated.
const ETA_STEPS: usize = 5;

/// A mean, with how much the single steps differ from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub sd: f64,
    /// Steps that were looked at.
    pub n_steps: usize,
}

/// How long a step takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSeconds {
    /// The median.
    pub p50: f64,
    /// Of twenty steps, nineteen take no longer.
    pub p95: f64,
}

/// How much is trained on in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Tokens a second.
    Tokens(f64),
    /// Samples a second.
    Samples(f64),
}

/// What was trained on since the run began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Samples.
    pub samples: u64,
    /// Tokens; 0 where samples are not made of tokens.
    pub tokens: u64,
    /// From the beginning of the run to the end of the last step, in seconds.
    pub elapsed_seconds: f64,
}

impl Totals {
    pub(crate) fn push(&mut self, step: &StepEvent) {
        self.samples = self.samples.saturating_add(step.samples);
        self.tokens = self.tokens.saturating_add(step.tokens);
        if step.elapsed_seconds.is_finite() {
            self.elapsed_seconds = step.elapsed_seconds;
        }
    }
}

impl From<Totals> for TotalsV1 {
    fn from(totals: Totals) -> Self {
        let Totals { samples, tokens, elapsed_seconds } = totals;
        Self { samples, tokens, elapsed_seconds }
    }
}

impl From<TotalsV1> for Totals {
    fn from(saved: TotalsV1) -> Self {
        let TotalsV1 { samples, tokens, elapsed_seconds } = saved;
        Self { samples, tokens, elapsed_seconds }
    }
}

/// The last steps.
#[derive(Debug, Clone, PartialEq)]
pub struct RecentSteps {
    /// The first step of the run.
    first: u64,
    steps: VecDeque<StepEvent>,
}

impl Default for RecentSteps {
    fn default() -> Self {
        Self::from_step(1)
    }
}

impl From<&RecentSteps> for StepsV1 {
    fn from(recent: &RecentSteps) -> Self {
        Self { steps: recent.steps.clone() }
    }
}

impl RecentSteps {
    /// None yet, of a run that begins with the step `first`.
    pub(crate) fn from_step(first: u64) -> Self {
        Self { first, steps: VecDeque::new() }
    }

    pub(crate) fn from_saved(first: u64, saved: StepsV1) -> Self {
        Self { first, steps: saved.steps }
    }

    /// Whether it keeps its bound: one that was read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.steps.len() <= RECENT_STEPS
    }

    pub(crate) fn push(&mut self, step: StepEvent) {
        if self.steps.len() >= RECENT_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }

    /// The newest step.
    pub fn last(&self) -> Option<&StepEvent> {
        self.steps.back()
    }

    /// The steps to take numbers from: without the first of the run, which also pays for what
    /// happens only once.
    fn settled(&self) -> impl Iterator<Item = &StepEvent> {
        let skip = usize::from(
            self.steps.len() > 1 && self.steps.front().is_some_and(|step| step.step <= self.first),
        );
        self.steps.iter().skip(skip)
    }

    fn spread(&self, number: impl Fn(&StepEvent) -> f64) -> Option<Spread> {
        let values: Vec<f64> =
            self.settled().map(number).filter(|value| value.is_finite()).collect();
        let n_steps = values.len();
        let mean = values.iter().sum::<f64>() / n_steps as f64;
        let variance =
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n_steps as f64;
        (n_steps > 0).then(|| Spread { mean, sd: variance.sqrt(), n_steps })
    }

    /// The measured bubble ratio.
    pub fn bubble_ratio(&self) -> Option<Spread> {
        self.spread(|step| step.bubble_ratio)
    }

    /// Share of the compute window in which a computing rank had no core.
    pub fn starved_ratio(&self) -> Option<Spread> {
        self.spread(|step| step.starved_ratio)
    }

    /// Idle share of the whole step.
    pub fn idle_of_step(&self) -> Option<Spread> {
        self.spread(|step| step.idle_of_step)
    }

    /// How long a step takes.
    pub fn seconds(&self) -> Option<StepSeconds> {
        let mut seconds: Vec<f64> =
            self.settled().map(|step| step.seconds).filter(|value| value.is_finite()).collect();
        let mut percentile = |percent| nearest_rank(&mut seconds, percent);
        Some(StepSeconds { p50: percentile(50)?, p95: percentile(95)? })
    }

    /// How much is trained on in a second: tokens where there are any, else samples.
    pub fn rate(&self) -> Option<Rate> {
        let mut seconds = 0.0;
        let (mut tokens, mut samples) = (0.0, 0.0);
        for step in self.settled().filter(|step| step.seconds.is_finite()) {
            seconds += step.seconds;
            tokens += step.tokens as f64;
            samples += step.samples as f64;
        }
        // A step without samples is one of which they are not told.
        if seconds <= 0.0 || (samples <= 0.0 && tokens <= 0.0) {
            None
        } else if tokens > 0.0 {
            Some(Rate::Tokens(tokens / seconds))
        } else {
            Some(Rate::Samples(samples / seconds))
        }
    }

    /// How many samples are trained on in a second.
    pub fn samples_per_second(&self) -> Option<f64> {
        let finite = || self.settled().filter(|step| step.seconds.is_finite());
        let seconds: f64 = finite().map(|step| step.seconds).sum();
        let samples: f64 = finite().map(|step| step.samples as f64).sum();
        (seconds > 0.0 && samples > 0.0).then(|| samples / seconds)
    }

    /// How long the rest of a run of `n_steps` will take, once there are enough steps to say so.
    pub fn eta_seconds(&self, n_steps: u64) -> Option<f64> {
        let last = self.steps.back()?;
        if self.steps.len() < ETA_STEPS {
            return None;
        }
        Some(self.seconds()?.p50 * n_steps.checked_sub(last.step)? as f64)
    }
}
