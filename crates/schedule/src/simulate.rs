//! Simulates a plan with given costs: when each op starts and ends, how long each rank waits, and
//! how much memory it holds meanwhile.
//!
//! A cell starts when its rank is free and its inputs are there. A message leaves when its op ends;
//! it takes its edge's latency, and where the edge has a bandwidth it occupies the edge for as long
//! as its size needs, behind the messages before it.

use serde::Serialize;

use crate::action::Action;
use crate::costs::Costs;
use crate::edges::Edges;
use crate::error::ScheduleError;
use crate::ids::Stage;
use crate::list::Length;
use crate::lower_bound::lower_bound;
use crate::memory::{Arrival, peak_memory};
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;
use crate::walk::Walk;

/// A cell with its times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedAction {
    /// What ran.
    pub action: Action,
    /// When it started.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// What a plan takes. Lists have one entry a rank; times have the unit of the costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// When each cell starts, rank by rank, in the order of the rows; [`Simulation::timeline`] puts
    /// the two together.
    #[serde(skip)]
    pub starts: Vec<Vec<f64>>,
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
    /// (cost − work) ÷ cost, where cost is the longest span of a rank and work what a rank computes
    /// on average.
    pub span_bubble: f64,
    /// The most (stage, micro-batch) pairs alive at once.
    pub peak_activations: Vec<u32>,
    /// The most memory at once, in the unit of [`Costs::activation`]: activations, what stays of
    /// them until W is summed, and messages that lie there unused.
    pub peak_memory: Vec<f64>,
    /// The most that each rank may hold, where the costs say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Vec<f64>>,
    /// Whether every rank stays within its limit; `None` without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fits_memory: Option<bool>,
    /// No order of these ops on these ranks, within the memory limit that the plan keeps, can be
    /// faster than this.
    pub lower_bound: f64,
    /// What sets the lower bound.
    pub lower_bound_reason: String,
}

impl Simulation {
    /// The cells of every rank with their times. `plan` and `costs` must be those of the
    /// simulation.
    pub fn timeline<'a>(
        &'a self,
        plan: &'a ValidPlan,
        costs: &'a Costs,
    ) -> impl Iterator<Item = impl Iterator<Item = TimedAction> + Clone + 'a> + 'a {
        timeline(plan, costs, &self.starts)
    }
}

fn timeline<'a>(
    plan: &'a ValidPlan,
    costs: &'a Costs,
    starts: &'a [Vec<f64>],
) -> impl Iterator<Item = impl Iterator<Item = TimedAction> + Clone + 'a> + 'a {
    plan.rows().iter().zip(starts).map(|(row, starts)| {
        let timed = |(&action, &start): (&Action, &f64)| TimedAction {
            action,
            start,
            end: start + costs.duration_of(action),
        };
        row.iter().zip(starts).map(timed)
    })
}

/// Plays a plan through. Linear in the number of ops, but for logarithms: memory events are sorted
/// where messages take memory, and the lower bound sorts what each rank has to do.
///
/// # Errors
/// [`ScheduleError::Costs`] when the costs do not fit the plan, are no durations, or are 0 for
/// every op.
pub fn simulate(plan: &ValidPlan, costs: &Costs) -> Result<Simulation, ScheduleError> {
    costs.check(plan.topology())?;
    let Played { starts, arrivals } = play(plan, costs);
    let Length { makespan, .. } = length_of(plan, costs, &starts);
    let busy: Vec<f64> = plan
        .rows()
        .iter()
        .map(|row| row.iter().map(|&action| costs.duration_of(action)).sum())
        .collect();
    let total_busy: f64 = busy.iter().sum();
    if total_busy <= 0.0 {
        return Err(ScheduleError::Costs(
            "every op of the plan takes 0; give at least one cost above 0".to_owned(),
        ));
    }
    if !(makespan * f64::from(plan.n_ranks())).is_finite() || !total_busy.is_finite() {
        return Err(ScheduleError::Costs(
            "the costs of the plan sum to more than a number holds; use smaller costs".to_owned(),
        ));
    }
    let idle: Vec<f64> = busy.iter().map(|busy| (makespan - busy).max(0.0)).collect();
    let span: Vec<f64> = spans(plan, costs, &starts).collect();
    let total_idle: f64 = idle.iter().sum();
    let n_ranks = f64::from(plan.n_ranks());
    let longest_span = span.iter().copied().fold(0.0, f64::max);
    let peak_memory = peak_memory(plan, costs, &starts, &arrivals);
    let fits_memory = costs.memory_limit.as_ref().map(|limits| fits(&peak_memory, limits));
    let limits = costs.memory_limit.as_deref().filter(|_| fits_memory == Some(true));
    let (bound, lower_bound_reason) = lower_bound(plan, costs, &busy, limits);
    debug_assert!(
        bound <= makespan * (1.0 + 1e-9),
        "the bound {bound} ({lower_bound_reason}) is above the makespan {makespan} of {}",
        plan.name()
    );
    Ok(Simulation {
        makespan,
        bubble_ratio: total_idle / (n_ranks * makespan),
        bubble_overhead: total_idle / total_busy,
        span_bubble: (longest_span - total_busy / n_ranks) / longest_span,
        peak_activations: plan.peak_activations(),
        peak_memory,
        memory_limit: costs.memory_limit.clone(),
        fits_memory,
        // The two are sums of the same numbers in another order: only rounding can put the bound
        // above.
        lower_bound: bound.min(makespan),
        lower_bound_reason,
        starts,
        busy,
        idle,
        span,
    })
}

/// Whether no peak is above its limit, beyond rounding.
pub(crate) fn fits(peaks: &[f64], limits: &[f64]) -> bool {
    peaks.iter().zip(limits).all(|(peak, limit)| *peak <= limit * (1.0 + 1e-9))
}

/// How long a valid plan takes, without all the rest.
pub(crate) fn length(plan: &ValidPlan, costs: &Costs) -> Length {
    length_of(plan, costs, &play(plan, costs).starts)
}

/// How long a valid plan takes, and the peak of each rank, without the bound.
pub(crate) fn length_and_memory(plan: &ValidPlan, costs: &Costs) -> (Length, Vec<f64>) {
    let Played { starts, arrivals } = play(plan, costs);
    (length_of(plan, costs, &starts), peak_memory(plan, costs, &starts, &arrivals))
}

fn length_of(plan: &ValidPlan, costs: &Costs, starts: &[Vec<f64>]) -> Length {
    let ends = plan
        .rows()
        .iter()
        .zip(starts)
        .filter_map(|(row, starts)| Some(starts.last()? + costs.duration_of(*row.last()?)));
    Length {
        makespan: ends.fold(0.0, f64::max),
        longest_span: spans(plan, costs, starts).fold(0.0, f64::max),
    }
}

/// From each rank's first start to its last end.
fn spans(plan: &ValidPlan, costs: &Costs, starts: &[Vec<f64>]) -> impl Iterator<Item = f64> {
    plan.rows().iter().zip(starts).map(|(row, starts)| {
        match (row.last(), starts.first(), starts.last()) {
            (Some(&action), Some(first), Some(last)) => last + costs.duration_of(action) - first,
            _ => 0.0,
        }
    })
}

struct Played {
    starts: Vec<Vec<f64>>,
    /// For every rank the messages that it gets, where their memory counts.
    arrivals: Vec<Vec<Arrival>>,
}

fn play(plan: &ValidPlan, costs: &Costs) -> Played {
    let places = plan.places();
    let n_micro_batches = plan.n_micro_batches() as usize;
    let n_ranks = plan.n_ranks() as usize;
    let n_pairs = plan.n_stages() as usize * n_micro_batches;
    let counts_messages = costs.boundary.iter().any(|&size| size > 0.0);
    // When the input of a pair's F, and of its B or I, is there.
    let (mut forward_input, mut gradient) = (vec![0.0_f64; n_pairs], vec![0.0_f64; n_pairs]);
    let mut starts: Vec<Vec<f64>> =
        plan.rows().iter().map(|row| Vec::with_capacity(row.len())).collect();
    let mut arrivals = vec![Vec::new(); n_ranks];
    let mut free = vec![0.0_f64; n_ranks];
    // Where messages queue: when each edge has sent what it was given.
    let edges = costs.bandwidth.is_some().then(|| Edges::new(plan.topology()));
    let mut edge_free = vec![0.0_f64; edges.as_ref().map_or(0, Edges::len)];
    Walk::new(plan.rows(), plan.topology(), plan.n_micro_batches()).run(|rank, _, action| {
        let at = |stage: Stage, op: Op| stage.idx() * n_micro_batches + op.micro_batch.idx();
        let mut start = free[rank.idx()];
        for op in action.ops() {
            let input = match op.phase {
                Phase::Forward => forward_input[at(op.stage, op)],
                Phase::Backward | Phase::InputGrad => gradient[at(op.stage, op)],
                Phase::WeightGrad => continue,
            };
            start = start.max(input);
        }
        let end = start + costs.duration_of(action);
        let mut free_at = end;
        for op in action.ops() {
            let Some(next) = plan.topology().output_stage(op) else { continue };
            let inputs =
                if op.phase == Phase::Forward { &mut forward_input } else { &mut gradient };
            let to = places.rank_of(next, op.micro_batch);
            let mut arrival = end;
            if to != rank {
                if let Some(edges) = &edges {
                    let pipe = places.pipe_of(op.micro_batch);
                    let edge = &mut edge_free[edges.between(pipe, op.stage, next)];
                    *edge = edge.max(end) + costs.transfer((rank, op.stage), (to, next));
                    arrival = *edge;
                }
                arrival += costs.latency(rank, to);
                if !costs.overlapped_comm {
                    free_at = free_at.max(arrival);
                }
                if counts_messages {
                    arrivals[to.idx()].push(Arrival { op: op.on(next), at: arrival });
                }
            }
            inputs[at(next, op)] = arrival;
        }
        free[rank.idx()] = free_at;
        starts[rank.idx()].push(start);
    });
    Played { starts, arrivals }
}
