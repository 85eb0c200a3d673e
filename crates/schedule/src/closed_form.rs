//! What formulas say about the schedules, for equal stages and messages that take no time.
//!
//! With F, I, W and B = I + W for a rank's whole share of a micro-batch, F&B for an overlapped pair, and rank r:
//!
//! | schedule | idle per rank | peak activations, in chunks |
//! |---|---|---|
//! | naive | m(p−1)(F+B) | 1 |
//! | gpipe | (p−1)(F+B) | m |
//! | 1f1b | (p−1)(F+B) | min(m, p−r) |
//! | interleaved-1f1b, groups of N ≥ p | (p−1)(F+B)/v | min(mv, (v−1)N+2(p−1−r)+1) |
//! | interleaved-1f1b, one group of m < p | (pv−mv+m−1)(F+B)/v | the same with N=m |
//! | looped-bfs | as interleaved, with N=m | mv |
//! | zb-h1, m ≥ p | (p−1)(F+I−W) | min(m, p) |
//! | zb-h2, m ≥ 2p−1 | the larger of (p−1)F and (p−1)(F+I−2W); in its longest span the second alone | min(m, 2p−1) |
//! | interleaved-zb, p divides m | (p−1)(F+I−W)/v | min(mv, pv) |
//! | zb-v, F=I=W, m ≥ 2p−1 | (p−1)F/2; in its longest span nothing | 2p |
//! | v-half, F=I=W, even p ≥ 4, m ≥ 2p | (3p−7)F/2 | p+2 |
//! | dualpipe-v, F=I=W, F&B=F+B | (p−1)(F&B+B−3W)/2 | 2p+1 |
//! | chimera, F=B, p divides m | (p−2)F | p/2+1 at the ends … p in the middle |
//! | forward-only | as looped-bfs, with F alone | 1 |
//!
//! All that split the backward: for W ≤ F and W ≤ I.
//!
//! One group of m < p micro-batches passes through all p ranks before its next chunk can start, so a step is one trip of pv chunks and
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
    /// (longest span − work) ÷ longest span.
    pub span_bubble: f64,
    /// How long each rank does not compute; the same on every rank.
    pub idle_per_rank: f64,
    /// For every rank the most (stage, micro-batch) pairs alive at once.
    pub peak_activations: Vec<u32>,
}

/// Idle time of a rank, within the makespan and within the longest span of a rank.
struct Idle {
    makespan: f64,
    span: f64,
}

impl Idle {
    /// Of schedules whose longest span is the whole step.
    fn both(idle: f64) -> Self {
        Self { makespan: idle, span: idle }
    }
}

/// The formulas for a schedule. `None` where there is none: for sizes that the schedule refuses or that its formula leaves out, or for
/// costs that are all 0.
pub fn closed_form(schedule: ScheduleName, sizes: &Sizes, share: &RankShare) -> Option<ClosedForm> {
    let group = schedule.check(sizes).ok()?;
    let idle = idle(schedule, sizes, group, share).filter(|_| share.comm == 0.0)?;
    let whole = if schedule == ScheduleName::ForwardOnly {
        share.forward
    } else {
        share.forward + share.input_grad + share.weight_grad
    };
    let busy = f64::from(sizes.n_micro_batches) * whole;
    if busy <= 0.0 {
        return None;
    }
    Some(ClosedForm {
        bubble_ratio: idle.makespan / (idle.makespan + busy),
        bubble_overhead: idle.makespan / busy,
        span_bubble: idle.span / (idle.span + busy),
        idle_per_rank: idle.makespan,
        peak_activations: (0..sizes.n_ranks)
            .map(|rank| peak(schedule, sizes, group, rank))
            .collect(),
    })
}

fn idle(schedule: ScheduleName, sizes: &Sizes, group: u32, share: &RankShare) -> Option<Idle> {
    let &Sizes { n_ranks, n_micro_batches, n_virtual_stages, .. } = sizes;
    let (p, m, v) = (f64::from(n_ranks), f64::from(n_micro_batches), f64::from(n_virtual_stages));
    let &RankShare { forward: f, input_grad: i, weight_grad: w, .. } = share;
    let whole = f + i + w;
    let splits_well = w <= f && w <= i;
    let is_equal = is_same(f, i) && is_same(i, w);
    // Chunks in groups of N, a step of the pipeline taking so long.
    let looped = |step: f64| {
        if group >= n_ranks { (p - 1.0) * step / v } else { (p * v - m * v + m - 1.0) * step / v }
    };
    let idle = match schedule {
        ScheduleName::Naive => Idle::both(m * (p - 1.0) * whole),
        ScheduleName::Gpipe | ScheduleName::OneFOneB => Idle::both((p - 1.0) * whole),
        ScheduleName::InterleavedOneFOneB | ScheduleName::LoopedBfs => Idle::both(looped(whole)),
        ScheduleName::ForwardOnly => {
            // Each rank works through its chunks without a pause, unless there are too few micro-batches for that.
            let span = (v - 1.0) * (p - m).max(0.0) * f / v;
            Idle { makespan: looped(f), span }
        }
        ScheduleName::ZbH1 if splits_well && m >= p => Idle::both((p - 1.0) * (f + i - w)),
        ScheduleName::ZbH2 if splits_well && m >= 2.0 * p - 1.0 => {
            let span = (p - 1.0) * (f + i - 2.0 * w).max(0.0);
            Idle { makespan: span.max((p - 1.0) * f), span }
        }
        ScheduleName::InterleavedZb if splits_well && n_micro_batches.is_multiple_of(n_ranks) => {
            Idle::both((p - 1.0) * (f + i - w) / v)
        }
        ScheduleName::ZbV if is_equal && m >= 2.0 * p - 1.0 => {
            Idle { makespan: (p - 1.0) * f / 2.0, span: 0.0 }
        }
        ScheduleName::VHalf
            if is_equal && n_ranks.is_multiple_of(2) && p >= 4.0 && m >= 2.0 * p =>
        {
            Idle::both((3.0 * p - 7.0) * f / 2.0)
        }
        // With pairs that gain time ranks are busy for unequal times: no one number says what they wait.
        ScheduleName::DualPipeV
            if is_equal && share.overlapped.is_none_or(|pair| is_same(pair, whole)) =>
        {
            Idle::both((p - 1.0) * (whole + i + w - 3.0 * w) / 2.0)
        }
        ScheduleName::Chimera if is_same(f, i + w) && n_micro_batches.is_multiple_of(n_ranks) => {
            Idle::both((p - 2.0) * f)
        }
        _ => return None,
    };
    Some(idle)
}

/// Equal but for rounding: shares may have been summed.
fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

fn peak(schedule: ScheduleName, sizes: &Sizes, group: u32, rank: u32) -> u32 {
    let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, .. } = sizes;
    let all = u64::from(m) * u64::from(v);
    match schedule {
        ScheduleName::Gpipe | ScheduleName::LoopedBfs => all as u32,
        ScheduleName::OneFOneB => m.min(p - rank),
        ScheduleName::InterleavedOneFOneB => {
            let behind = 2 * u64::from(p - 1 - rank) + 1;
            all.min(u64::from(v - 1) * u64::from(group) + behind) as u32
        }
        ScheduleName::ZbH1 => m.min(p),
        ScheduleName::ZbH2 => m.min(2 * p - 1),
        ScheduleName::InterleavedZb => all.min(u64::from(v) * u64::from(p)) as u32,
        ScheduleName::ZbV => (2 * m).min(2 * p),
        ScheduleName::VHalf => p + 2,
        ScheduleName::DualPipeV => 2 * p + 1,
        ScheduleName::Chimera => p / 2 + 1 + rank.min(p - 1 - rank),
        // Naive and forward-only hold one micro-batch at a time; the others have no formula.
        _ => 1,
    }
}
