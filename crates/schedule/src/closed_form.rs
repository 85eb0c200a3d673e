//! What formulas say about the schedules, for equal stages and messages that take no time.
//!
//! With F and B for a rank's whole share of a micro-batch, and rank r:
//!
//! | schedule | idle per rank | peak activations |
//! |---|---|---|
//! | naive | m(p−1)(F+B) | 1 |
//! | gpipe | (p−1)(F+B) | m |
//! | 1f1b | (p−1)(F+B) | min(m, p−r) |
//! | interleaved-1f1b, groups of N ≥ p | (p−1)(F+B)/v | in chunks: min(mv, (v−1)N+2(p−1−r)+1) |
//! | interleaved-1f1b, one group of m < p | (pv−mv+m−1)(F+B)/v | the same with N=m |
//!
//! The last line: one group passes through all p ranks before its next chunk can start, so a step is one trip of pv chunks and
//! back, behind which the other m−1 micro-batches end.

use serde::Serialize;

use crate::costs::RankShare;
use crate::schedule_name::{ScheduleName, Sizes};

/// What a formula says about a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClosedForm {
    /// Idle ÷ makespan.
    pub bubble_ratio: f64,
    /// Idle ÷ busy.
    pub bubble_overhead: f64,
    /// (longest span − work) ÷ longest span. Rank 0 starts first and ends last in all of these, so that its span is the makespan.
    pub span_bubble: f64,
    /// How long each rank does not compute; the same on every rank.
    pub idle_per_rank: f64,
    /// For every rank the most (stage, micro-batch) pairs alive at once.
    pub peak_activations: Vec<u32>,
}

/// The formulas for a schedule. `None` where there is none: for sizes that the schedule refuses, or costs that are all 0.
pub fn closed_form(schedule: ScheduleName, sizes: &Sizes, share: &RankShare) -> Option<ClosedForm> {
    let group = schedule.check(sizes).ok()?;
    let &Sizes { n_ranks, n_micro_batches, n_virtual_stages, .. } = sizes;
    let (p, m, v) = (f64::from(n_ranks), f64::from(n_micro_batches), f64::from(n_virtual_stages));
    let whole = share.forward + share.input_grad + share.weight_grad;
    let idle_per_rank = match schedule {
        ScheduleName::Naive => m * (p - 1.0) * whole,
        ScheduleName::Gpipe | ScheduleName::OneFOneB => (p - 1.0) * whole,
        ScheduleName::InterleavedOneFOneB if group >= n_ranks => (p - 1.0) * whole / v,
        ScheduleName::InterleavedOneFOneB => (p * v - m * v + m - 1.0) * whole / v,
        _ => return None,
    };
    let busy = m * whole;
    if busy <= 0.0 {
        return None;
    }
    let peak = |rank: u32| match schedule {
        ScheduleName::Naive => 1,
        ScheduleName::Gpipe => n_micro_batches,
        ScheduleName::OneFOneB => n_micro_batches.min(n_ranks - rank),
        ScheduleName::InterleavedOneFOneB => {
            let chunks = u64::from(n_virtual_stages - 1) * u64::from(group)
                + 2 * u64::from(n_ranks - 1 - rank)
                + 1;
            chunks.min(u64::from(n_micro_batches) * u64::from(n_virtual_stages)) as u32
        }
        _ => 0,
    };
    let bubble_ratio = idle_per_rank / (idle_per_rank + busy);
    Some(ClosedForm {
        bubble_ratio,
        bubble_overhead: idle_per_rank / busy,
        span_bubble: bubble_ratio,
        idle_per_rank,
        peak_activations: (0..n_ranks).map(peak).collect(),
    })
}
