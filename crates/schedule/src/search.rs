//! The search behind `zb-auto` and `auto`: every policy of list scheduling from a grid, beside
//! every fixed schedule that fits.
//!
//! A plan from the grid costs one pass over its ops, so that hundreds of policies are tried for
//! plans of some thousand ops. Larger plans get a coarser grid, so that the search stays within a
//! budget of ops.

use std::cmp::Ordering;

use crate::action::Action;
use crate::costs::Costs;
use crate::draft::Draft;
use crate::error::ScheduleError;
use crate::facts::Facts;
use crate::ids::Rank;
use crate::list::{First, Length, Pick, Policy, Problem, Scheduled, schedule};
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;
use crate::simulate::{fits, length, length_and_memory, simulate};
use crate::sizes::Sizes;
use crate::topology::Topology;

/// How many ops all tried policies may schedule together: two seconds or three.
const OPS_BUDGET: u64 = 40_000_000;

/// How many of the policies are played for real, and around how many of these the search goes on.
const N_PLAYED: usize = 32;
const N_REFINED: usize = 4;

/// How often a search begins anew with lower limits, where messages took the memory that its
/// activations had left.
const ROUNDS: u32 = 8;

/// A plan with what it takes.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) plan: ValidPlan,
    pub(crate) length: Length,
    peak_memory: Vec<f64>,
}

impl Candidate {
    fn new(plan: ValidPlan, costs: &Costs) -> Self {
        let (length, peak_memory) = length_and_memory(&plan, costs);
        Self { plan, length, peak_memory }
    }

    fn fits(&self, costs: &Costs) -> bool {
        costs.memory_limit.as_ref().is_none_or(|limits| fits(&self.peak_memory, limits))
    }
}

/// The costs with a memory limit for every rank: the given ones, or
/// [`Costs::default_memory_limit`].
pub(crate) fn with_limits(topology: &Topology, costs: Costs) -> Costs {
    let limits = costs.memory_limit.clone().unwrap_or_else(|| costs.default_memory_limit(topology));
    Costs { memory_limit: Some(limits), ..costs }
}

/// The best by `score` of the fixed schedules of these sizes on this topology that keep the limits.
/// Every B is I and W, so that the gradient leaves sooner, unless the plan keeps the limits only as
/// it is.
///
/// # Errors
/// None but a schedule's that breaks its own rules.
pub(crate) fn fixed(
    schedules: &[&'static Facts],
    sizes: &Sizes,
    topology: &Topology,
    costs: &Costs,
    score: &Score<'_>,
) -> Result<Option<Candidate>, ScheduleError> {
    let mut best: Option<Candidate> = None;
    for facts in schedules {
        let fits = facts.check(sizes).is_ok() && facts.topology(sizes).as_ref() == Ok(topology);
        if !fits {
            continue;
        }
        let plan = facts.generate(sizes, &[])?;
        let mut draft = plan.clone().into_draft();
        for row in &mut draft.rows {
            *row = row.iter().flat_map(|&action| split(action)).flatten().collect();
        }
        let found = [draft.validate()?, plan]
            .into_iter()
            .map(|plan| Candidate::new(plan, costs))
            .find(|candidate| candidate.fits(costs));
        best = better(best, found, score);
    }
    Ok(best)
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

/// Whether a search may end with the first plan that has the least makespan possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Makespan,
    Score,
}

/// What a plan is chosen by: the least, number by number.
pub(crate) type Score<'a> = dyn Fn(Length) -> [f64; 2] + 'a;

/// The best plan that list scheduling finds, by `score`. The costs have memory limits.
///
/// # Errors
/// [`ScheduleError::MemoryLimit`] where no plan was found that keeps them.
pub(crate) fn listed(
    name: &'static str,
    topology: &Topology,
    n_micro_batches: u32,
    costs: &Costs,
    score: &Score<'_>,
    aim: Aim,
) -> Result<Candidate, ScheduleError> {
    let given = costs.memory_limit.as_deref().unwrap_or_default();
    let least = costs.memory_shares(topology);
    let by_rank = || (0..).map(Rank).zip(given.iter().copied());
    let no_room = |rank, limit, what, needed| {
        Err(ScheduleError::MemoryLimit { schedule: name, rank, limit, what, needed })
    };
    for ((rank, limit), &least) in by_rank().zip(&least) {
        if least > limit * (1.0 + 1e-9) {
            return no_room(rank, limit, "one micro-batch on all its stages", least);
        }
    }
    // List scheduling counts no messages: where they take memory, its own limits are lower than
    // those that have to be kept.
    let mut inner = costs.clone();
    let mut over = (Rank(0), 0.0, f64::INFINITY);
    for _ in 0..ROUNDS {
        let mut search =
            Search { name, topology, n_micro_batches, costs, inner: &inner, score, enough: None };
        if aim == Aim::Makespan {
            search.enough = Some(simulate(&search.plan(FIRST_POLICY)?, costs)?.lower_bound);
        }
        let candidate = Candidate::new(search.best()?, costs);
        if candidate.fits(costs) {
            return Ok(candidate);
        }
        let part = |((_, limit), peak): ((Rank, f64), f64)| peak / limit;
        let peaks = || by_rank().zip(candidate.peak_memory.iter().copied());
        if let Some(most) = peaks().max_by(|a, b| part(*a).total_cmp(&part(*b))) {
            over = (most.0.0, most.0.1, most.1);
        }
        let before = inner.memory_limit.clone();
        for ((limit, ((_, given), peak)), &least) in
            inner.memory_limit.iter_mut().flatten().zip(peaks()).zip(&least)
        {
            *limit = (*limit - (peak - given).max(0.0)).max(least);
        }
        if inner.memory_limit == before {
            break;
        }
    }
    no_room(over.0, over.1, "the leanest plan that was found, with its messages,", over.2)
}

/// The better by `score` of what list scheduling has found and a fixed schedule; of equals the
/// first.
///
/// # Errors
/// What list scheduling was refused with, where there is no other.
pub(crate) fn best_of(
    listed: Result<Candidate, ScheduleError>,
    fixed: Option<Candidate>,
    score: &Score<'_>,
) -> Result<Candidate, ScheduleError> {
    match (listed, fixed) {
        (Ok(found), Some(other)) if is_better(&other, &found, score) => Ok(other),
        (Err(ScheduleError::MemoryLimit { .. }), Some(other)) => Ok(other),
        (listed, _) => listed,
    }
}

/// The better of two; of equals the first.
pub(crate) fn better(
    first: Option<Candidate>,
    second: Option<Candidate>,
    score: &Score<'_>,
) -> Option<Candidate> {
    match (first, second) {
        (Some(first), Some(second)) if is_better(&second, &first, score) => Some(second),
        (None, second) => second,
        (first, _) => first,
    }
}

fn is_better(a: &Candidate, b: &Candidate, score: &Score<'_>) -> bool {
    compare(score(a.length), score(b.length)).is_lt()
}

/// The same plan under another name.
pub(crate) fn renamed(plan: ValidPlan, name: &str) -> Result<ValidPlan, ScheduleError> {
    let mut draft = plan.into_draft();
    name.clone_into(&mut draft.name);
    draft.validate()
}

struct Search<'a> {
    name: &'static str,
    topology: &'a Topology,
    n_micro_batches: u32,
    costs: &'a Costs,
    /// With the limits that list scheduling keeps.
    inner: &'a Costs,
    score: &'a Score<'a>,
    /// No plan has a shorter makespan: one that has this is as good as any, where that is what
    /// counts.
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
            name: self.name.to_owned(),
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

fn compare(a: [f64; 2], b: [f64; 2]) -> Ordering {
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
