//! The search behind `zb-auto` and `auto`: every policy of list scheduling from a grid, beside every fixed schedule that fits.
//!
//! A plan from the grid costs one pass over its ops, so that hundreds of policies are tried for plans of some thousand ops. Larger
//! plans get a coarser grid, so that the search stays within a budget of ops.

use std::cmp::Ordering;

use crate::action::Action;
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::Rank;
use crate::list::{First, Length, Pick, Policy, Problem, Scheduled, schedule};
use crate::op::{Op, Phase};
use crate::plan::{Draft, ValidPlan};
use crate::schedule_name::{ScheduleName, Sizes};
use crate::simulate::{Simulation, length, simulate};
use crate::topology::Topology;

/// How many ops all tried policies may schedule together: two seconds or three.
const OPS_BUDGET: u64 = 40_000_000;

/// How many of the policies are played for real, and around how many of these the search goes on.
const N_PLAYED: usize = 32;
const N_REFINED: usize = 4;

/// How often a search begins anew with lower limits, where messages took the memory that its activations had left.
const ROUNDS: u32 = 8;

/// A plan with what it takes.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) plan: ValidPlan,
    pub(crate) simulation: Simulation,
}

impl Candidate {
    pub(crate) fn length(&self) -> Length {
        let Simulation { makespan, span, .. } = &self.simulation;
        Length { makespan: *makespan, longest_span: span.iter().copied().fold(0.0, f64::max) }
    }
}

/// The costs with a memory limit for every rank: the given ones, or [`Costs::default_memory_limit`].
///
/// # Errors
/// [`ScheduleError::MemoryLimit`] where a rank has no room for one micro-batch.
pub(crate) fn with_limits(
    schedule: ScheduleName,
    topology: &Topology,
    costs: Costs,
) -> Result<Costs, ScheduleError> {
    let needed = costs.memory_shares(topology);
    let limits = costs.memory_limit.clone().unwrap_or_else(|| costs.default_memory_limit(topology));
    for ((rank, &needed), &limit) in (0..).map(Rank).zip(&needed).zip(&limits) {
        if needed > limit * (1.0 + 1e-9) {
            let what = "one micro-batch on all its stages";
            return Err(ScheduleError::MemoryLimit { schedule, rank, limit, what, needed });
        }
    }
    Ok(Costs { memory_limit: Some(limits), ..costs })
}

/// The fixed schedules of these sizes on this topology that keep the limits, every B as I and W: the gradient leaves sooner, and nothing
/// gets slower.
///
/// # Errors
/// What [`simulate`] refuses.
pub(crate) fn fixed(
    schedules: &[ScheduleName],
    sizes: &Sizes,
    topology: &Topology,
    costs: &Costs,
) -> Result<Vec<Candidate>, ScheduleError> {
    let mut found = Vec::new();
    for &name in schedules {
        let fits = name.check(sizes).is_ok() && name.topology(sizes).as_ref() == Ok(topology);
        if !fits {
            continue;
        }
        let mut draft = name.generate(sizes)?.into_draft();
        for row in &mut draft.rows {
            *row = row.iter().flat_map(|&action| split(action)).flatten().collect();
        }
        let candidate = judge(draft.validate()?, costs)?;
        if candidate.simulation.fits_memory != Some(false) {
            found.push(candidate);
        }
    }
    Ok(found)
}

fn split(action: Action) -> [Option<Action>; 2] {
    match action {
        Action::One(op) if op.phase == Phase::Backward => {
            let half = |phase| Some(Action::from(Op { phase, ..op }));
            [half(Phase::InputGrad), half(Phase::WeightGrad)]
        }
        _ => [Some(action), None],
    }
}

fn judge(plan: ValidPlan, costs: &Costs) -> Result<Candidate, ScheduleError> {
    let simulation = simulate(&plan, costs)?;
    Ok(Candidate { plan, simulation })
}

/// Whether a search may end with the first plan that has the least makespan possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Makespan,
    Score,
}

/// What a plan is chosen by: the least, number by number.
pub(crate) type Score<'a> = dyn Fn(Length) -> [f64; 2] + 'a;

/// The best plan that list scheduling finds, by `score`.
///
/// # Errors
/// [`ScheduleError::MemoryLimit`] where activations fit, and no plan was found whose messages fit beside them.
pub(crate) fn listed(
    name: ScheduleName,
    topology: &Topology,
    n_micro_batches: u32,
    costs: &Costs,
    score: &Score<'_>,
    aim: Aim,
) -> Result<Candidate, ScheduleError> {
    let given = costs.memory_limit.as_deref().unwrap_or_default();
    let least = costs.memory_shares(topology);
    // List scheduling counts no messages: where they take memory, its own limits are lower than those that have to be kept.
    let mut inner = costs.clone();
    let mut over = None;
    for _ in 0..ROUNDS {
        let mut search =
            Search { name, topology, n_micro_batches, costs, inner: &inner, score, enough: None };
        if aim == Aim::Makespan {
            search.enough = Some(judge(search.plan(FIRST_POLICY)?, costs)?.simulation.lower_bound);
        }
        let candidate = judge(search.best()?, costs)?;
        let Simulation { fits_memory, peak_memory, .. } = &candidate.simulation;
        if *fits_memory != Some(false) {
            return Ok(candidate);
        }
        let by_rank = || (0..).map(Rank).zip(peak_memory.iter().zip(given));
        over = by_rank()
            .max_by(|a, b| (a.1.0 / a.1.1).total_cmp(&(b.1.0 / b.1.1)))
            .map(|(rank, (&peak, &limit))| (rank, peak, limit));
        let before = inner.memory_limit.clone();
        for ((limit, (_, (peak, given))), &least) in
            inner.memory_limit.iter_mut().flatten().zip(by_rank()).zip(&least)
        {
            *limit = (*limit - (peak - given).max(0.0)).max(least);
        }
        if inner.memory_limit == before {
            break;
        }
    }
    let (rank, needed, limit) = over.unwrap_or((Rank(0), f64::INFINITY, 0.0));
    let what = "the leanest plan that was found, with its messages,";
    Err(ScheduleError::MemoryLimit { schedule: name, rank, limit, what, needed })
}

/// The best by `score` of what list scheduling has found and the fixed schedules that fit; of equals what was found.
///
/// # Errors
/// What list scheduling was refused with, where no fixed schedule fits either.
pub(crate) fn best_of(
    listed: Result<Candidate, ScheduleError>,
    fixed: Vec<Candidate>,
    score: &Score<'_>,
) -> Result<Candidate, ScheduleError> {
    let first = match listed {
        Ok(found) => Some(found),
        Err(ScheduleError::MemoryLimit { .. }) if !fixed.is_empty() => None,
        Err(refused) => return Err(refused),
    };
    let is_better =
        |a: &Candidate, b: &Candidate| compare(score(a.length()), score(b.length())).is_lt();
    first
        .into_iter()
        .chain(fixed)
        .reduce(|best, other| if is_better(&other, &best) { other } else { best })
        .ok_or(ScheduleError::Zero { what: "plans" })
}

/// The same plan under another name.
pub(crate) fn renamed(plan: ValidPlan, name: ScheduleName) -> Result<ValidPlan, ScheduleError> {
    let mut draft = plan.into_draft();
    draft.name = name.to_string();
    draft.validate()
}

struct Search<'a> {
    name: ScheduleName,
    topology: &'a Topology,
    n_micro_batches: u32,
    costs: &'a Costs,
    /// With the limits that list scheduling keeps.
    inner: &'a Costs,
    score: &'a Score<'a>,
    /// No plan has a shorter makespan: one that has this is as good as any, where that is what counts.
    enough: Option<f64>,
}

/// A policy, and how well it does.
#[derive(Clone, Copy)]
struct Tried {
    score: [f64; 2],
    policy: Policy,
}

impl Search<'_> {
    /// The grid, then the best of it played for real, then the neighbourhood of the very best.
    fn best(&self) -> Result<ValidPlan, ScheduleError> {
        let n_ops = 3 * u64::from(self.topology.n_stages()) * u64::from(self.n_micro_batches);
        let n_affordable = (OPS_BUDGET / n_ops.max(1)).max(1) as usize;
        let mut tried = Vec::new();
        for policy in policies(self.topology.n_virtual_stages() > 1, n_affordable) {
            let length = self.schedule(policy).length;
            if self.enough.is_some_and(|bound| length.makespan <= bound * (1.0 + 1e-9)) {
                return self.plan(policy);
            }
            tried.push(Tried { score: (self.score)(length), policy });
        }
        let by_score = |a: &Tried, b: &Tried| compare(a.score, b.score);
        // Playing takes some twenty times as long as scheduling.
        tried.sort_by(by_score);
        tried.truncate((n_affordable / 80).clamp(1, N_PLAYED));
        for tried in &mut tried {
            tried.score = self.played(tried.policy)?;
        }
        tried.sort_by(by_score);
        tried.truncate((n_affordable / 500).clamp(1, N_REFINED));
        let mut best = tried[0];
        if n_affordable > 500 {
            for start in tried {
                let refined = self.refined(start)?;
                if compare(refined.score, best.score).is_lt() {
                    best = refined;
                }
            }
        }
        self.plan(best.policy)
    }

    /// Goes downhill in both delays, in ever smaller steps.
    fn refined(&self, start: Tried) -> Result<Tried, ScheduleError> {
        let mut best = start;
        for step in [0.05, 0.025, 0.0125] {
            let centre = best.policy;
            for (forward, weight_grad) in
                [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
            {
                let moved = |delay: f64, by: i32| (delay + f64::from(by) * step).clamp(0.0, 1.0);
                let policy = Policy {
                    forward_delay: moved(centre.forward_delay, forward),
                    weight_grad_delay: moved(centre.weight_grad_delay, weight_grad),
                    ..centre
                };
                let score = self.played(policy)?;
                if compare(score, best.score).is_lt() {
                    best = Tried { score, policy };
                }
            }
        }
        Ok(best)
    }

    fn schedule(&self, policy: Policy) -> Scheduled {
        let &Self { topology, n_micro_batches, inner, .. } = self;
        let n_in_flight = u32::MAX;
        let problem =
            Problem { topology, n_micro_batches, costs: inner, n_in_flight, splits: true };
        schedule(problem, policy)
    }

    fn plan(&self, policy: Policy) -> Result<ValidPlan, ScheduleError> {
        let draft = Draft {
            name: self.name.to_string(),
            topology: self.topology.clone(),
            n_micro_batches: self.n_micro_batches,
            rows: self.schedule(policy).rows,
        };
        draft.validate()
    }

    fn played(&self, policy: Policy) -> Result<[f64; 2], ScheduleError> {
        Ok((self.score)(length(&self.plan(policy)?, self.costs)))
    }
}

pub(crate) fn compare(a: [f64; 2], b: [f64; 2]) -> Ordering {
    a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1]))
}

/// What does well nearly everywhere.
const FIRST_POLICY: Policy = Policy {
    first: First::Back,
    forward: Pick::Highest,
    back: Pick::Lowest,
    flushes: true,
    forward_delay: 0.75,
    weight_grad_delay: 1.0,
};

/// At most `n` policies, in steps as fine as that allows. `has_choice`: ranks hold several stages.
fn policies(has_choice: bool, n: usize) -> Vec<Policy> {
    let picks: &[(Pick, Pick)] = if has_choice {
        &[
            (Pick::Highest, Pick::Lowest),
            (Pick::Highest, Pick::Highest),
            (Pick::Lowest, Pick::Lowest),
            (Pick::Lowest, Pick::Highest),
        ]
    } else {
        &[(Pick::Highest, Pick::Lowest)]
    };
    for n_steps in [10, 4, 2, 1] {
        let parts = || (0..=n_steps).map(move |i| f64::from(i) / f64::from(n_steps));
        let mut all = vec![FIRST_POLICY];
        for first in [First::InTurn, First::Back, First::Forward] {
            for &(forward, back) in picks {
                for flushes in [true, false] {
                    for weight_grad_delay in parts() {
                        all.extend(parts().map(|forward_delay| Policy {
                            first,
                            forward,
                            back,
                            flushes,
                            forward_delay,
                            weight_grad_delay,
                        }));
                    }
                }
            }
        }
        if all.len() <= n {
            return all;
        }
    }
    let mut few = vec![FIRST_POLICY];
    few.extend([First::InTurn, First::Forward].map(|first| Policy { first, ..FIRST_POLICY }));
    few.truncate(n);
    few
}
