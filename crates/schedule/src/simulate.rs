//! Plays a plan through with given costs: when each op starts and ends, who waits how long, and what must be held meanwhile.
//!
//! An op starts when its rank is free and its input is there. Nothing else delays it: sends are free, links are never busy.

use serde::Serialize;

use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::Rank;
use crate::lower_bound::lower_bound;
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;
use crate::walk::Walk;

/// An op with its times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedOp {
    /// What ran.
    pub op: Op,
    /// When it started.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// What a plan takes. Lists have one entry a rank; times have the unit of the costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// Every op with its times, rank by rank, in the order in which they ran.
    #[serde(skip)]
    pub timeline: Vec<Vec<TimedOp>>,
    /// From the first start to the last end on any rank.
    pub makespan: f64,
    /// How long each rank computes.
    pub busy: Vec<f64>,
    /// How long each rank does not: the makespan less `busy`.
    pub idle: Vec<f64>,
    /// From each rank's first start to its last end.
    pub span: Vec<f64>,
    /// Idle time of all ranks ÷ (ranks × makespan): a part of all time.
    pub bubble_ratio: f64,
    /// Idle time of all ranks ÷ busy time of all ranks: what comes on top of the ideal.
    pub bubble_overhead: f64,
    /// (cost − work) ÷ cost, where cost is the longest span of a rank and work what a rank computes on average.
    pub span_bubble: f64,
    /// The most (stage, micro-batch) pairs alive at once.
    pub peak_activations: Vec<u32>,
    /// The most memory at once, in the unit of [`Costs::activation`].
    pub peak_memory: Vec<f64>,
    /// No order of these ops on these ranks can be faster than this.
    pub lower_bound: f64,
    /// What sets the lower bound.
    pub lower_bound_reason: String,
}

/// Plays a plan through. Linear in the number of ops.
///
/// # Errors
/// [`ScheduleError::Costs`] when the costs do not fit the plan, are no durations, or are 0 for every op.
pub fn simulate(plan: &ValidPlan, costs: &Costs) -> Result<Simulation, ScheduleError> {
    costs.check(plan.topology())?;
    let timeline = timeline(plan, costs);
    let busy: Vec<f64> =
        plan.rows().iter().map(|row| row.iter().map(|&op| costs.duration(op)).sum()).collect();
    let makespan = timeline.iter().flatten().map(|timed| timed.end).fold(0.0, f64::max);
    let total_busy: f64 = busy.iter().sum();
    if total_busy <= 0.0 {
        return Err(ScheduleError::Costs(
            "every op of the plan takes 0; accepted: at least one cost above 0".to_owned(),
        ));
    }
    if !(makespan * f64::from(plan.n_ranks())).is_finite() || !total_busy.is_finite() {
        return Err(ScheduleError::Costs(
            "the costs of the plan sum to more than a number holds; accepted: smaller costs"
                .to_owned(),
        ));
    }
    let idle: Vec<f64> = busy.iter().map(|busy| (makespan - busy).max(0.0)).collect();
    let span: Vec<f64> = timeline.iter().map(|row| span(row)).collect();
    let total_idle: f64 = idle.iter().sum();
    let n_ranks = f64::from(plan.n_ranks());
    let longest_span = span.iter().copied().fold(0.0, f64::max);
    let (bound, lower_bound_reason) = lower_bound(plan, costs, &busy);
    debug_assert!(
        bound <= makespan * (1.0 + 1e-9),
        "the bound {bound} is above the makespan {makespan}"
    );
    Ok(Simulation {
        makespan,
        bubble_ratio: total_idle / (n_ranks * makespan),
        bubble_overhead: total_idle / total_busy,
        span_bubble: (longest_span - total_busy / n_ranks) / longest_span,
        peak_activations: plan.peak_activations(),
        peak_memory: plan.rows().iter().map(|row| peak_memory(plan, costs, row)).collect(),
        // The two are sums of the same numbers in another order: only rounding can put the bound above.
        lower_bound: bound.min(makespan),
        lower_bound_reason,
        timeline,
        busy,
        idle,
        span,
    })
}

fn timeline(plan: &ValidPlan, costs: &Costs) -> Vec<Vec<TimedOp>> {
    let topology = plan.topology();
    let n_micro_batches = plan.n_micro_batches() as usize;
    let n_pairs = plan.n_stages() as usize * n_micro_batches;
    // When the output of a pair, and the gradient of its input, are made.
    let (mut forward_end, mut gradient_end) = (vec![0.0_f64; n_pairs], vec![0.0_f64; n_pairs]);
    let mut timeline: Vec<Vec<TimedOp>> =
        plan.rows().iter().map(|row| Vec::with_capacity(row.len())).collect();
    Walk::new(plan.rows(), topology, plan.n_micro_batches()).run(|Rank(rank), _, op| {
        let row = &mut timeline[rank as usize];
        let free = row.last().map_or(0.0, |timed: &TimedOp| timed.end);
        let ends = if op.phase == Phase::Forward { &mut forward_end } else { &mut gradient_end };
        let at = |stage: usize| stage * n_micro_batches + op.micro_batch.idx();
        let arrival = plan
            .input_stage(op)
            .map_or(0.0, |from| ends[at(from.idx())] + costs.latency(topology, from, op.stage));
        let start = free.max(arrival);
        let end = start + costs.duration(op);
        if op.phase != Phase::WeightGrad {
            ends[at(op.stage.idx())] = end;
        }
        row.push(TimedOp { op, start, end });
    });
    timeline
}

fn span(row: &[TimedOp]) -> f64 {
    match (row.first(), row.last()) {
        (Some(first), Some(last)) => last.end - first.start,
        _ => 0.0,
    }
}

/// Memory is taken at the start of F; all of it goes at the end of B, or all but the residue at the end of I and the rest after W.
fn peak_memory(plan: &ValidPlan, costs: &Costs, row: &[Op]) -> f64 {
    let (mut held, mut peak) = (0.0_f64, 0.0_f64);
    for op in row {
        let (activation, residue) =
            (costs.activation[op.stage.idx()], costs.residue[op.stage.idx()]);
        match op.phase {
            Phase::Forward if plan.is_forward_only() => peak = peak.max(activation),
            Phase::Forward => held += activation,
            Phase::Backward => held -= activation,
            Phase::InputGrad => held -= activation - residue,
            Phase::WeightGrad => held -= residue,
        }
        peak = peak.max(held);
    }
    peak
}
