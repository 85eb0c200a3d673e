//! The closed forms of the schedules, for equal stages and messages that take no time.

use serde::Serialize;

use crate::costs::RankShare;
use crate::formula::Case;
use crate::schedule_name::ScheduleName;
use crate::sizes::Sizes;

/// The result of a formula for a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClosedForm {
    /// Idle ÷ makespan.
    pub bubble_ratio: f64,
    /// Idle ÷ busy.
    pub bubble_overhead: f64,
    /// (longest span − work) ÷ longest span.
    pub span_bubble: f64,
    /// How long each rank does not compute; the same on every rank.
    pub idle_per_rank: f64,
    /// For every rank the most (stage, micro-batch) pairs alive at once.
    pub peak_activations: Vec<u32>,
}

/// The closed form of a schedule. `None` for a schedule without a formula, for sizes that the
/// schedule refuses or that its formula leaves out, and for costs that are all 0.
pub fn closed_form(schedule: ScheduleName, sizes: &Sizes, share: &RankShare) -> Option<ClosedForm> {
    let group = schedule.check(sizes).ok()?;
    let formula = schedule.facts().formula.as_ref()?;
    let case = Case { sizes, group, share };
    let idle = (formula.idle)(&case).filter(|_| share.comm == 0.0)?;
    let whole = if schedule.trains() { case.whole() } else { share.forward };
    let busy = f64::from(sizes.n_micro_batches) * whole;
    if busy <= 0.0 {
        return None;
    }
    Some(ClosedForm {
        bubble_ratio: idle.makespan / (idle.makespan + busy),
        bubble_overhead: idle.makespan / busy,
        span_bubble: idle.span / (idle.span + busy),
        idle_per_rank: idle.makespan,
        peak_activations: (0..sizes.n_ranks).map(|rank| (formula.peak)(&case, rank)).collect(),
    })
}
