//! The input and the result of the closed forms. Each schedule's own file has its formula.
//!
//! F, I, W and B = I + W are a rank's whole share of a micro-batch. Stages are equal, and messages
//! take no time.

use crate::costs::RankShare;
use crate::sizes::Sizes;

/// The formulas of one schedule.
pub(crate) struct Formula {
    /// How long a rank is idle; `None` for sizes and costs that the formula leaves out.
    pub(crate) idle: fn(&Case<'_>) -> Option<Idle>,
    /// The most (stage, micro-batch) pairs that a rank holds at once.
    pub(crate) peak: fn(&Case<'_>, u32) -> u32,
}

/// Idle time of a rank, within the makespan and within the longest span of a rank.
pub(crate) struct Idle {
    pub(crate) makespan: f64,
    pub(crate) span: f64,
}

impl Idle {
    /// Of schedules whose longest span is the whole step.
    pub(crate) fn both(idle: f64) -> Self {
        Self { makespan: idle, span: idle }
    }
}

/// Sizes that the schedule takes, and what a rank's share of a micro-batch costs.
pub(crate) struct Case<'a> {
    pub(crate) sizes: &'a Sizes,
    /// The interleave group that the schedule uses.
    pub(crate) group: u32,
    pub(crate) share: &'a RankShare,
}

impl Case<'_> {
    pub(crate) fn p(&self) -> f64 {
        f64::from(self.sizes.n_ranks)
    }

    pub(crate) fn m(&self) -> f64 {
        f64::from(self.sizes.n_micro_batches)
    }

    pub(crate) fn v(&self) -> f64 {
        f64::from(self.sizes.n_virtual_stages)
    }

    /// m·v, the (stage, micro-batch) pairs of a rank.
    pub(crate) fn n_pairs(&self) -> u64 {
        u64::from(self.sizes.n_micro_batches) * u64::from(self.sizes.n_virtual_stages)
    }

    /// F + B.
    pub(crate) fn whole(&self) -> f64 {
        self.share.forward + self.share.input_grad + self.share.weight_grad
    }

    /// F + I − W: what a rank waits for where W fills the rest.
    pub(crate) fn less_weight_grad(&self) -> f64 {
        self.share.forward + self.share.input_grad - self.share.weight_grad
    }

    /// Whether W is no longer than F and no longer than I.
    pub(crate) fn splits_well(&self) -> bool {
        self.share.weight_grad <= self.share.forward
            && self.share.weight_grad <= self.share.input_grad
    }

    /// Whether F = I = W.
    pub(crate) fn is_equal(&self) -> bool {
        is_same(self.share.forward, self.share.input_grad)
            && is_same(self.share.input_grad, self.share.weight_grad)
    }

    /// Whether the micro-batches are a multiple of the ranks.
    pub(crate) fn divides(&self) -> bool {
        self.sizes.n_micro_batches.is_multiple_of(self.sizes.n_ranks)
    }

    /// What a rank waits for where chunks run in groups of N and a whole step of the pipeline takes
    /// `step`: (p−1)/v steps.
    ///
    /// One group of m < p micro-batches passes through all p ranks before its next chunk can start,
    /// so a step is one trip of pv chunks and back, behind which the other m−1 micro-batches end:
    /// (pv−mv+m−1)/v steps.
    pub(crate) fn looped(&self, step: f64) -> f64 {
        let (p, m, v) = (self.p(), self.m(), self.v());
        if self.group >= self.sizes.n_ranks {
            (p - 1.0) * step / v
        } else {
            (p * v - m * v + m - 1.0) * step / v
        }
    }
}

/// Equal but for rounding: shares may have been summed.
pub(crate) fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}
