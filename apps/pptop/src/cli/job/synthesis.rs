//! A plan that follows from what the job costs: `zb-auto` and `auto` in training.

use pp_models::Job;
use pp_partition::{Cut, LayerProfile, Partition, Profile};
use pp_schedule::{
    Costs, PerEdge, Pipe, RankShare, ScheduleError, ScheduleName, Simulation, Sizes, Stage,
    Topology, ValidPlan, simulate,
};

use super::super::CliError;
use super::session::refused_cut;
use super::spec::{ModelSpec, Spec};

/// A plan with its cut.
pub(crate) struct Made {
    pub(crate) plan: ValidPlan,
    /// Unless the layers of the model depend on the plan, and its cut with them.
    pub(crate) partition: Option<Partition>,
    pub(crate) promise: Promise,
}

/// What a plan has with the costs that it was made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// How long its step takes, in seconds.
    pub(crate) makespan: f64,
    /// The part of it that is bubble.
    pub(crate) bubble_ratio: f64,
    /// How much longer it is than the lower bound, as a part of that.
    pub(crate) gap: f64,
}

/// The numbers of stages a rank that are tried.
fn tried(spec: &Spec, name: ScheduleName, n_ranks: u32) -> Vec<u32> {
    let layers = spec.layers().unwrap_or(usize::MAX);
    let fits = |&v: &u32| n_ranks as usize * v as usize <= layers;
    match (spec.virtual_stages, &spec.cut) {
        (Some(v), _) => vec![v],
        (None, Cut::Explicit(sizes)) if name == ScheduleName::Auto => {
            vec![(sizes.len() as u32 / n_ranks).max(1)]
        }
        (None, _) if name == ScheduleName::Auto => [1, 2].into_iter().filter(fits).collect(),
        (None, _) => vec![1],
    }
}

/// What can be refused before anything is measured: sizes that the schedule does not take, and a
/// cut by hand that does not fit.
///
/// # Errors
/// [`CliError::Usage`] says which it is.
pub(crate) fn refuse_wrong_sizes(
    spec: &Spec,
    outline: &ValidPlan,
    job: &Job,
) -> Result<(), CliError> {
    let Some(name) = spec.synthesised() else { return Ok(()) };
    let (n_ranks, n_micro_batches) = (outline.n_ranks(), outline.n_micro_batches());
    let tried = tried(spec, name, n_ranks);
    for &n_virtual_stages in &tried {
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
        name.check(&sizes)?;
        let n_stages = (n_ranks * n_virtual_stages) as usize;
        if matches!(spec.cut, Cut::Explicit(_)) && !matches!(spec.model, ModelSpec::Sleep { .. }) {
            let refused = |e| refused_cut(&e, job, n_stages);
            spec.cut.solve(&job.stack, n_stages, None).map_err(refused)?;
        }
    }
    let most = tried.iter().max().map_or(1, |v| n_ranks * v);
    spec.refuse_absent_stages(most)
}

/// The plan for these costs: where the number of stages a rank is left open, the faster of one and two.
///
/// # Errors
/// [`CliError::Usage`] for a limit without room, or a cut that does not fit.
pub(crate) fn make(
    spec: &Spec,
    name: ScheduleName,
    outline: &ValidPlan,
    job: &Job,
    profile: Option<&Profile>,
) -> Result<Made, CliError> {
    let (n_ranks, n_micro_batches) = (outline.n_ranks(), outline.n_micro_batches());
    let layers = spec.layers().unwrap_or(usize::MAX);
    let mut best: Option<Made> = None;
    for n_virtual_stages in tried(spec, name, n_ranks) {
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
        name.check(&sizes)?;
        let n_stages = (n_ranks * n_virtual_stages) as usize;
        let (partition, plan, costs) = match (&spec.model, profile) {
            (ModelSpec::Sleep { .. }, _) | (_, None) => {
                let costs_of = |topology: &Topology| sleeping(spec, topology);
                let plan = name.generate_for(&sizes, &costs_of)?;
                let costs = costs_of(plan.topology())?;
                (None, plan, costs)
            }
            (_, Some(profile)) => {
                let partition = spec
                    .cut
                    .solve(&job.stack, n_stages, Some(&spec.profile_to_cut(profile)))
                    .map_err(|e| refused_cut(&e, job, n_stages))?;
                let costs_of = |topology: &Topology| measured(spec, topology, &partition, profile);
                let plan = name.generate_for(&sizes, &costs_of)?;
                let costs = costs_of(plan.topology())?;
                (Some(partition), plan, costs)
            }
        };
        let simulation = simulate(&plan, &costs)?;
        let Simulation { makespan, bubble_ratio, lower_bound, .. } = simulation;
        let promise = Promise { makespan, bubble_ratio, gap: makespan / lower_bound - 1.0 };
        if best.as_ref().is_none_or(|best| makespan < best.promise.makespan * (1.0 - 1e-9)) {
            best = Some(Made { plan, partition, promise });
        }
    }
    best.ok_or_else(|| {
        CliError::Usage(format!(
            "{n_ranks} ranks need {n_ranks} layers, the model {} has {layers}; use --pp {layers} or less",
            spec.name.as_str()
        ))
    })
}

/// What the layers of the sleep model were told to take.
fn sleeping(spec: &Spec, topology: &Topology) -> Result<Costs, ScheduleError> {
    let ModelSpec::Sleep { forward, input_grad, weight_grad, slow_rank, link } = spec.model else {
        return Err(ScheduleError::Costs("the model was not profiled; use one that is".into()));
    };
    let share = RankShare {
        forward: forward.as_secs_f64(),
        input_grad: input_grad.as_secs_f64(),
        weight_grad: weight_grad.as_secs_f64(),
        comm: link.as_secs_f64(),
        memory_limit: spec.memory_limit,
        ..RankShare::default()
    };
    let mut costs = Costs::per_rank_share(topology, &share);
    for stage in (0..topology.n_stages()).map(Stage).filter(|&stage| spec.recompute.is_for(stage)) {
        costs.recompute(stage, costs.activation[stage.idx()]);
    }
    for (stage, rank) in topology.ranks(Pipe(0)).iter().enumerate() {
        let Some((_, factor)) = slow_rank.filter(|&(slow, _)| slow == rank.0) else { continue };
        for list in [&mut costs.forward, &mut costs.input_grad, &mut costs.weight_grad] {
            list[stage] *= factor;
        }
    }
    Ok(costs)
}

/// What the profile says of each stage. Memory is in shares of what a rank holds itself of one micro-batch, as the limit is.
fn measured(
    spec: &Spec,
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
        if spec.recompute.is_for(Stage(stage as u32)) {
            // What the stage before hands over; the batch itself is the trainer's.
            let before = partition.layers(stage).start.checked_sub(1);
            let kept = before.map_or(0.0, |layer| profile.layers[layer].boundary_bytes as f64);
            let share = shares[rank.idx()];
            costs.recompute(Stage(stage as u32), if share > 0.0 { kept / share } else { kept });
        }
    }
    costs.memory_limit = spec.memory_limit.map(|limit| vec![limit; shares.len()]);
    costs.check(topology)?;
    Ok(costs)
}
