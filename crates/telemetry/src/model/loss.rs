//! The loss over all steps, in bounded memory, with nothing smoothed away.
//!
//! Steps are kept one by one until there are [`BUCKETS_MAX`] of them; then neighbours are joined,
//! and from there on each bucket stands for twice as many steps. A bucket keeps its lowest and its
//! highest loss: a spike of a single step is still on the screen after a million others. The last
//! steps are kept one by one besides, for whoever looks at them closely.

use std::collections::VecDeque;

use crate::mark_v1::{BucketV1, HistoryV1, ValidationV1};

/// Buckets that are kept at most.
pub const BUCKETS_MAX: usize = 4096;
/// Steps that are kept one by one, whatever the buckets are.
pub const RECENT_VALUES: usize = 200;
/// Validations that are kept at most.
const MARKS_MAX: usize = 2048;
/// What a new step counts for in the moving average.
const EMA_WEIGHT: f64 = 0.1;

/// The loss of some consecutive steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossBucket {
    /// The first step.
    pub first_step: u64,
    /// The last step.
    pub last_step: u64,
    /// The lowest finite loss; infinite if there is none.
    pub min: f64,
    /// The highest finite loss; minus infinity if there is none.
    pub max: f64,
    /// The moving average after the last step.
    pub ema: f64,
    /// Steps whose loss was not finite.
    pub n_nonfinite: u64,
}

impl From<LossBucket> for BucketV1 {
    fn from(bucket: LossBucket) -> Self {
        let LossBucket { first_step, last_step, min, max, ema, n_nonfinite } = bucket;
        Self(first_step, last_step, min, max, ema, n_nonfinite)
    }
}

impl From<BucketV1> for LossBucket {
    fn from(saved: BucketV1) -> Self {
        let BucketV1(first_step, last_step, min, max, ema, n_nonfinite) = saved;
        Self { first_step, last_step, min, max, ema, n_nonfinite }
    }
}

impl LossBucket {
    /// Whether any step of the bucket had a finite loss.
    pub fn has_values(&self) -> bool {
        self.min <= self.max
    }

    fn join(self, next: Self) -> Self {
        Self {
            first_step: self.first_step,
            last_step: next.last_step,
            min: self.min.min(next.min),
            max: self.max.max(next.max),
            ema: next.ema,
            n_nonfinite: self.n_nonfinite.saturating_add(next.n_nonfinite),
        }
    }
}

/// A validation, as a mark in the chart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// The step after which it was made.
    pub step: u64,
    /// The validation loss.
    pub loss: f64,
    /// Share of right answers, for jobs that classify.
    pub accuracy: Option<f64>,
}

impl From<Mark> for ValidationV1 {
    fn from(mark: Mark) -> Self {
        Self { step: mark.step, loss: mark.loss, accuracy: mark.accuracy }
    }
}

impl From<ValidationV1> for Mark {
    fn from(saved: ValidationV1) -> Self {
        Self { step: saved.step, loss: saved.loss, accuracy: saved.accuracy }
    }
}

/// Which way the loss goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trend {
    /// It becomes smaller.
    Falling,
    /// It stays as it is.
    Flat,
    /// It becomes larger.
    Rising,
}

/// The loss over all steps.
#[derive(Debug, Clone, PartialEq)]
pub struct LossHistory {
    buckets: Vec<LossBucket>,
    /// Steps that a full bucket stands for.
    stride: u64,
    /// Steps in the last bucket.
    n_in_last: u64,
    marks: Vec<Mark>,
    best: Option<Mark>,
    /// The last steps, one by one.
    recent: VecDeque<LossBucket>,
    /// Buckets at most.
    buckets_max: usize,
    last: Option<f64>,
    /// The average before the correction for its start at zero.
    ema_raw: f64,
    ema_bias: f64,
    n_nonfinite: u64,
}

impl Default for LossHistory {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
            stride: 1,
            n_in_last: 0,
            marks: Vec::new(),
            best: None,
            recent: VecDeque::new(),
            buckets_max: BUCKETS_MAX,
            last: None,
            ema_raw: 0.0,
            ema_bias: 1.0,
            n_nonfinite: 0,
        }
    }
}

impl LossHistory {
    /// The same with no more than so many buckets.
    pub(crate) fn bounded(buckets_max: usize) -> Self {
        Self { buckets_max: buckets_max.max(2), ..Self::default() }
    }

    /// Whether it keeps its bounds: one that was read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.buckets.len() <= BUCKETS_MAX
            && self.marks.len() <= MARKS_MAX
            && self.recent.len() <= RECENT_VALUES
    }

    pub(crate) fn push(&mut self, step: u64, loss: f64) {
        self.last = Some(loss);
        if loss.is_finite() {
            self.ema_raw += EMA_WEIGHT * (loss - self.ema_raw);
            self.ema_bias *= 1.0 - EMA_WEIGHT;
        } else {
            self.n_nonfinite = self.n_nonfinite.saturating_add(1);
        }
        let (min, max) =
            if loss.is_finite() { (loss, loss) } else { (f64::INFINITY, f64::NEG_INFINITY) };
        let bucket = LossBucket {
            first_step: step,
            last_step: step,
            min,
            max,
            ema: self.ema().unwrap_or(f64::NAN),
            n_nonfinite: u64::from(!loss.is_finite()),
        };
        if self.recent.len() >= RECENT_VALUES {
            self.recent.pop_front();
        }
        self.recent.push_back(bucket);
        match self.buckets.last_mut() {
            Some(last) if self.n_in_last < self.stride => {
                *last = last.join(bucket);
                self.n_in_last += 1;
            }
            _ => {
                if self.buckets.len() >= self.buckets_max.clamp(2, BUCKETS_MAX) {
                    self.halve();
                }
                self.buckets.push(bucket);
                self.n_in_last = 1;
            }
        }
    }

    fn halve(&mut self) {
        self.buckets = self
            .buckets
            .chunks(2)
            .map(|pair| pair[1..].iter().fold(pair[0], |a, &b| a.join(b)))
            .collect();
        self.stride = self.stride.saturating_mul(2);
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        if mark.loss.is_finite() && self.best.is_none_or(|best| mark.loss < best.loss) {
            self.best = Some(mark);
        }
        if self.marks.len() >= MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push(mark);
    }

    /// Puts the steps of an earlier history in front of these, up to `step`. What came after that
    /// was trained again, and is left out.
    pub(crate) fn follow(&mut self, earlier: &Self, step: u64) {
        let until =
            |bucket: &LossBucket| LossBucket { last_step: bucket.last_step.min(step), ..*bucket };
        let is_kept = |bucket: &&LossBucket| bucket.first_step <= step;
        let front: Vec<LossBucket> = earlier.buckets.iter().filter(is_kept).map(until).collect();
        let n_nonfinite =
            front.iter().map(|bucket| bucket.n_nonfinite).fold(0, u64::saturating_add);
        self.n_nonfinite = self.n_nonfinite.saturating_add(n_nonfinite);
        let recent = earlier.recent.iter().filter(is_kept).map(until);
        self.recent = recent.chain(self.recent.iter().copied()).collect();
        let n_too_many = self.recent.len().saturating_sub(RECENT_VALUES);
        self.recent.drain(..n_too_many);
        // The next step begins a bucket.
        if self.buckets.is_empty() {
            self.n_in_last = u64::MAX;
        }
        self.buckets.splice(..0, front);
        self.stride = self.stride.max(earlier.stride);
        while self.buckets.len() > self.buckets_max.clamp(2, BUCKETS_MAX) {
            self.halve();
        }
        let own = std::mem::take(&mut self.marks);
        let marks = earlier.marks.iter().filter(|mark| mark.step <= step).copied().chain(own);
        let best = earlier.best.filter(|best| best.step <= step);
        self.best = best.into_iter().chain(self.best).min_by(|a, b| a.loss.total_cmp(&b.loss));
        marks.for_each(|mark| self.mark(mark));
    }

    /// The buckets, in the order of the steps.
    pub fn buckets(&self) -> &[LossBucket] {
        &self.buckets
    }

    /// The buckets from a step on: one for each step where these are still kept one by one.
    pub fn since(&self, step: u64) -> Vec<LossBucket> {
        let is_recent = self.recent.front().is_some_and(|first| first.first_step <= step);
        let is_in = |bucket: &&LossBucket| bucket.last_step >= step;
        if is_recent {
            self.recent.iter().filter(is_in).copied().collect()
        } else {
            self.buckets.iter().filter(is_in).copied().collect()
        }
    }

    /// What is kept of a step: that step alone where it is recent, else with its neighbours.
    pub fn at(&self, step: u64) -> Option<LossBucket> {
        let holds = |bucket: &&LossBucket| (bucket.first_step..=bucket.last_step).contains(&step);
        let recent = self.recent.iter().find(holds);
        recent.or_else(|| self.buckets.iter().find(holds)).copied()
    }

    /// The first step and the last one that are known of.
    pub fn steps(&self) -> Option<(u64, u64)> {
        Some((self.buckets.first()?.first_step, self.buckets.last()?.last_step))
    }

    /// The validation with the lowest loss.
    pub fn best_mark(&self) -> Option<Mark> {
        self.best
    }

    /// The validations, in the order of the steps.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The loss of the last step, finite or not.
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    /// The moving average of the finite losses.
    pub fn ema(&self) -> Option<f64> {
        (self.ema_bias < 1.0).then(|| self.ema_raw / (1.0 - self.ema_bias))
    }

    /// Steps whose loss was not finite.
    pub fn n_nonfinite(&self) -> u64 {
        self.n_nonfinite
    }

    /// Which way the moving average has gone over about the last twentieth of the known steps, and
    /// twenty steps at least; `None` while there are too few.
    pub fn trend(&self) -> Option<Trend> {
        let now = self.buckets.last()?;
        let before = self.buckets.first()?.first_step.saturating_sub(1);
        let n_steps = now.last_step.saturating_sub(before);
        let back = (n_steps / 20).max(20);
        let then_step = before.saturating_add(n_steps.checked_sub(back)?);
        let at = self.buckets.partition_point(|bucket| bucket.last_step < then_step);
        let then = self.buckets.get(at)?;
        let change = (now.ema - then.ema) / then.ema.abs().max(f64::MIN_POSITIVE);
        if !change.is_finite() {
            None
        } else if change < -0.001 {
            Some(Trend::Falling)
        } else if change > 0.001 {
            Some(Trend::Rising)
        } else {
            Some(Trend::Flat)
        }
    }
}

impl From<&LossHistory> for HistoryV1 {
    fn from(history: &LossHistory) -> Self {
        Self {
            buckets: history.buckets.iter().copied().map(BucketV1::from).collect(),
            stride: history.stride,
            n_in_last: history.n_in_last,
            marks: history.marks.iter().copied().map(ValidationV1::from).collect(),
            best: history.best.map(ValidationV1::from),
            recent: history.recent.iter().copied().map(BucketV1::from).collect(),
            buckets_max: Some(history.buckets_max),
            last: history.last,
            ema_raw: history.ema_raw,
            ema_bias: history.ema_bias,
            n_nonfinite: history.n_nonfinite,
        }
    }
}

impl From<HistoryV1> for LossHistory {
    fn from(saved: HistoryV1) -> Self {
        Self {
            buckets: saved.buckets.into_iter().map(LossBucket::from).collect(),
            stride: saved.stride,
            n_in_last: saved.n_in_last,
            marks: saved.marks.into_iter().map(Mark::from).collect(),
            best: saved.best.map(Mark::from),
            recent: saved.recent.into_iter().map(LossBucket::from).collect(),
            buckets_max: saved.buckets_max.unwrap_or(BUCKETS_MAX),
            last: saved.last,
            ema_raw: saved.ema_raw,
            ema_bias: saved.ema_bias,
            n_nonfinite: saved.n_nonfinite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_and_a_spike_stays_visible() {
        let mut history = LossHistory::default();
        for step in 1..=1_000_000 {
            history.push(step, if step == 77_777 { 99.0 } else { 1.0 });
            history.mark(Mark { step, loss: 1.0, accuracy: None });
        }
        assert!(history.buckets().len() <= BUCKETS_MAX);
        assert!(history.marks().len() <= MARKS_MAX);
        let spike = history.buckets().iter().find(|bucket| bucket.max > 50.0).unwrap();
        assert!((spike.first_step..=spike.last_step).contains(&77_777));
        assert_eq!(history.buckets()[0].first_step, 1);
        assert_eq!(history.buckets().last().unwrap().last_step, 1_000_000);
        let joined =
            history.buckets().windows(2).all(|pair| pair[0].last_step + 1 == pair[1].first_step);
        assert!(joined, "no step is lost and none counts twice");
    }

    #[test]
    fn the_last_steps_stay_single_and_the_best_validation_stays_known() {
        let mut history = LossHistory::bounded(16);
        for step in 1..=10_000 {
            history.push(step, step as f64);
            let loss = if step == 77 { 0.5 } else { 1.0 };
            history.mark(Mark { step, loss, accuracy: None });
        }
        assert!(history.buckets().len() <= 16);
        assert_eq!(history.best_mark().map(|mark| mark.step), Some(77));
        let last: Vec<_> = history.since(9_951).iter().map(|bucket| bucket.first_step).collect();
        assert_eq!(last, (9_951..=10_000).collect::<Vec<_>>());
        let half = history.since(5_000);
        assert!(half.len() <= 16 && half[0].first_step <= 5_000 && half[0].last_step >= 5_000);
        assert_eq!(history.steps(), Some((1, 10_000)));
        assert!(history.since(10_001).is_empty());
        let at = history.at(9_990).unwrap();
        assert_eq!((at.first_step, at.last_step, at.max), (9_990, 9_990, 9_990.0));
        let early = history.at(5).unwrap();
        assert!(early.first_step <= 5 && early.last_step > 5);
        assert_eq!((history.at(0), history.at(10_001)), (None, None));
    }

    #[test]
    fn the_average_begins_at_the_first_loss_and_passes_over_what_is_not_finite() {
        let mut history = LossHistory::default();
        history.push(1, f64::NAN);
        assert_eq!(history.ema(), None);
        history.push(2, 4.0);
        assert!((history.ema().unwrap() - 4.0).abs() < 1e-12);
        history.push(3, f64::INFINITY);
        assert!((history.ema().unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(history.n_nonfinite(), 2);
        assert!(!history.buckets()[0].has_values());
    }

    #[test]
    fn a_resumed_run_goes_on_behind_the_steps_before_its_checkpoint() {
        let of = |first: u64, last: u64, loss: f64, buckets_max| {
            let mut history = LossHistory::bounded(buckets_max);
            for step in first..=last {
                history.push(step, loss);
                history.mark(Mark { step, loss, accuracy: None });
            }
            history
        };
        for buckets_max in [4096, 16] {
            let earlier = of(1, 60, 2.0, buckets_max);
            // The curves before may be known before the first step, or in the middle.
            for known_at in [41, 50] {
                let mut resumed = of(41, known_at - 1, 1.0, buckets_max);
                resumed.follow(&earlier, 40);
                for step in known_at..=100 {
                    resumed.push(step, 1.0);
                }
                let buckets = resumed.buckets();
                assert!(buckets.len() <= buckets_max, "{}", buckets.len());
                assert_eq!(resumed.steps(), Some((1, 100)));
                let joined =
                    buckets.windows(2).all(|two| two[0].last_step + 1 == two[1].first_step);
                assert!(joined, "no step is lost and none counts twice");
                assert_eq!(resumed.last(), Some(1.0));
                assert!((resumed.ema().unwrap() - 1.0).abs() < 1e-9, "its own average");
                if buckets_max > 100 {
                    assert_eq!(resumed.at(40).map(|bucket| bucket.max), Some(2.0));
                    assert_eq!(resumed.at(41).map(|bucket| bucket.max), Some(1.0));
                }
                let marked = resumed.marks().iter().filter(|mark| mark.step <= 40).count();
                assert_eq!(marked, 40, "the replayed validations are left out");
            }
        }
    }

    #[test]
    fn the_trend_of_a_resumed_run_needs_steps_of_its_own() {
        let mut history = LossHistory::default();
        (1001..=1010).for_each(|step| history.push(step, 1.0));
        assert_eq!(history.trend(), None, "ten steps are too few");
        (1011..=1030).for_each(|step| history.push(step, 2.0));
        assert_eq!(history.trend(), Some(Trend::Rising));
    }

    #[test]
    fn the_trend_says_which_way_it_goes() {
        let trend_of = |loss: fn(u64) -> f64| {
            let mut history = LossHistory::default();
            (1..=100).for_each(|step| history.push(step, loss(step)));
            history.trend().unwrap()
        };
        assert_eq!(trend_of(|step| 5.0 - step as f64 * 0.01), Trend::Falling);
        assert_eq!(trend_of(|_| 2.3), Trend::Flat);
        assert_eq!(trend_of(|step| 1.0 + step as f64 * 0.01), Trend::Rising);
    }
}
