//! Plans that follow from the costs of a job: `zb-auto` and `auto` in training.

use std::cell::Cell;

use pp_partition::{Cut, LayerProfile, Partition, Profile};
use pp_schedule::{
    Costs, PerEdge, Pipe, RankShare, ScheduleError, ScheduleName, Simulation, Sizes, Stage,
    Topology, ValidPlan, simulate,
};

use crate::config::Config;
use crate::cutting::{ranks_of, solve};
use crate::error::TrainError;
use crate::job::Job;
use crate::workload::KnownCosts;

/// A plan with its cut.
pub(crate) struct Made {
    pub(crate) plan: ValidPlan,
    /// `None` if the layers of the model, and so its cut, depend on the plan.
    pub(crate) partition: Option<Partition>,
    pub(crate) promise: Promise,
}

/// The prediction of a plan, with the costs that it was made for.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// The time of a step, in seconds.
    pub makespan: f64,
    /// The part of it that is bubble.
    pub bubble_ratio: f64,
    /// The excess over the lower bound, as a part of the bound.
    pub gap: f64,
}

/// The numbers of stages on a rank that are tried.
fn tried(config: &Config, name: ScheduleName, n_ranks: u32) -> Vec<u32> {
    let layers = config.workload.layers().unwrap_or(usize::MAX);
    let fits = |&v: &u32| n_ranks as usize * v as usize <= layers;
    match (config.virtual_stages, &config.cut) {
        (Some(v), _) => vec![v],
        (None, Cut::Explicit(sizes)) if name == ScheduleName::Auto => {
            vec![(sizes.len() as u32 / n_ranks).max(1)]
        }
        (None, _) if name == ScheduleName::Auto => [1, 2].into_iter().filter(fits).collect(),
        (None, _) => vec![1],
    }
}

/// Refuses, before anything is measured, sizes that the schedule does not take and a cut by hand
/// that does not fit.
///
/// # Errors
/// The first refusal.
pub(crate) fn refuse_wrong_sizes(
    config: &Config,
    outline: &ValidPlan,
    job: Option<&Job>,
) -> Result<(), TrainError> {
    let Some(name) = config.synthesised() else { return Ok(()) };
    let (n_ranks, n_micro_batches) = (outline.n_ranks(), outline.n_micro_batches());
    let tried = tried(config, name, n_ranks);
    for &n_virtual_stages in &tried {
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
        name.check(&sizes)?;
        let n_stages = (n_ranks * n_virtual_stages) as usize;
        if let (Cut::Explicit(_), Some(job)) = (&config.cut, job) {
            solve(&config.cut, &job.stack, n_stages, None)?;
        }
    }
    let most = tried.iter().max().map_or(1, |v| n_ranks * v);
    config.refuse_absent_stages(most)
}

/// Makes the plan for the costs. If the number of stages on a rank is open, it is the faster of one
/// and two.
///
/// # Errors
/// The memory limit leaves no room, or the cut does not fit.
pub(crate) fn make(
    config: &Config,
    name: ScheduleName,
    outline: &ValidPlan,
    job: Option<&Job>,
    profile: Option<&Profile>,
) -> Result<Made, TrainError> {
    let (n_ranks, n_micro_batches) = (outline.n_ranks(), outline.n_micro_batches());
    let known = config.workload.known_costs();
    let mut best: Option<Made> = None;
    for n_virtual_stages in tried(config, name, n_ranks) {
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
        name.check(&sizes)?;
        let (partition, plan, costs) = if let (Some(job), Some(profile)) = (job, profile) {
            let to_cut = config.profile_to_cut(profile);
            // Each placement has the cut that suits it.
            let cut = |topology: &Topology| {
                let ranks = ranks_of(topology, n_micro_batches);
                solve(&config.cut, &job.stack, ranks, Some(&to_cut))
            };
            let refused = Cell::new(None);
            let costs_of = |topology: &Topology| match cut(topology) {
                Ok(partition) => measured(config, topology, &partition, profile),
                Err(refusal) => {
                    refused.set(Some(refusal));
                    Err(ScheduleError::Zero { what: "cuts" })
                }
            };
            let plan = name.generate_for(&sizes, &costs_of);
            // Of both errors, this is the cause.
            if let Some(refusal) = refused.take() {
                return Err(refusal);
            }
            let plan = plan?;
            let costs = costs_of(plan.topology())?;
            (Some(cut(plan.topology())?), plan, costs)
        } else {
            let known = known.ok_or_else(|| config.unknown_costs(name))?;
            let costs_of = |topology: &Topology| waiting(config, known, topology);
            let plan = name.generate_for(&sizes, &|topology| Ok(costs_of(topology)))?;
            let costs = costs_of(plan.topology());
            (None, plan, costs)
        };
        let simulation = simulate(&plan, &costs)?;
        let Simulation { makespan, bubble_ratio, lower_bound, .. } = simulation;
        let promise = Promise { makespan, bubble_ratio, gap: makespan / lower_bound - 1.0 };
        if best.as_ref().is_none_or(|best| makespan < best.promise.makespan * (1.0 - 1e-9)) {
            best = Some(Made { plan, partition, promise });
        }
    }
    best.ok_or_else(|| TrainError::TooManyRanks {
        ranks: n_ranks,
        layers: config.workload.layers().unwrap_or(usize::MAX),
        model: config.workload.name().to_owned(),
    })
}

/// The costs of layers that wait.
fn waiting(config: &Config, known: KnownCosts, topology: &Topology) -> Costs {
    let KnownCosts { forward, input_grad, weight_grad, slow_rank, link } = known;
    let share = RankShare {
        forward: forward.as_secs_f64(),
        input_grad: input_grad.as_secs_f64(),
        weight_grad: weight_grad.as_secs_f64(),
        comm: link.as_secs_f64(),
        memory_limit: config.memory_limit,
        ..RankShare::default()
    };
    let mut costs = Costs::per_rank_share(topology, &share);
    for stage in (0..topology.n_stages()).map(Stage).filter(|&stage| config.recompute.is_for(stage))
    {
        costs.recompute(stage, costs.activation[stage.idx()]);
    }
    for (stage, rank) in topology.ranks(Pipe(0)).iter().enumerate() {
        let Some((_, factor)) = slow_rank.filter(|&(slow, _)| slow == rank.0) else { continue };
        for list in [&mut costs.forward, &mut costs.input_grad, &mut costs.weight_grad] {
            list[stage] *= factor;
        }
    }
    costs
}

/// The costs of each stage, from the profile. Memory is in the unit of the limit: the activations
/// of one micro-batch on all stages of the rank.
fn measured(
    config: &Config,
    topology: &Topology,
    partition: &Partition,
    profile: &Profile,
) -> Result<Costs, ScheduleError> {
    let sum = |of: &dyn Fn(&LayerProfile) -> f64| -> Vec<f64> {
        let stage = |stage| profile.layers[partition.layers(stage)].iter().map(of).sum();
        (0..partition.n_stages()).map(stage).collect()
    };
    let mut costs = Costs {
        forward: sum(&|layer| layer.forward_seconds),
        input_grad: sum(&|layer| layer.input_grad_seconds),
        weight_grad: sum(&|layer| layer.weight_grad_seconds),
        activation: sum(&|layer| layer.activation_bytes as f64),
        residue: sum(&|layer| layer.residue_bytes as f64),
        comm: PerEdge::Same(0.0),
        ..Costs::uniform(topology.n_stages(), 0.0, 0.0, 0.0, 0.0)
    };
    let shares = costs.memory_shares(topology);
    for (stage, rank) in topology.ranks(Pipe(0)).iter().enumerate() {
        let share = shares[rank.idx()];
        if share > 0.0 {
            costs.activation[stage] /= share;
            costs.residue[stage] /= share;
        }
    }
    for (stage, rank) in topology.ranks(Pipe(0)).iter().enumerate() {
        if config.recompute.is_for(Stage(stage as u32)) {
            // A stage keeps what the stage before hands over. The trainer holds the batch itself.
            let before = partition.layers(stage).start.checked_sub(1);
            let kept = before.map_or(0.0, |layer| profile.layers[layer].boundary_bytes as f64);
            let share = shares[rank.idx()];
            costs.recompute(Stage(stage as u32), if share > 0.0 { kept / share } else { kept });
        }
    }
    costs.memory_limit = config.memory_limit.map(|limit| vec![limit; shares.len()]);
    costs.check(topology)?;
    Ok(costs)
}
