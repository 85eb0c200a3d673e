//! The stages of one rank.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use pp_nn::{Optimizer, OptimizerKind, ParameterStore, Piece, memory, shares};
use pp_partition::Stage as BuiltStage;
use pp_schedule::{Pipe, Rank, Replica, Stage};

use crate::config::RankConfig;
use crate::error::RankError;
use crate::exchange::{Bucket, CopySums, StageSums, Sums};
use crate::lane::Lane;
use crate::report::{StageParameters, What};
use crate::stage_run::StageRun;
use crate::state::{Named, OptimizerState, Snapshot, StageState};

type Result<T> = std::result::Result<T, RankError>;

/// The stages that a rank holds, of every copy of the model.
pub(crate) struct Stages(BTreeMap<(Pipe, Stage), StageRun>);

impl Stages {
    /// Builds them on the rank's own device.
    pub(crate) fn build(
        config: &RankConfig,
        (replica, rank): (Replica, Rank),
        device: &Device,
    ) -> Result<Self> {
        let mut stages = BTreeMap::new();
        let n_per_pipe = config.plan.n_micro_batches() / config.plan.n_pipes();
        for &(pipe, stage) in config.plan.topology().stages_of(rank) {
            let store = match &config.initial {
                Some(values) => ParameterStore::given(Arc::clone(values)),
                None => ParameterStore::seeded(config.seed),
            };
            let layers = config.partition.layers(stage.idx());
            let built = BuiltStage::build(&config.stack, layers, &store, DType::F32, device)?;
            let micro_batches = pipe.0 * n_per_pipe..(pipe.0 + 1) * n_per_pipe;
            let recompute = config.recompute.is_for(stage);
            let copy = replica.idx() * config.plan.n_pipes() as usize + pipe.idx();
            let share = shares_of(config, &built).map(|mut shares| shares.swap_remove(copy));
            let optimizer = match (&config.resumed, share) {
                (Some(state), share) => restored(config.optimizer, share, state, &built)?,
                (None, None) => Optimizer::new(config.optimizer),
                (None, Some(share)) => Optimizer::of_share(config.optimizer, share),
            };
            let run = StageRun::new(built, optimizer, micro_batches, recompute, config)?;
            stages.insert((pipe, stage), run);
        }
        Ok(Self(stages))
    }

    /// A stage of this rank, to run it.
    pub(crate) fn get(&mut self, pipe: Pipe, stage: Stage) -> Result<&mut StageRun> {
        self.0.get_mut(&(pipe, stage)).ok_or(RankError::Missing("a stage of this rank"))
    }

    /// Whether `stage` of one copy of the model is here.
    pub(crate) fn holds(&self, pipe: Pipe, stage: Stage) -> bool {
        self.0.contains_key(&(pipe, stage))
    }

    /// Forgets the last step.
    pub(crate) fn begin(&mut self) {
        self.0.values_mut().for_each(StageRun::begin);
    }

    /// An optimizer step. `clip` is what gradients are multiplied with first.
    pub(crate) fn update(&mut self, lr: f64, clip: f32) -> Result<()> {
        for run in self.0.values_mut() {
            run.optimizer.step(&mut run.gradients, lr, clip)?;
            run.outdate_packed();
        }
        Ok(())
    }

    /// The square sums of each parameter's gradient, of the first copy of the model: after the mean
    /// the others have the same. A device is asked for all of them at once.
    pub(crate) fn square_sums(&mut self, lane: &Lane) -> Result<Vec<(Stage, Vec<f64>)>> {
        if matches!(lane, Lane::Host(_)) {
            let of_stage = |(stage, run): (Stage, &mut StageRun)| {
                let sums = run.gradients.square_sums()?;
                Ok((stage, run.without_seconds(sums)))
            };
            return self.of_first_copy().map(of_stage).collect();
        }
        let (mut scalars, mut counts) = (Vec::new(), Vec::new());
        let shapes = lane.keep_shapes();
        for (stage, run) in self.of_first_copy() {
            let of_stage = run.gradients.square_sums_on_device()?;
            let of_stage = run.without_seconds(of_stage);
            counts.push((stage, of_stage.len()));
            scalars.extend(of_stage);
        }
        drop(shapes);
        let mut found = lane.download(&scalars)?.into_iter().map(f64::from);
        let of_stage = |(stage, n)| (stage, found.by_ref().take(n).collect());
        Ok(counts.into_iter().map(of_stage).collect())
    }

    /// Replaces the gradients of a bucket of a stage, of which the copy in `pipe` is here, by the mean
    /// over the copies, summed in their order.
    pub(crate) fn average(
        &mut self,
        pipe: Pipe,
        bucket: Bucket,
        copies: &[Sums],
        lane: &Lane,
    ) -> Result<()> {
        let Some((first, others)) = copies.split_first() else {
            return Err(RankError::Missing("the gradients of a stage"));
        };
        let parameters = self.get(pipe, bucket.stage)?.buckets.members(bucket.number).to_vec();
        if copies.iter().any(|copy| copy.tensors.len() != parameters.len()) {
            return Err(RankError::Missing("a gradient of one of this rank's stages"));
        }
        for copy in copies {
            lane.await_made(copy.made.as_ref())?;
        }
        for (at, &parameter) in parameters.iter().enumerate() {
            let mut sum = lane.take_one(&first.tensors[at], first.made.as_ref())?;
            for other in others {
                sum = (sum + lane.take_one(&other.tensors[at], other.made.as_ref())?)?;
            }
            let mean = (sum / copies.len() as f64)?;
            let is_it = |of: &Stage| *of == bucket.stage;
            let own = self.0.iter_mut().filter(|((_, of), _)| is_it(of)).map(|(_, run)| run);
            for (nth, run) in own.enumerate() {
                // A rank with two copies of the stage steps both.
                let mean = if nth == 0 { mean.clone() } else { mean.copy()? };
                run.gradients.replace(parameter, mean)?;
            }
        }
        Ok(())
    }

    /// Copies of the weights that this rank has stepped, for the other copies of its stages.
    pub(crate) fn stepped(
        &mut self,
        lane: &Lane,
        to_processes: bool,
    ) -> Result<Vec<(Pipe, Stage, CopySums)>> {
        let of_stage = |(&(pipe, stage), run): (&(Pipe, Stage), &mut StageRun)| {
            let parameters = run.stage.parameters();
            let piece = |piece: &Piece| {
                let piece = piece.of(parameters[piece.parameter].var.as_tensor())?.detach();
                if to_processes {
                    lane.on_host(piece.copy()?)
                } else {
                    lane.sendable(piece.copy()?)
                }
            };
            let pieces = run.optimizer.share().unwrap_or_default().iter().map(piece);
            let tensors = pieces.collect::<candle_core::Result<_>>()?;
            let made = if to_processes { None } else { lane.made()? };
            Ok((pipe, stage, CopySums { tensors, made }))
        };
        self.0.iter_mut().map(of_stage).collect()
    }

    /// Takes over the weights that the other copies have stepped.
    pub(crate) fn take_stepped(
        &mut self,
        config: &RankConfig,
        replica: Replica,
        copies: &StageSums,
        lane: &Lane,
    ) -> Result<()> {
        for (&(pipe, stage), run) in &mut self.0 {
            let own = replica.idx() * config.plan.n_pipes() as usize + pipe.idx();
            let shares = shares_of(config, &run.stage).unwrap_or_default();
            let of_stage = copies.get(&stage).map_or(&[][..], Vec::as_slice);
            if of_stage.len() != shares.len() {
                return Err(RankError::Missing("the weights of a copy of a stage"));
            }
            for (copy, (share, stepped)) in shares.iter().zip(of_stage).enumerate() {
                if copy == own {
                    continue;
                }
                lane.await_made(stepped.made.as_ref())?;
                for (piece, tensor) in share.iter().zip(&stepped.tensors) {
                    let numbers = lane.take_one(tensor, stepped.made.as_ref())?;
                    let weight = run.stage.parameters()[piece.parameter].var.as_tensor();
                    piece.of(weight)?.slice_set(&numbers, 0, 0)?;
                }
            }
            run.outdate_packed();
        }
        Ok(())
    }

    /// Host copies of the tensors of the first copy of the model, by stage.
    pub(crate) fn collect(&mut self, what: What) -> Result<Vec<(Stage, Named)>> {
        let mut found = Vec::new();
        for (stage, run) in self.of_first_copy() {
            let tensors = match what {
                What::Values => run
                    .first_parameters()
                    .map(|p| Ok((p.name.clone(), host(p.var.as_tensor())?)))
                    .collect::<Result<_>>()?,
                What::Gradients => {
                    let stage = &run.stage;
                    let sums = run.gradients.finished()?.filter(|(p, _)| !stage.is_second(p));
                    sums.map(|(p, sum)| Ok((p.name.clone(), host(sum)?))).collect::<Result<_>>()?
                }
            };
            found.push((stage, tensors));
        }
        Ok(found)
    }

    /// Host copies of weights and moments of the first copy of the model, and the steps that its
    /// optimizers have made. Where copies share the optimizer's state, there are no moments yet.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot> {
        let mut found = Snapshot::default();
        for (stage, run) in self.of_first_copy() {
            let parameters = run.stage.parameters();
            let values: Vec<&Tensor> = parameters.iter().map(|p| p.var.as_tensor()).collect();
            let moments = match run.optimizer.share() {
                None => run.optimizer.moments(&values)?,
                Some(_) => Vec::new(),
            };
            let named = parameters.iter().zip(moments).filter(|(p, _)| !run.stage.is_second(p));
            let moments: Vec<_> = named.map(|(p, moments)| (p.name.clone(), moments)).collect();
            moments.iter().flat_map(|(_, both)| both).for_each(moved_out);
            let weights = run
                .first_parameters()
                .map(|p| Ok((p.name.clone(), host(p.var.as_tensor())?)))
                .collect::<Result<Vec<_>>>()?;
            found.optimizer_steps = run.optimizer.steps();
            found.stages.push(StageState { stage, weights, moments });
        }
        Ok(found)
    }

    /// The stages of which the first copy of the model is here.
    pub(crate) fn of_first(&self) -> Vec<Stage> {
        let first = self.0.keys().filter(|(pipe, _)| *pipe == Pipe(0));
        first.map(|&(_, stage)| stage).collect()
    }

    /// Host copies of the moments of this rank's shares: for each piece the first, then the second.
    pub(crate) fn shared_moments(&mut self) -> Result<Vec<(Pipe, Stage, CopySums)>> {
        let of_stage = |(&(pipe, stage), run): (&(Pipe, Stage), &mut StageRun)| {
            let parameters = run.stage.parameters().iter();
            let values: Vec<&Tensor> = parameters.map(|p| p.var.as_tensor()).collect();
            let tensors = run.optimizer.moments(&values)?.into_iter().flatten().collect();
            Ok((pipe, stage, CopySums { tensors, made: None }))
        };
        self.0.iter_mut().map(of_stage).collect()
    }

    /// Puts the moments together of which each copy of a stage has a share, in the order of the
    /// copies.
    pub(crate) fn join_moments(
        &mut self,
        config: &RankConfig,
        copies: &StageSums,
        found: &mut Snapshot,
    ) -> Result<()> {
        for state in &mut found.stages {
            let run = self.get(Pipe(0), state.stage)?;
            let shares = shares_of(config, &run.stage).unwrap_or_default();
            let of_stage = copies.get(&state.stage).map_or(&[][..], Vec::as_slice);
            // The pieces of each parameter, with the places of their first numbers.
            let n_parameters = run.stage.parameters().len();
            let mut pieces: Vec<Vec<(usize, [&Tensor; 2])>> = vec![Vec::new(); n_parameters];
            for (share, copy) in shares.iter().zip(of_stage) {
                // SGD has none.
                for (piece, both) in share.iter().zip(copy.tensors.chunks_exact(2)) {
                    pieces[piece.parameter].push((piece.start, [&both[0], &both[1]]));
                }
            }
            let pieces = run.without_seconds(pieces);
            for ((name, weight), mut pieces) in state.weights.iter().zip(pieces) {
                if pieces.is_empty() {
                    continue;
                }
                pieces.sort_by_key(|(start, _)| *start);
                let whole = |at: usize| {
                    let parts: Vec<&Tensor> = pieces.iter().map(|(_, both)| both[at]).collect();
                    let whole = Tensor::cat(&parts, 0)?.reshape(weight.shape())?;
                    moved_out(&whole);
                    Ok::<_, RankError>(whole)
                };
                state.moments.push((name.clone(), [whole(0)?, whole(1)?]));
            }
        }
        Ok(())
    }

    fn of_first_copy(&mut self) -> impl Iterator<Item = (Stage, &mut StageRun)> {
        let first = self.0.iter_mut().filter(|((pipe, _), _)| *pipe == Pipe(0));
        first.map(|(&(_, stage), run)| (stage, run))
    }

    /// The parameters of each stage.
    pub(crate) fn parameters(&self, rank: Rank) -> Vec<StageParameters> {
        let entry = |(&(pipe, stage), run): (&(Pipe, Stage), &StageRun)| {
            let parameters = run.first_parameters().map(|p| p.var.elem_count() as u64).sum();
            StageParameters { pipe, rank, stage, parameters, bytes: run.parameter_bytes() as u64 }
        };
        self.0.iter().map(entry).collect()
    }

    /// Bytes of the parameters.
    pub(crate) fn parameter_bytes(&self) -> u64 {
        self.sum(StageRun::parameter_bytes)
    }

    /// Bytes of the sums of gradients.
    pub(crate) fn gradient_bytes(&self) -> u64 {
        self.sum(|run| run.gradients.bytes())
    }

    /// Bytes of the optimizer's state.
    pub(crate) fn optimizer_bytes(&self) -> u64 {
        self.sum(|run| run.optimizer.bytes())
    }

    /// Bytes of packed copies of weights.
    pub(crate) fn packed_bytes(&self) -> u64 {
        self.sum(StageRun::packed_bytes)
    }

    fn sum(&self, of_stage: impl Fn(&StageRun) -> usize) -> u64 {
        self.0.values().map(of_stage).sum::<usize>() as u64
    }
}

/// A copy on the host. The originals change in place with the next step. Detached: autograd would
/// keep the originals for as long as it lives.
fn host(tensor: &Tensor) -> Result<Tensor> {
    let copy = tensor.detach().to_device(&Device::Cpu)?.copy()?;
    moved_out(&copy);
    Ok(copy)
}

/// Notes that a tensor of this thread is the caller's from now on.
fn moved_out(tensor: &Tensor) {
    memory::moved_out(tensor.elem_count() * tensor.dtype().size_in_bytes());
}

/// The shares of the copies of a stage, where each keeps the optimizer's state of its own alone.
fn shares_of(config: &RankConfig, built: &BuiltStage) -> Option<Vec<Vec<Piece>>> {
    let sizes: Vec<usize> = built.parameters().iter().map(|p| p.var.elem_count()).collect();
    config.shards_optimizer.then(|| shares(&sizes, config.n_copies()))
}

/// The optimizer of a stage, with the state that it had.
fn restored(
    kind: OptimizerKind,
    share: Option<Vec<Piece>>,
    state: &OptimizerState,
    built: &BuiltStage,
) -> Result<Optimizer> {
    let parameters = built.parameters();
    let weights: Vec<&Tensor> = parameters.iter().map(|p| p.var.as_tensor()).collect();
    let moments = parameters.iter().filter_map(|p| state.moments.get(built.first_name(p)).cloned());
    let moments: Vec<[Tensor; 2]> = moments.collect();
    Ok(Optimizer::restored(kind, share, state.steps, &moments, &weights)?)
}
