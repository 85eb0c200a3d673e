//! One micro-batch through every stage, before the run: how many bytes it takes where.

use candle_core::{DType, Tensor};
#[cfg(doc)]
use pp_nn::memory;
use pp_nn::memory::Meter;
use pp_nn::{ForwardContext, Optimizer, ParameterStore, shares};
use pp_partition::Stage as BuiltStage;
use pp_schedule::{MicroBatch, Pipe, Rank, Replica, Stage, StageBytes, footprints};

use crate::boundary::Tensors;
use crate::config::RankConfig;
use crate::error::RankError;
use crate::lane::Lane;
use crate::link;
use crate::stage_run::{Forwarded, StageRun};
use crate::stash::Stash;
use crate::thread::{STACK_BYTES, panic_text};
use crate::ties::tied_stages;

/// What a rank will hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedMemory {
    /// Parameters.
    pub parameter_bytes: u64,
    /// Sums of gradients.
    pub gradient_bytes: u64,
    /// State of the optimizer.
    pub optimizer_bytes: u64,
    /// Packed copies of weights.
    pub packed_bytes: u64,
    /// The most between two ops: activations, residues, messages.
    pub stash_bytes: u64,
    /// What an op needs beyond that while it runs, where the whole is largest.
    pub temporary_bytes: u64,
}

impl PlannedMemory {
    /// The most of all together.
    pub fn peak_bytes(&self) -> u64 {
        self.parameter_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.packed_bytes
            + self.stash_bytes
            + self.temporary_bytes
    }

    /// The copy for a checkpoint: parameters and optimizer state. It comes on top of the peak, and
    /// no measured peak of a rank includes it, because a copy is counted for the thread that writes
    /// it.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.parameter_bytes + self.optimizer_bytes
    }
}

/// The bytes that each rank will hold on its device. One micro-batch of `inputs` and `targets`
/// passes through the stages, one after another, on a thread of its own and on the device of the
/// first rank; the plan tells how many micro-batches each rank holds at the same time.
///
/// `None` if no bytes are counted: on the host without [`memory::CountingAllocator`].
///
/// # Errors
/// If a stage cannot be built, or a kernel fails.
pub fn rehearse(
    config: &RankConfig,
    inputs: &[Tensor],
    targets: &Tensor,
) -> Result<Option<Vec<PlannedMemory>>, RankError> {
    // What kernels keep for their thread is a part of what a rank holds, and must not be there yet.
    let found = std::thread::scope(|scope| {
        let body = || rehearse_here(config, inputs, targets);
        let thread = std::thread::Builder::new().name("rehearsal".to_owned());
        match thread.stack_size(STACK_BYTES).spawn_scoped(scope, body) {
            Ok(thread) => thread.join().map_err(|panic| RankError::Panic(panic_text(&*panic))),
            Err(error) => Err(candle_core::Error::from(error).into()),
        }
    });
    found?
}

fn rehearse_here(
    config: &RankConfig,
    inputs: &[Tensor],
    targets: &Tensor,
) -> Result<Option<Vec<PlannedMemory>>, RankError> {
    let lane = (config.devices)(Rank(0), Replica(0)).lane()?;
    let meter = lane.meter();
    if !meter.is_counted() {
        return Ok(None);
    }
    let plan = &config.plan;
    let topology = plan.topology();
    let mut stages = Vec::with_capacity(topology.n_stages() as usize);
    let mut fixed = Vec::with_capacity(topology.n_stages() as usize);
    let upload = |t: &Tensor| lane.upload(t);
    let mut arriving = inputs.iter().map(upload).collect::<candle_core::Result<Vec<_>>>()?;
    let targets = &lane.upload(targets)?;
    let mut of_thread = 0;
    for stage in topology.stages() {
        let mut rehearsed = Rehearsed::new(config, stage, &lane)?;
        let last = topology.after(stage).is_none().then_some(targets);
        // Once for what the kernels keep, then again to count.
        let looks = Looks::start(meter);
        rehearsed.micro_batch(config, &arriving, last)?;
        let packed = rehearsed.run.packed_bytes();
        of_thread += looks.held() - packed as i64;
        let (mut bytes, outputs) = rehearsed.micro_batch(config, &arriving, last)?;
        if config.has_copies() {
            bytes.mean = MeanBytes::of(config, rehearsed.run.parameter_bytes() as u64).peak();
        }
        stages.push(bytes);
        let parameters = rehearsed.run.stage.parameters();
        fixed.push(FixedBytes {
            parameters: rehearsed.run.parameter_bytes() as u64,
            packed: packed as u64,
            sizes: parameters.iter().map(|p| p.var.elem_count()).collect(),
        });
        arriving = outputs;
    }
    let of_thread = of_thread.max(0) as u64;
    let mut planned: Vec<PlannedMemory> = footprints(plan, &stages)
        .into_iter()
        .map(|found| PlannedMemory {
            stash_bytes: found.stash,
            temporary_bytes: found.peak - found.stash + of_thread,
            ..PlannedMemory::default()
        })
        .collect();
    let mut means = vec![MeanBytes::default(); planned.len()];
    // Bytes that each rank of each replica steps.
    let mut stepped = vec![vec![0; config.n_replicas as usize]; planned.len()];
    for pipe in topology.pipes() {
        for (rank, of_stage) in topology.ranks(pipe).iter().zip(&fixed) {
            means[rank.idx()].add(config, of_stage);
            let rank = &mut planned[rank.idx()];
            rank.parameter_bytes += of_stage.parameters;
            rank.gradient_bytes += of_stage.parameters;
            rank.packed_bytes += of_stage.packed;
        }
        for (rank, of_stage) in topology.ranks(pipe).iter().zip(&fixed) {
            let shares = of_stage.shares(config, pipe);
            stepped[rank.idx()].iter_mut().zip(shares).for_each(|(all, share)| *all += share);
        }
    }
    for (rank, stepped) in planned.iter_mut().zip(stepped) {
        let most = stepped.into_iter().max().unwrap_or(0);
        rank.optimizer_bytes = config.optimizer.state_bytes(most);
    }
    let ties = tie_bytes(config, planned.len())?;
    for ((rank, mean), tied) in planned.iter_mut().zip(&means).zip(ties) {
        let at_the_end = if config.has_copies() { mean.peak() + tied } else { tied };
        let beyond = (rank.stash_bytes + rank.temporary_bytes).max(at_the_end);
        rank.temporary_bytes = beyond - rank.stash_bytes;
    }
    Ok(Some(planned))
}

/// What adding the gradients of tied parameters takes on each rank: the sum of both places beside
/// that of its own, and the other's where it comes from another process.
fn tie_bytes(config: &RankConfig, n_ranks: usize) -> Result<Vec<u64>, RankError> {
    let mut found = vec![0; n_ranks];
    let ties = tied_stages(config)?;
    if ties.is_empty() {
        return Ok(found);
    }
    let shapes = config.stack.shapes()?;
    let topology = config.plan.topology();
    for [(first, name), (second, _)] in ties {
        let bytes = shapes.get(&name).map_or(0, |shape| shape.elem_count() * NUMBER) as u64;
        for pipe in topology.pipes() {
            let (one, other) = (topology.rank_of(pipe, first), topology.rank_of(pipe, second));
            let received = if config.world.is_some() && one != other { bytes } else { 0 };
            found[one.idx()] += bytes + received;
            found[other.idx()] += bytes + received;
        }
    }
    Ok(found)
}

/// What a stage has for as long as the run lasts.
struct FixedBytes {
    parameters: u64,
    packed: u64,
    /// Numbers of each parameter.
    sizes: Vec<usize>,
}

/// Bytes of a number.
const NUMBER: usize = size_of::<f32>();

impl FixedBytes {
    /// Bytes of the parameters that the copy of the stage in `pipe` steps in each replica.
    fn shares(&self, config: &RankConfig, pipe: Pipe) -> Vec<u64> {
        if !config.shards_optimizer {
            return vec![self.parameters; config.n_replicas as usize];
        }
        let shares = shares(&self.sizes, config.n_copies());
        let of_pipe = shares.iter().skip(pipe.idx()).step_by(config.plan.n_pipes() as usize);
        let numbers = of_pipe.map(|share| share.iter().map(|piece| piece.len).sum::<usize>());
        numbers.map(|numbers| (numbers * NUMBER) as u64).collect()
    }
}

/// What the mean of the gradients over the copies of a rank's stages takes: the means, beside the
/// sums that other copies still read. At the end of a row activations are gone.
#[derive(Clone, Copy, Default)]
struct MeanBytes {
    /// All means.
    means: u64,
    /// The sums of other copies, where they come from other processes.
    received: u64,
    /// The largest parameter: a sum that grows by one copy after another is there twice.
    largest: u64,
}

impl MeanBytes {
    /// Of a stage with so many bytes of parameters.
    fn of(config: &RankConfig, parameters: u64) -> Self {
        let n_others = if config.world.is_some() { config.n_copies() as u64 - 1 } else { 0 };
        Self { means: parameters, received: n_others * parameters, largest: 0 }
    }

    fn add(&mut self, config: &RankConfig, stage: &FixedBytes) {
        let of_stage = Self::of(config, stage.parameters);
        self.means += of_stage.means;
        self.received += of_stage.received;
        let largest = stage.sizes.iter().max().copied().unwrap_or(0);
        self.largest = self.largest.max((largest * NUMBER) as u64);
    }

    /// The most beyond what stays. The last parameter's sum and mean are there before the last mean
    /// takes its place among the others.
    fn peak(&self) -> u64 {
        self.means + self.received + self.largest
    }
}

/// A stage of zeros: as large as the real one, and made at once.
struct Rehearsed {
    meter: Meter,
    /// Whether messages are copied to this stage's rank.
    has_queue: bool,
    run: StageRun,
    stage: Stage,
    recompute: bool,
}

impl Rehearsed {
    fn new(config: &RankConfig, stage: Stage, lane: &Lane) -> Result<Self, RankError> {
        let store = ParameterStore::zeroed();
        let layers = config.partition.layers(stage.idx());
        let built = BuiltStage::build(&config.stack, layers, &store, DType::F32, lane.device())?;
        let recompute = config.recompute.is_for(stage);
        let run = StageRun::new(built, Optimizer::new(config.optimizer), 0..1, recompute, config)?;
        let has_queue = matches!(lane, Lane::Queue(_));
        Ok(Self { meter: lane.meter(), has_queue, run, stage, recompute })
    }

    /// F, I and W, each between two looks at what this thread holds. Returns what the next stage
    /// gets, as well.
    fn micro_batch(
        &mut self,
        config: &RankConfig,
        inputs: &[Tensor],
        targets: Option<&Tensor>,
    ) -> Result<(StageBytes, Vec<Tensor>), RankError> {
        self.run.begin();
        let (objective, stash) = (config.objective.as_ref(), Stash::default());
        let context = ForwardContext::training(config.seed, 1);
        let before = config.plan.topology().before(self.stage);
        let arrived = before.is_some();
        // Where this stage runs again and the one before keeps nothing of the message, it is this
        // stage's alone, and is freed while I runs. A device has a copy of its own in any case.
        let is_given =
            before.is_some_and(|before| self.has_queue || config.recompute.is_for(before));
        let owned = self.recompute && is_given;
        let copies = inputs.iter().map(|t| if owned { t.copy() } else { Ok(t.clone()) });
        let inputs: Vec<Tensor> = copies.collect::<candle_core::Result<_>>()?;
        let size = |t: &Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as i64;
        let message = if owned { inputs.iter().map(size).sum() } else { 0 };
        let looks = Looks::start(self.meter);
        let last = targets.map(|targets| (objective, targets));
        let held = stash.hold();
        let forwarded = self.run.forward(MicroBatch(0), &inputs, arrived, last, context, held)?;
        drop(inputs);
        let forward_peak = looks.peak();
        let outputs: Tensors = match forwarded {
            Forwarded::Boundary(tensors) => tensors,
            Forwarded::Loss(_) => Vec::new(),
        };
        let output = link::bytes(&outputs) as u64;
        // Where the forward runs again, what is there now is the message.
        let kept = looks.held() - if self.recompute { output as i64 } else { 0 };

        // As large as what will come back. A tensor that is no float gets no gradient.
        let ones = |t: &Option<Tensor>| {
            let float = t.as_ref().filter(|t| t.dtype().is_float());
            float.map(Tensor::ones_like).transpose()
        };
        let gradients = outputs.iter().map(ones).collect::<candle_core::Result<Tensors>>()?;
        let next: Vec<Tensor> = outputs.into_iter().flatten().collect();
        let looks = Looks::start(self.meter);
        let back = self.run.input_gradient(MicroBatch(0), &gradients, 1.0, objective, &stash)?;
        let input_grad_peak = looks.peak();
        let gradient_bytes = link::bytes(&gradients) as i64;
        drop(gradients);
        let input_gradient = link::bytes(&back) as u64;
        let change = looks.held();
        // What was there and is gone counts, and so does the gradient that arrived; the output is
        // still held here, for the next stage.
        let freed =
            kept + message + gradient_bytes - if self.recompute { 0 } else { output as i64 };
        let residue = change + freed - input_gradient as i64;
        drop(back);

        let looks = Looks::start(self.meter);
        self.run.weight_gradient(MicroBatch(0))?;
        while self.run.sum_next(config.has_copies())?.is_some() {}
        let weight_grad_peak = looks.peak();
        let bytes = StageBytes {
            forward_peak,
            kept: kept.max(0) as u64,
            output,
            recompute: self.recompute,
            input_grad_peak,
            residue: residue.max(0) as u64,
            input_gradient,
            weight_grad_peak,
            mean: 0,
        };
        Ok((bytes, next))
    }
}

/// What this thread held when it was started.
struct Looks {
    meter: Meter,
    before: i64,
}

impl Looks {
    fn start(meter: Meter) -> Self {
        meter.reset_peak();
        Self { meter, before: meter.live_bytes() }
    }

    /// The most since then.
    fn peak(&self) -> u64 {
        (self.meter.peak_bytes() - self.before).max(0) as u64
    }

    /// More than then, or less.
    fn held(&self) -> i64 {
        self.meter.live_bytes() - self.before
    }
}
