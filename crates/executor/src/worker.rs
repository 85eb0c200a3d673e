//! One rank: its thread's state, and the walk along its row of the plan.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use pp_nn::{ForwardContext, Optimizer, ParameterStore, memory};
use pp_partition::Stage as BuiltStage;
use pp_schedule::{
    Instruction, LoweredPlan, MicroBatch, Op, Payload, Phase, Pipe, Rank, Replica, Stage,
};
use pp_trace::{Span, SpanKind};

use crate::batch::Batch;
use crate::clock::{HostClock, SpanClock};
use crate::command::{
    Command, Evaluated, RankMemory, Reply, StageGradients, StageParameters, StepReport, What,
};
use crate::config::{FaultKind, RankConfig};
use crate::device::bring;
use crate::error::RankError;
use crate::link::{self, Address, Key, Mailbox, Tensors};
use crate::stage_run::{Forwarded, StageRun};
use crate::stash::Stash;

type Result<T> = std::result::Result<T, RankError>;

/// Tensors of one stage, by name.
type Named = Vec<(String, Tensor)>;

pub(crate) struct Worker {
    config: RankConfig,
    lowered: Arc<LoweredPlan>,
    pub(crate) rank: Rank,
    pub(crate) replica: Replica,
    device: Device,
    clock: HostClock,
    /// Of every copy of the model the stages that this rank holds.
    stages: BTreeMap<(Pipe, Stage), StageRun>,
    /// The mailboxes of this replica, by rank.
    addresses: Arc<[Address]>,
    mailbox: Mailbox,
    /// What passes between two stages of this very rank.
    local: HashMap<Key, Tensors>,
    stash: Stash,
    spans: Vec<Span>,
    /// Sums that other copies of the model may still read.
    shared: Vec<Tensor>,
    /// Bytes held when the step began, and the most held beyond them between two ops.
    live_before: i64,
    live_between: i64,
    pub(crate) step: u64,
    pub(crate) op: Option<Op>,
}

/// Where a span belongs.
#[derive(Clone, Copy)]
struct Place {
    kind: SpanKind,
    stage: Stage,
    micro_batch: MicroBatch,
}

/// What a replica trains on in one step.
struct StepData<'a> {
    batch: &'a Batch,
    /// Of each micro-batch.
    first_samples: Vec<u64>,
}

impl Place {
    fn rank(kind: SpanKind) -> Self {
        Self { kind, stage: Stage(0), micro_batch: MicroBatch(0) }
    }
}

impl Worker {
    /// Makes the device and builds this rank's stages on it. Call it on the rank's thread.
    pub(crate) fn new(
        mut config: RankConfig,
        lowered: Arc<LoweredPlan>,
        (rank, replica): (Rank, Replica),
        addresses: Arc<[Address]>,
        mailbox: Mailbox,
    ) -> Result<Self> {
        let device = (config.devices)(rank, replica).make()?;
        let mut stages = BTreeMap::new();
        let n_per_pipe = config.plan.n_micro_batches() / config.plan.n_pipes();
        for &(pipe, stage) in config.plan.topology().stages_of(rank) {
            let store = match &config.initial {
                Some(values) => ParameterStore::given(Arc::clone(values)),
                None => ParameterStore::seeded(config.seed),
            };
            let layers = config.partition.layers(stage.idx());
            let built = BuiltStage::build(&config.stack, layers, &store, DType::F32, &device)?;
            let micro_batches = pipe.0 * n_per_pipe..(pipe.0 + 1) * n_per_pipe;
            let recompute = config.recompute.is_for(stage);
            let optimizer = Optimizer::new(config.optimizer);
            let run = StageRun::new(built, optimizer, micro_batches, recompute, &config)?;
            stages.insert((pipe, stage), run);
        }
        // The stages have copies of their own now; these would be a second model for as long as the
        // run lasts.
        config.initial = None;
        let clock = HostClock::new(config.origin, device.clone());
        Ok(Self {
            config,
            lowered,
            rank,
            replica,
            device,
            clock,
            stages,
            addresses,
            mailbox,
            local: HashMap::new(),
            stash: Stash::default(),
            spans: Vec::new(),
            shared: Vec::new(),
            live_before: 0,
            live_between: 0,
            step: 0,
            op: None,
        })
    }

    pub(crate) fn stage_parameters(&self) -> Vec<StageParameters> {
        let count =
            |run: &StageRun| run.stage.parameters().iter().map(|p| p.var.elem_count() as u64).sum();
        let entry = |(&(pipe, stage), run)| {
            let parameters = count(run);
            StageParameters {
                pipe,
                rank: self.rank,
                stage,
                parameters,
                bytes: parameters * DType::F32.size_in_bytes() as u64,
            }
        };
        self.stages.iter().map(entry).collect()
    }

    pub(crate) fn handle(&mut self, command: Command) -> Result<Reply> {
        match command {
            Command::Step { step, batch } => self.step(step, &batch).map(Reply::Stepped),
            Command::Reduce { copies } => {
                let sums = self.timed(Place::rank(SpanKind::AllReduce), |w| w.reduce(&copies))?;
                Ok(Reply::Reduced(sums, self.take_spans()))
            }
            Command::Update { lr, clip } => {
                self.shared.clear();
                self.timed(Place::rank(SpanKind::Optim), |w| {
                    for run in w.stages.values_mut() {
                        run.optimizer.step(&mut run.gradients, lr, clip)?;
                        run.outdate_packed();
                    }
                    Ok(())
                })?;
                Ok(Reply::Updated(self.memory(), self.take_spans()))
            }
            Command::Evaluate { batch, plan } => self.evaluate(&batch, &plan).map(Reply::Evaluated),
            Command::Collect(what) => self.collect(what).map(Reply::Tensors),
        }
    }

    /// Runs `work` and writes down when, for how long, and what the thread got of the processor.
    fn timed<T>(&mut self, place: Place, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (thread, start_ns) = (self.clock.thread(), self.clock.now_ns()?);
        let result = work(self)?;
        let end_ns = self.clock.now_ns()?;
        let after = self.clock.thread();
        let dur_ns = end_ns - start_ns;
        let cpu_ns = after.cpu_ns - thread.cpu_ns;
        let starved_ns = match (thread.run_queue_ns, after.run_queue_ns) {
            _ if self.config.sleeps => 0,
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => dur_ns.saturating_sub(cpu_ns),
        };
        self.push_span(Span {
            dur_ns,
            cpu_ns,
            starved_ns: starved_ns.min(dur_ns),
            ..self.span(place, start_ns)
        });
        Ok(result)
    }

    /// A span that has only begun.
    fn span(&self, place: Place, start_ns: u64) -> Span {
        Span {
            step: self.step,
            replica: self.replica.0,
            rank: self.rank.0,
            stage: place.stage.0,
            mb: place.micro_batch.0,
            op: place.kind,
            start_ns,
            dur_ns: 0,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    /// The spans so far, for whoever asked; their memory is no longer this rank's.
    fn take_spans(&mut self) -> Vec<Span> {
        let spans = std::mem::take(&mut self.spans);
        memory::moved_out(spans.capacity() * size_of::<Span>());
        spans
    }

    fn push_span(&mut self, span: Span) {
        self.config.recorder.span(span);
        self.spans.push(span);
    }

    fn step(&mut self, step: u64, batch: &Batch) -> Result<StepReport> {
        self.step = step;
        self.stages.values_mut().for_each(StageRun::begin);
        memory::reset_peak();
        (self.live_before, self.live_between) = (self.live_beyond_packed(), 0);
        let mut report = StepReport::default();
        let step_data = StepData { batch, first_samples: batch.first_samples() };
        let lowered = Arc::clone(&self.lowered);
        for instruction in &lowered.rows[self.rank.idx()] {
            match *instruction {
                Instruction::Recv(transfer) => {
                    let tensors = self.receive(transfer.into())?;
                    self.local.insert(transfer.into(), tensors);
                }
                // The halves of an overlapped pair run one after the other here; both results leave at its end.
                Instruction::Compute(action) => {
                    for op in action.ops() {
                        self.op = Some(op);
                        self.fail_on_request(op)?;
                        let place = Place {
                            kind: op.phase.into(),
                            stage: op.stage,
                            micro_batch: op.micro_batch,
                        };
                        self.timed(place, |w| w.compute(op, &step_data, &mut report.losses))?;
                        let held = self.live_beyond_packed() - self.live_before;
                        self.live_between = self.live_between.max(held);
                    }
                }
                Instruction::Send(transfer) => {
                    let place = Place {
                        kind: SpanKind::Send,
                        stage: transfer.from_stage,
                        micro_batch: transfer.micro_batch,
                    };
                    self.send(place, transfer.into(), transfer.to)?;
                }
            }
        }
        self.op = None;
        if self.config.has_copies() {
            for (&(pipe, stage), run) in &mut self.stages {
                let sums = run.gradients.finished()?.map(|(_, sum)| sum.clone()).collect();
                report.gradients.push((pipe, stage, sums));
            }
            // Ours to free, once no other copy of the model reads them.
            self.shared = report.gradients.iter().flat_map(|(.., sums)| sums).cloned().collect();
        } else {
            report.square_sums = self.square_sums()?;
        }
        report.spans = self.take_spans();
        report.residue_bytes_peak = self.stash.take_residue_peak();
        report.stash_peak = self.stash.take_peak();
        report.mailbox_peak = self.mailbox.take_peak();
        Ok(report)
    }

    /// Bytes alive without packed copies of weights. These are made during the first step, and
    /// would look like activations.
    fn live_beyond_packed(&self) -> i64 {
        memory::live_bytes() - self.packed_bytes() as i64
    }

    fn packed_bytes(&self) -> usize {
        self.stages.values().map(StageRun::packed_bytes).sum()
    }

    fn last_stage(&self) -> Stage {
        Stage(self.config.plan.n_stages() - 1)
    }

    fn fail_on_request(&self, op: Op) -> Result<()> {
        match self.config.fault {
            Some(fault) if (fault.rank, fault.step, fault.op) == (self.rank, self.step, op) => {
                match fault.kind {
                    FaultKind::Error => Err(RankError::Injected),
                    FaultKind::Panic => panic!("a test asked for this panic"),
                }
            }
            _ => Ok(()),
        }
    }

    /// Waits for a message. Waiting and taking over are spans of their own.
    fn receive(&mut self, key: Key) -> Result<Tensors> {
        let kind = match key.payload {
            Payload::Activation => SpanKind::WaitAct,
            Payload::Gradient => SpanKind::WaitGrad,
        };
        let place = Place { kind, stage: key.to_stage, micro_batch: key.micro_batch };
        let wait_ns = self.clock.now_ns()?;
        let (tensors, at_once) = self.mailbox.receive(key).map_err(|_| RankError::Stopped)?;
        let arrived_ns = self.clock.now_ns()?;
        if !at_once {
            self.push_span(Span { dur_ns: arrived_ns - wait_ns, ..self.span(place, wait_ns) });
        }
        let bytes = link::bytes(&tensors) as u64;
        let here = |t: Option<Tensor>| t.map(|t| bring(&t, &self.device)).transpose();
        let tensors = tensors.into_iter().map(here).collect::<candle_core::Result<_>>()?;
        let end_ns = self.clock.now_ns()?;
        let place = Place { kind: SpanKind::Recv, ..place };
        self.push_span(Span { dur_ns: end_ns - arrived_ns, bytes, ..self.span(place, arrived_ns) });
        Ok(tensors)
    }

    /// Sends what the last op made.
    fn send(&mut self, place: Place, key: Key, to: Rank) -> Result<()> {
        let start_ns = self.clock.now_ns()?;
        let tensors = self.local.remove(&key).ok_or(RankError::Missing("a message to send"))?;
        let bytes = link::bytes(&tensors) as u64;
        // A forward's output stays in the stash too, unless it will be made again; a gradient is the receiver's alone.
        let given = match key.payload {
            Payload::Gradient => true,
            Payload::Activation => self.config.recompute.is_for(Stage(key.to_stage.0 - 1)),
        };
        self.addresses[to.idx()].send(key, tensors, given);
        let end_ns = self.clock.now_ns()?;
        self.push_span(Span { dur_ns: end_ns - start_ns, bytes, ..self.span(place, start_ns) });
        Ok(())
    }

    fn run(&mut self, stage: Stage, micro_batch: MicroBatch) -> Result<&mut StageRun> {
        let pipe = self.config.plan.pipe_of(micro_batch);
        self.run_of(pipe, stage)
    }

    fn run_of(&mut self, pipe: Pipe, stage: Stage) -> Result<&mut StageRun> {
        self.stages.get_mut(&(pipe, stage)).ok_or(RankError::Missing("a stage of this rank"))
    }

    fn compute(
        &mut self,
        op: Op,
        data: &StepData<'_>,
        losses: &mut Vec<(MicroBatch, f32)>,
    ) -> Result<()> {
        let Op { stage, phase, micro_batch } = op;
        let batch = data.batch;
        match phase {
            Phase::Forward => {
                let (inputs, arrived) = self.inputs(stage, micro_batch, batch)?;
                let targets = self.targets(stage, micro_batch, batch)?;
                let context = ForwardContext::training(self.config.seed, self.step)
                    .with_first_sample(data.first_samples[micro_batch.idx()]);
                let objective = Arc::clone(&self.config.objective);
                let last = targets.as_ref().map(|targets| (objective.as_ref(), targets));
                let held = self.stash.hold();
                match self.run(stage, micro_batch)?.forward(
                    micro_batch,
                    &inputs,
                    arrived,
                    last,
                    context,
                    held,
                )? {
                    Forwarded::Loss(loss) => losses.push((micro_batch, loss)),
                    Forwarded::Boundary(tensors) => {
                        self.hand_on(Payload::Activation, stage.0 + 1, micro_batch, tensors);
                    }
                }
            }
            Phase::Backward => {
                self.input_gradient(stage, micro_batch, batch)?;
                self.weight_gradient(stage, micro_batch)?;
            }
            Phase::InputGrad => self.input_gradient(stage, micro_batch, batch)?,
            Phase::WeightGrad => self.weight_gradient(stage, micro_batch)?,
        }
        Ok(())
    }

    fn weight_gradient(&mut self, stage: Stage, micro_batch: MicroBatch) -> Result<()> {
        Ok(self.run(stage, micro_batch)?.weight_gradient(micro_batch)?)
    }

    fn input_gradient(
        &mut self,
        stage: Stage,
        micro_batch: MicroBatch,
        batch: &Batch,
    ) -> Result<()> {
        let gradients = if stage == self.last_stage() {
            Vec::new()
        } else {
            let key = Key { payload: Payload::Gradient, to_stage: stage, micro_batch };
            self.local.remove(&key).ok_or(RankError::Missing("the gradient of the outputs"))?
        };
        // Each copy of the model takes the mean over its own micro-batches.
        let n_pipes = self.config.plan.n_pipes() as usize;
        let share = 1.0 / (batch.micro_batches.len() / n_pipes) as f64;
        let (stash, objective) = (self.stash.clone(), Arc::clone(&self.config.objective));
        let back = self.run(stage, micro_batch)?.input_gradient(
            micro_batch,
            &gradients,
            share,
            objective.as_ref(),
            &stash,
        )?;
        if stage.0 > 0 {
            self.hand_on(Payload::Gradient, stage.0 - 1, micro_batch, back);
        }
        Ok(())
    }

    /// Puts down what an op made: for a stage of this rank to find, or for the next send.
    fn hand_on(
        &mut self,
        payload: Payload,
        to_stage: u32,
        micro_batch: MicroBatch,
        tensors: Tensors,
    ) {
        self.local.insert(Key { payload, to_stage: Stage(to_stage), micro_batch }, tensors);
    }

    /// The inputs of a forward, and whether another stage made them.
    fn inputs(
        &mut self,
        stage: Stage,
        micro_batch: MicroBatch,
        batch: &Batch,
    ) -> Result<(Vec<Tensor>, bool)> {
        if stage.0 == 0 {
            let inputs = &batch.micro_batches[micro_batch.idx()].0;
            let here = inputs.iter().map(|t| bring(t, &self.device));
            return Ok((here.collect::<candle_core::Result<_>>()?, false));
        }
        let key = Key { payload: Payload::Activation, to_stage: stage, micro_batch };
        let tensors =
            self.local.remove(&key).ok_or(RankError::Missing("the input of a forward"))?;
        Ok((tensors.into_iter().flatten().collect(), true))
    }

    fn targets(
        &self,
        stage: Stage,
        micro_batch: MicroBatch,
        batch: &Batch,
    ) -> Result<Option<Tensor>> {
        let is_last = stage == self.last_stage();
        let here = || bring(&batch.micro_batches[micro_batch.idx()].1, &self.device);
        Ok(is_last.then(here).transpose()?)
    }

    /// Of the first copy of the model: after the mean the others have the same.
    fn square_sums(&mut self) -> Result<Vec<(Stage, Vec<f64>)>> {
        self.stages
            .iter_mut()
            .filter(|((pipe, _), _)| *pipe == Pipe(0))
            .map(|(&(_, stage), run)| Ok((stage, run.gradients.square_sums()?)))
            .collect()
    }

    /// The mean over all copies of the model, summed in their order.
    fn reduce(&mut self, copies: &StageGradients) -> Result<Vec<(Stage, Vec<f64>)>> {
        for (&(_, stage), run) in &mut self.stages {
            let of_stage = copies.get(&stage).map_or(&[][..], Vec::as_slice);
            let Some((first, others)) = of_stage.split_first() else {
                return Err(RankError::Missing("the gradients of a stage"));
            };
            let mut means = Vec::with_capacity(first.len());
            for (parameter, sum) in first.iter().enumerate() {
                let mut sum = bring(sum, &self.device)?;
                for other in others {
                    sum = (sum + bring(&other[parameter], &self.device)?)?;
                }
                means.push((sum / of_stage.len() as f64)?);
            }
            run.gradients.replace(means)?;
        }
        self.square_sums()
    }

    fn evaluate(&mut self, batch: &Batch, plan: &LoweredPlan) -> Result<Evaluated> {
        let mut losses = vec![f32::NAN; batch.micro_batches.len()];
        let mut correct: Option<(u64, u64)> = None;
        for instruction in &plan.rows[self.rank.idx()] {
            match *instruction {
                Instruction::Recv(transfer) => {
                    let (tensors, _) =
                        self.mailbox.receive(transfer.into()).map_err(|_| RankError::Stopped)?;
                    let here = |t: Option<Tensor>| t.map(|t| bring(&t, &self.device)).transpose();
                    let tensors =
                        tensors.into_iter().map(here).collect::<candle_core::Result<_>>()?;
                    self.local.insert(transfer.into(), tensors);
                }
                Instruction::Compute(action) => {
                    let op = action.first();
                    self.op = Some(op);
                    let (inputs, _) = self.inputs(op.stage, op.micro_batch, batch)?;
                    let targets = self.targets(op.stage, op.micro_batch, batch)?;
                    let run = self.run_of(Pipe(0), op.stage)?;
                    let context = run.evaluation();
                    let outputs = run.stage.forward(&inputs, &context)?;
                    if let Some(targets) = targets {
                        let objective = &self.config.objective;
                        losses[op.micro_batch.idx()] =
                            objective.loss(&outputs, &targets)?.to_scalar()?;
                        if let Some((right, all)) = objective.correct(&outputs, &targets)? {
                            let so_far = correct.unwrap_or_default();
                            correct = Some((so_far.0 + right, so_far.1 + all));
                        }
                    } else {
                        let tensors = outputs.iter().map(|t| Some(t.detach())).collect();
                        drop(outputs);
                        let to = op.stage.0 + 1;
                        self.hand_on(Payload::Activation, to, op.micro_batch, tensors);
                    }
                }
                Instruction::Send(transfer) => {
                    let tensors = self
                        .local
                        .remove(&transfer.into())
                        .ok_or(RankError::Missing("a message to send"))?;
                    // Nothing is kept here: the tensors are the receiver's alone.
                    self.addresses[transfer.to.idx()].send(transfer.into(), tensors, true);
                }
            }
        }
        self.op = None;
        self.mailbox.take_peak();
        if !self.stages.contains_key(&(Pipe(0), self.last_stage())) {
            losses.clear();
        }
        Ok(Evaluated { losses, correct })
    }

    fn collect(&mut self, what: What) -> Result<Vec<(Stage, Named)>> {
        // A copy: the originals change in place with the next step. Detached: autograd would keep
        // the originals for as long as it lives.
        let host = |t: &Tensor| {
            let copy = t.detach().to_device(&Device::Cpu)?.copy()?;
            // It is for whoever asked.
            memory::moved_out(copy.elem_count() * copy.dtype().size_in_bytes());
            Ok::<_, candle_core::Error>(copy)
        };
        let mut found = Vec::new();
        let first_copy = self.stages.iter_mut().filter(|((pipe, _), _)| *pipe == Pipe(0));
        for (&(_, stage), run) in first_copy {
            let tensors = match what {
                What::Values => {
                    let parameters = run.stage.parameters().iter();
                    parameters
                        .map(|p| Ok((p.name.clone(), host(p.var.as_tensor())?)))
                        .collect::<Result<_>>()?
                }
                What::Gradients => {
                    let sums = run.gradients.finished()?;
                    sums.map(|(p, sum)| Ok((p.name.clone(), host(sum)?))).collect::<Result<_>>()?
                }
            };
            found.push((stage, tensors));
        }
        Ok(found)
    }

    fn memory(&mut self) -> RankMemory {
        let sum =
            |f: &dyn Fn(&StageRun) -> usize| self.stages.values().map(f).sum::<usize>() as u64;
        let gradient_bytes = sum(&|run| run.gradients.bytes());
        let optimizer_bytes = sum(&|run| run.optimizer.bytes());
        let parameter_bytes: u64 = self.stage_parameters().iter().map(|s| s.bytes).sum();
        let packed_bytes = self.packed_bytes() as u64;
        let fixed = gradient_bytes + optimizer_bytes + parameter_bytes + packed_bytes;
        // Without a counting allocator only what stays is known.
        let counted = memory::is_counted() && self.device.is_cpu();
        let (live_bytes, peak_bytes) = if counted {
            (memory::live_bytes().max(0) as u64, memory::peak_bytes().max(0) as u64)
        } else {
            (fixed, fixed)
        };
        let beyond = peak_bytes.saturating_sub(fixed);
        let stash_bytes = if counted { beyond.min(self.live_between.max(0) as u64) } else { 0 };
        RankMemory {
            live_bytes,
            peak_bytes,
            parameter_bytes,
            gradient_bytes,
            optimizer_bytes,
            packed_bytes,
            stash_bytes,
            temporary_bytes: beyond - stash_bytes,
        }
    }
}
