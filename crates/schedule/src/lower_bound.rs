//! A time that no order of a plan's ops can beat, on the same ranks with the same costs.
//!
//! Three things take time in turn on every rank: its first input has to come all the way from stage 0 (*fill*), it has to do its
//! work, and after its last gradient the stages before it still have theirs to do (*drain*). A single micro-batch has to go through
//! all stages and back besides. The bound is the largest of these sums.

use crate::costs::Costs;
use crate::ids::{Rank, Stage};
use crate::op::Phase;
use crate::plan::ValidPlan;

/// The bound, and which sum it is.
pub(crate) fn lower_bound(plan: &ValidPlan, costs: &Costs, busy: &[f64]) -> (f64, String) {
    let reach = Reach::new(plan, costs);
    let mut best = (reach.round_trip, "critical path of one micro-batch".to_owned());
    for (rank, &work) in (0..plan.n_ranks()).map(Rank).zip(busy) {
        let (fill, drain) = reach.around(rank);
        let weight_grad: f64 = plan
            .row(rank)
            .iter()
            .filter(|op| op.phase == Phase::WeightGrad)
            .map(|&op| costs.duration(op))
            .sum();
        // Nobody waits for W, so a rank that splits its backward may end on one, with nothing to drain after it.
        let sums = if weight_grad > 0.0 {
            [(work, 0.0), (work - weight_grad, drain)]
        } else {
            [(work, drain); 2]
        };
        for (work, drain) in sums {
            let sum = fill + work + drain;
            // A hair more is rounding, and the earlier reason is the simpler one.
            if sum > best.0 * (1.0 + 1e-12) {
                best = (sum, reason(rank, fill, work, drain));
            }
        }
    }
    best
}

fn reason(rank: Rank, fill: f64, work: f64, drain: f64) -> String {
    if fill == 0.0 && drain == 0.0 {
        return format!("rank {rank}: work {}", short(work));
    }
    format!("rank {rank}: fill {} + work {} + drain {}", short(fill), short(work), short(drain))
}

/// A number with four digits after the point at most.
fn short(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How long the ways through the stages are.
struct Reach {
    /// For every rank the way to its first input, and the way back from its last output.
    around: Vec<(f64, f64)>,
    round_trip: f64,
}

impl Reach {
    fn new(plan: &ValidPlan, costs: &Costs) -> Self {
        let topology = plan.topology();
        let mut splits = vec![false; plan.n_stages() as usize];
        for op in plan.rows().iter().flatten().filter(|op| op.phase == Phase::InputGrad) {
            splits[op.stage.idx()] = true;
        }
        // What the way back spends on a stage: where I and W are apart the gradient leaves after I. On stage 0 W belongs to the
        // way in any case, because it comes after I and ends the micro-batch.
        let back = |stage: Stage| {
            let weight_grad = if splits[stage.idx()] && stage.0 > 0 {
                0.0
            } else {
                costs.weight_grad[stage.idx()]
            };
            costs.input_grad[stage.idx()] + weight_grad
        };
        let n_stages = plan.n_stages() as usize;
        let (mut to, mut from) = (vec![0.0; n_stages], vec![0.0; n_stages]);
        for stage in topology.stages().skip(1) {
            let before = Stage(stage.0 - 1);
            to[stage.idx()] = to[before.idx()]
                + costs.forward[before.idx()]
                + costs.latency(topology, before, stage);
            from[stage.idx()] =
                from[before.idx()] + back(before) + costs.latency(topology, stage, before);
        }
        let last = Stage(plan.n_stages() - 1);
        let one_way = to[last.idx()] + costs.forward[last.idx()];
        let is_forward_only = plan.is_forward_only();
        let round_trip =
            if is_forward_only { one_way } else { one_way + back(last) + from[last.idx()] };
        let mut around = vec![(f64::INFINITY, f64::INFINITY); plan.n_ranks() as usize];
        for stage in topology.stages() {
            let (fill, drain) = &mut around[topology.rank_of(stage).idx()];
            let after = if is_forward_only {
                one_way - to[stage.idx()] - costs.forward[stage.idx()]
            } else {
                from[stage.idx()]
            };
            *fill = fill.min(to[stage.idx()]);
            *drain = drain.min(after.max(0.0));
        }
        Self { around, round_trip }
    }

    fn around(&self, rank: Rank) -> (f64, f64) {
        self.around[rank.idx()]
    }
}
