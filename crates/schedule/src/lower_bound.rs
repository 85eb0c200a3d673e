//! A time that no order of a plan's ops can beat, on the same ranks with the same costs.
//!
//! Each op has a *head*, the earliest time at which it can start, and a *tail*, the least time from
//! its end to the end of the step. Both are longest paths through the stages, as if every stage had
//! a machine of its own: the k-th forward of a stage waits for the k-th forward of the stage
//! before, the k-th backward for the k-th one of the stage after, and, where a rank may hold K
//! activations, forward k for backward k−K. What a rank then takes with its own ops alone, one at a
//! time, each between its head and its tail, is found exactly for ops that may be interrupted
//! (Jackson's preemptive schedule; Carlier 1982, "The one-machine sequencing problem"), and is a
//! bound for ops that may not. The largest of these over all ranks is the bound: *fill* until a
//! critical set of ops can start, their *work*, and the *drain* behind them.
//!
//! Very large plans get a coarser bound from the heads and tails of the first micro-batch alone.

use crate::action::Action;
use crate::costs::Costs;
use crate::ids::{Pipe, Rank, Stage};
use crate::number::short_number;
use crate::one_machine::{Critical, Job, one_machine, sums};
use crate::op::Phase;
use crate::plan::ValidPlan;
use crate::work;

/// Plans with more ops get the coarser bound: the exact one keeps some numbers for each op and
/// sorts them.
const OPS_EXACT: usize = 1 << 20;

/// The bound, and which sum it is. `busy`: what the cells of each rank take. `limits`: what the
/// ranks may hold, where the plan keeps to it.
pub(crate) fn lower_bound(
    plan: &ValidPlan,
    costs: &Costs,
    busy: &[f64],
    limits: Option<&[f64]>,
) -> (f64, String) {
    let n_cells: usize = plan.rows().iter().map(Vec::len).sum();
    let is_exact = n_cells <= OPS_EXACT;
    let n_indices = if is_exact { plan.places().n_per_pipe() as usize } else { 1 };
    let times = Times::new(plan, costs);
    let pipes: Vec<Paths> = plan
        .topology()
        .pipes()
        .map(|pipe| Paths::new(plan, costs, &times, pipe, n_indices, limits.filter(|_| is_exact)))
        .collect();
    let mut best = Longest::default();
    // Where pairs overlap, the ops of a rank may take less than its cells.
    for (rank, &work) in (0..).map(Rank).zip(busy) {
        if work > best.critical.work {
            let critical = Critical { fill: 0.0, work, drain: 0.0, n_pieces: usize::MAX };
            best = Longest { rank, critical };
        }
    }
    let mut jobs = Vec::new();
    for rank in (0..plan.n_ranks()).map(Rank) {
        jobs.clear();
        for &(pipe, stage) in plan.topology().stages_of(rank) {
            pipes[pipe.idx()].jobs(stage, &times, &mut jobs);
        }
        let critical = if is_exact {
            one_machine(&mut jobs)
        } else {
            sums(&mut jobs, f64::from(plan.places().n_per_pipe()))
        };
        // A hair more is rounding. Of equal sums the one with the most work says the most.
        let (sum, most) = (critical.sum(), best.critical.sum());
        let margin = most * 1e-12;
        let is_equal = (sum - most).abs() <= margin;
        if sum > most + margin || (is_equal && critical.work > best.critical.work) {
            best = Longest { rank, critical };
        }
    }
    (best.critical.sum(), best.reason())
}

/// The critical set of the rank that takes longest.
#[derive(Default)]
struct Longest {
    rank: Rank,
    critical: Critical,
}

impl Longest {
    fn reason(&self) -> String {
        let Critical { fill, work, drain, n_pieces } = self.critical;
        let rank = self.rank;
        if n_pieces == 1 {
            return "critical path of one micro-batch".to_owned();
        }
        if fill == 0.0 && drain == 0.0 {
            return format!("rank {rank}: work {}", short_number(work));
        }
        let [fill, work, drain] = [fill, work, drain].map(short_number);
        format!("rank {rank}: fill {fill} + work {work} + drain {drain}")
    }
}

/// How long the ops of each stage take at least.
struct Times {
    forward: Vec<f64>,
    /// What the way back spends on a stage: I where the plan splits the backward there, else B.
    back: Vec<f64>,
    /// W where it stands by itself.
    weight_grad: Vec<f64>,
    is_forward_only: bool,
}

impl Times {
    fn new(plan: &ValidPlan, costs: &Costs) -> Self {
        let n_stages = plan.n_stages() as usize;
        let (mut splits, mut has_pair) = (vec![false; n_stages], false);
        for action in plan.rows().iter().flatten() {
            match action {
                Action::One(op) if op.phase == Phase::InputGrad => splits[op.stage.idx()] = true,
                Action::Overlapped(_) => has_pair = true,
                Action::One(_) => {}
            }
        }
        // Any op may be the one that an overlap makes shorter.
        let factor = if has_pair { costs.overlap.min(1.0) } else { 1.0 };
        let scaled = |list: &[f64]| list.iter().map(|time| time * factor).collect::<Vec<_>>();
        let (mut back, mut weight_grad) = (scaled(&costs.input_grad), scaled(&costs.weight_grad));
        for (stage, splits) in splits.into_iter().enumerate() {
            if !splits {
                back[stage] += weight_grad[stage];
                weight_grad[stage] = 0.0;
            }
        }
        Self {
            forward: scaled(&costs.forward),
            back,
            weight_grad,
            is_forward_only: plan.is_forward_only(),
        }
    }
}

/// Heads and tails in one copy of the model, by stage and index. The index of a head counts the ops
/// of a stage from the first to start, that of a tail from the last to end.
struct Paths {
    n_indices: usize,
    heads: Ends,
    tails: Ends,
}

/// Where the ops of every stage end: from the start of the step, or, backwards in time, from its
/// end.
struct Ends {
    forward: Vec<f64>,
    back: Vec<f64>,
    weight_grad: Vec<f64>,
}

impl Ends {
    fn new(n: usize) -> Self {
        Self { forward: vec![0.0; n], back: vec![0.0; n], weight_grad: vec![0.0; n] }
    }
}

impl Paths {
    fn new(
        plan: &ValidPlan,
        costs: &Costs,
        times: &Times,
        pipe: Pipe,
        n_indices: usize,
        limits: Option<&[f64]>,
    ) -> Self {
        let n_stages = plan.n_stages() as usize;
        let rooms = match limits {
            Some(limits) => rooms(plan, costs, pipe, limits),
            None => vec![Room::default(); n_stages],
        };
        let topology = plan.topology();
        let way = |from: usize, to: usize| {
            let [from, to] = [from, to]
                .map(|stage| (topology.rank_of(pipe, Stage(stage as u32)), Stage(stage as u32)));
            costs.latency(from.0, to.0) + costs.transfer(from, to)
        };
        let onward: Vec<f64> = (1..n_stages).map(|stage| way(stage - 1, stage)).collect();
        let backward: Vec<f64> = (1..n_stages).map(|stage| way(stage, stage - 1)).collect();
        let at = |stage: usize, index: usize| stage * n_indices + index;
        let n = n_stages * n_indices;
        let (mut heads, mut tails) = (Ends::new(n), Ends::new(n));
        let before = |ends: &[f64], stage: usize, index: usize| {
            if index > 0 { ends[at(stage, index - 1)] } else { 0.0 }
        };
        for k in 0..n_indices {
            for s in 0..n_stages {
                let mut start = before(&heads.forward, s, k);
                if s > 0 {
                    start = start.max(heads.forward[at(s - 1, k)] + onward[s - 1]);
                }
                let done = |list: &[f64], count: usize| {
                    if count > 0 { list[at(s, count - 1)] } else { 0.0 }
                };
                start = start.max(rooms[s].free_at(
                    k,
                    |count| done(&heads.back, count),
                    |count| done(&heads.weight_grad, count),
                ));
                heads.forward[at(s, k)] = start + times.forward[s];
            }
            if times.is_forward_only {
                continue;
            }
            for s in (0..n_stages).rev() {
                let mut start = heads.forward[at(s, k)].max(before(&heads.back, s, k));
                if s + 1 < n_stages {
                    start = start.max(heads.back[at(s + 1, k)] + backward[s]);
                }
                heads.back[at(s, k)] = start + times.back[s];
                heads.weight_grad[at(s, k)] =
                    heads.back[at(s, k)].max(before(&heads.weight_grad, s, k))
                        + times.weight_grad[s];
            }
        }
        for i in 0..n_indices {
            for s in 0..n_stages {
                if times.is_forward_only {
                    break;
                }
                tails.weight_grad[at(s, i)] =
                    before(&tails.weight_grad, s, i) + times.weight_grad[s];
                let mut after = before(&tails.back, s, i).max(tails.weight_grad[at(s, i)]);
                if s > 0 {
                    after = after.max(tails.back[at(s - 1, i)] + backward[s - 1]);
                }
                if let Some(later) = rooms[s].n_held.and_then(|n_held| i.checked_sub(n_held)) {
                    after = after.max(tails.forward[at(s, later)]);
                }
                tails.back[at(s, i)] = after + times.back[s];
            }
            for s in (0..n_stages).rev() {
                let mut after = before(&tails.forward, s, i).max(tails.back[at(s, i)]);
                if s + 1 < n_stages {
                    after = after.max(tails.forward[at(s + 1, i)] + onward[s]);
                }
                tails.forward[at(s, i)] = after + times.forward[s];
            }
        }
        Self { n_indices, heads, tails }
    }

    /// The ops of one stage. What starts as the k-th ends, in the best case, as the k-th too.
    fn jobs(&self, stage: Stage, times: &Times, jobs: &mut Vec<Job>) {
        let mut add = |heads: &[f64], tails: &[f64], time: f64| {
            let row = stage.idx() * self.n_indices;
            let heads = &heads[row..row + self.n_indices];
            let tails = tails[row..row + self.n_indices].iter().rev();
            jobs.extend(heads.iter().zip(tails).map(|(head, tail)| Job {
                head: head - time,
                time,
                tail: tail - time,
            }));
        };
        add(&self.heads.forward, &self.tails.forward, times.forward[stage.idx()]);
        if !times.is_forward_only {
            add(&self.heads.back, &self.tails.back, times.back[stage.idx()]);
            if times.weight_grad[stage.idx()] > 0.0 {
                let time = times.weight_grad[stage.idx()];
                add(&self.heads.weight_grad, &self.tails.weight_grad, time);
            }
        }
    }
}

/// What a memory limit says about one stage.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// So many activations of this stage fit at once.
    n_held: Option<usize>,
    /// Where the rank holds this stage alone: its limit, activation and residue.
    alone: Option<(f64, f64, f64)>,
}

impl Room {
    /// The earliest time at which forward k can start: those before it have made room. `back(c)` is
    /// when c backwards are done at the earliest, `weight_grad(c)` when c of the sums are.
    fn free_at(
        &self,
        k: usize,
        back: impl Fn(usize) -> f64,
        weight_grad: impl Fn(usize) -> f64,
    ) -> f64 {
        let Some(n_held) = self.n_held else { return 0.0 };
        let Some(n_back) = (k + 1).checked_sub(n_held).filter(|&n| n > 0) else { return 0.0 };
        let Some((limit, activation, residue)) = self.alone else { return back(n_back) };
        // c backwards leave room if w sums are done: (k+1−c)·activation + (c−w)·residue ≤ limit.
        // More backwards may do instead: c backwards are done the later, and the sums beside them
        // the sooner, the more they are, so that the best is where the two meet.
        let done = |c: usize| {
            let slack = limit * (1.0 + 1e-9) - (k + 1 - c) as f64 * activation;
            let w = (c as f64 - slack / residue).ceil().max(0.0) as usize;
            (back(c), weight_grad(w.min(c)))
        };
        let (mut low, mut high) = (n_back, k);
        while low < high {
            let middle = usize::midpoint(low, high);
            let (back, sums) = done(middle);
            if back < sums {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let at = |c: usize| {
            let (back, sums) = done(c);
            back.max(sums)
        };
        at(low).min(at(low.saturating_sub(1).max(n_back)))
    }
}

/// A micro-batch that has passed a stage and not yet come back holds the activations of all stages
/// of that rank up to this one.
fn rooms(plan: &ValidPlan, costs: &Costs, pipe: Pipe, limits: &[f64]) -> Vec<Room> {
    let topology = plan.topology();
    let mut held = vec![0.0_f64; plan.n_ranks() as usize];
    let is_alone = |rank: Rank| topology.n_pipes() == 1 && topology.stages_of(rank).len() == 1;
    // Of each rank once: it may hold many stages, and each asks.
    let splits: Vec<bool> = (0..plan.n_ranks())
        .map(|rank| {
            let mut ops = plan.ops(Rank(rank)).inspect(|_| work::done(1));
            ops.any(|op| op.phase == Phase::InputGrad)
        })
        .collect();
    let room = |stage: Stage| {
        let rank = topology.rank_of(pipe, stage);
        let (activation, residue) = (costs.activation[stage.idx()], costs.residue[stage.idx()]);
        held[rank.idx()] += activation;
        if plan.is_forward_only() || held[rank.idx()] <= 0.0 {
            return Room::default();
        }
        let limit = limits[rank.idx()];
        let n_held = (limit * (1.0 + 1e-9) / held[rank.idx()]).floor() as usize;
        let alone =
            (splits[rank.idx()] && residue > 0.0 && residue <= activation && is_alone(rank))
                .then_some((limit, activation, residue));
        Room { n_held: Some(n_held.max(1)), alone }
    };
    topology.stages().map(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of backwards in turn.
    fn earliest(room: Room, k: usize, back: &[f64], sums: &[f64]) -> f64 {
        let (limit, activation, residue) = room.alone.unwrap();
        let n_back = (k + 1).saturating_sub(room.n_held.unwrap());
        if n_back == 0 {
            return 0.0;
        }
        let at = |c: usize| {
            let slack = limit * (1.0 + 1e-9) - (k + 1 - c) as f64 * activation;
            let w = (c as f64 - slack / residue).ceil().max(0.0) as usize;
            back[c].max(sums[w.min(c)])
        };
        (n_back..=k).map(at).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn room_is_made_by_the_best_number_of_backwards() {
        let mut random = 5_u64;
        let mut part = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as f64 / f64::from(1_u32 << 31)
        };
        for _ in 0..2000 {
            let activation = 0.5 + part();
            let residue = activation * (0.05 + 0.95 * part());
            let limit = activation * (1.0 + 6.0 * part());
            let n_held = (limit / activation).floor() as usize;
            let room = Room { n_held: Some(n_held), alone: Some((limit, activation, residue)) };
            let mut rising = |first: f64| {
                let mut times = vec![first];
                for k in 0..20 {
                    times.push(times[k] + part() * if part() < 0.2 { 0.0 } else { 1.0 });
                }
                times
            };
            let (back, sums) = (rising(0.0), rising(0.3));
            for k in 0..20 {
                let found = room.free_at(k, |count| back[count], |count| sums[count]);
                let want = earliest(room, k, &back, &sums);
                assert!((found - want).abs() < 1e-12, "{found} is not {want}: {room:?}, k={k}");
            }
        }
    }
}
