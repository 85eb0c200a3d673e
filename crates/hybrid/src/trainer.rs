//! Whole training steps over the mesh.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use pp_executor::{
    Batch, ExecError, Progress, RankConfig, RankMemory, Ranks, StageParameters, StageState, What,
};
use pp_nn::{LearningRate, clip_factor, global_norm};
use pp_schedule::{MicroBatch, Replica, Stage};
use pp_trace::{MeasuredBubble, Span, SpanKind, measure};

use crate::tensors::first_nonfinite;

/// What a training run is.
pub struct TrainerConfig {
    /// Plan, cut, model, loss, optimizer and devices.
    pub ranks: RankConfig,
    /// The largest norm of the gradient of the whole model.
    pub clip_norm: Option<f64>,
    /// The learning rate of every step.
    pub rate: LearningRate,
    /// Steps planned.
    pub steps: u64,
}

/// Why a step could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainerError {
    /// A rank failed, or the batch does not fit.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The data of a step could not be made.
    #[error("cannot load the data of step {step}")]
    Data {
        /// The step.
        step: u64,
        /// What candle said.
        source: candle_core::Error,
    },
    /// An evaluation of nothing.
    #[error("nothing to evaluate: no samples were given")]
    NoSamples,
    /// A batch of which nothing counts: no token is to be predicted.
    #[error("nothing counts in the batch of step {step}: its loss would be 0 divided by 0")]
    NothingCounts {
        /// The step.
        step: u64,
    },
    /// A batch that does not divide over replicas.
    #[error(
        "a batch of {samples} samples does not divide over {replicas} replicas of {micro_batches} micro-batches"
    )]
    Uneven {
        /// Samples of the batch.
        samples: usize,
        /// Replicas.
        replicas: u32,
        /// Micro-batches of each.
        micro_batches: u32,
    },
    /// The loss or the gradient norm is not finite, and [`OnNonfinite`] makes that an error. The
    /// trainer can still be used.
    #[error(transparent)]
    NotFinite(Box<NotFinite>),
}

/// What happens to a step whose loss or gradient norm is not finite. It is decided before the
/// weights change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNonfinite {
    /// The step is an error. Weights and optimizer stay as they were.
    #[default]
    Stop,
    /// The step is skipped: weights and optimizer stay as they were.
    Skip {
        /// So many skipped steps in a row are an error.
        most: u64,
    },
    /// The step is applied like any other.
    Continue,
}

impl OnNonfinite {
    /// The usual limit of skipped steps in a row.
    pub const SKIPPED_MOST: u64 = 10;

    /// Non-finite steps in a row that are an error.
    fn most(self) -> u64 {
        match self {
            Self::Stop => 1,
            Self::Skip { most } => most,
            Self::Continue => u64::MAX,
        }
    }
}

/// A step that was not applied, and ends the training.
#[derive(Clone, Debug)]
pub struct NotFinite {
    /// The step.
    pub outcome: StepOutcome,
    /// Steps in a row that were not applied, with this one.
    pub in_a_row: u64,
}

impl std::error::Error for NotFinite {}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StepOutcome { step, loss, grad_norm, .. } = self.outcome;
        write!(f, "step {step} is not applied")?;
        match self.in_a_row {
            0 | 1 => {}
            2 => write!(f, ", nor is the one before it")?,
            n => write!(f, ", nor are the {} before it", n - 1)?,
        }
        write!(f, ": its loss is {loss}, its gradient norm {grad_norm}")
    }
}

/// How many pieces an evaluation sends through each pipeline at a time.
const PIECES_AT_ONCE: usize = 16;

/// What one step did.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The step, from 1.
    pub step: u64,
    /// The mean loss over the whole batch: over its samples, or over what counts in them.
    pub loss: f32,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient of the whole model, before clipping.
    pub grad_norm: f64,
    /// Whether the step was not applied, because its loss or gradient norm is not finite.
    pub is_skipped: bool,
    /// From data to optimizer.
    pub seconds: f64,
    /// The bubble of its spans.
    pub bubble: MeasuredBubble,
    /// What every rank did when.
    pub spans: Vec<Span>,
    /// What every rank holds, replica by replica, rank by rank.
    pub memory: Vec<RankMemory>,
    /// The most (stage, micro-batch) pairs that each rank held.
    pub stash_peaks: Vec<u32>,
    /// The most bytes that each rank kept for weight gradients still to be summed.
    pub residue_peaks: Vec<u64>,
    /// The most messages that waited for each rank.
    pub mailbox_peaks: Vec<u32>,
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    /// The mean loss over all samples, or over what counts in them.
    pub loss: f64,
    /// What the mean is taken over: samples, or what counts in them.
    pub weight: f64,
    /// The share of right predictions, where the objective counts them.
    pub accuracy: Option<f64>,
}

/// A model in training on a mesh of ranks.
pub struct Trainer {
    config: TrainerConfig,
    ranks: Ranks,
    on_nonfinite: OnNonfinite,
    /// Steps in a row that were not applied.
    skipped_in_a_row: u64,
}

/// A copy of everything that a later run needs to go on.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// The stages of each rank.
    pub ranks: Vec<Vec<StageState>>,
    /// Steps that the optimizer has made.
    pub optimizer_steps: u64,
}

impl ModelState {
    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        self.ranks.iter().flatten().map(StageState::n_bytes).sum()
    }

    /// The name of the first parameter whose weight or moments have a number that is not finite.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn first_nonfinite(&self) -> candle_core::Result<Option<&str>> {
        let stages = || self.ranks.iter().flatten();
        let weights = stages().flat_map(|of| &of.weights).map(|(name, weight)| (name, weight));
        let moments = stages().flat_map(|of| &of.moments);
        let moments = moments.flat_map(|(name, both)| both.iter().map(move |one| (name, one)));
        first_nonfinite(weights.chain(moments))
    }
}

impl Trainer {
    /// Starts the ranks; each builds its part of the model.
    ///
    /// # Errors
    /// If a rank cannot start or build.
    pub fn new(mut config: TrainerConfig) -> Result<Self, TrainerError> {
        let ranks = Ranks::spawn(&config.ranks)?;
        // Every rank has built its stages from them.
        (config.ranks.initial, config.ranks.resumed) = (None, None);
        Ok(Self { config, ranks, on_nonfinite: OnNonfinite::default(), skipped_in_a_row: 0 })
    }

    /// Sets what happens to steps whose loss or gradient norm is not finite.
    #[must_use]
    pub fn on_nonfinite(mut self, policy: OnNonfinite) -> Self {
        self.on_nonfinite = policy;
        self
    }

    /// Agrees on bits with the other processes, where ranks are processes: see [`Ranks::agree`].
    ///
    /// # Errors
    /// A process that failed or is gone.
    pub fn agree(&mut self, bits: u64, said: Vec<u8>) -> Result<(u64, Vec<Vec<u8>>), TrainerError> {
        Ok(self.ranks.agree(bits, said)?)
    }

    /// See [`Ranks::clock_offsets`].
    ///
    /// # Errors
    /// A process that failed or is gone.
    pub fn clock_offsets(&mut self) -> Result<Vec<(i64, u64)>, TrainerError> {
        Ok(self.ranks.clock_offsets()?)
    }

    /// The parameters of each stage, copy by copy of the model, in the order of stages.
    pub fn stages(&self) -> Vec<StageParameters> {
        self.ranks.stages().to_vec()
    }

    /// What each rank is doing, for another thread to look at while a step is under way.
    pub fn progress(&self) -> Progress {
        self.ranks.progress()
    }

    /// Trains on one batch, which `data` makes: inputs and targets, first dimension samples.
    ///
    /// # Errors
    /// The first error of any rank; afterwards the trainer is of no use any more. Or
    /// [`TrainerError::NotFinite`], after which it is.
    pub fn step<F>(&mut self, step: u64, data: F) -> Result<StepOutcome, TrainerError>
    where
        F: FnOnce() -> candle_core::Result<(Vec<Tensor>, Tensor)>,
    {
        let start = Instant::now();
        let start_ns = (start - self.config.ranks.origin).as_nanos() as u64;
        let (inputs, targets) = data().map_err(|source| TrainerError::Data { step, source })?;
        let batches = self.split(&inputs, &targets)?;
        let weight = self.weight_of(batches.iter().flat_map(|batch| &batch.micro_batches))?;
        if weight.is_some_and(|weight| weight <= 0.0) {
            return Err(TrainerError::NothingCounts { step });
        }
        let batches: Vec<Arc<Batch>> =
            batches.into_iter().map(|batch| Arc::new(batch.weighted(weight))).collect();
        let mut spans = vec![self.data_span(step, start_ns, start.elapsed().as_nanos() as u64)];

        let mut losses: Vec<(Replica, MicroBatch, f32)> = Vec::new();
        let mut sums: Vec<(Stage, Vec<f64>)> = Vec::new();
        let (mut stash_peaks, mut mailbox_peaks) = (Vec::new(), Vec::new());
        let mut residue_peaks = Vec::new();
        for ((replica, _), report) in self.ranks.step(step, &batches)?.into_places() {
            losses.extend(report.losses.into_iter().map(|(mb, loss)| (replica, mb, loss)));
            // All replicas have the same mean gradients.
            if replica == Replica(0) {
                sums.extend(report.square_sums);
            }
            residue_peaks.push(report.residue_bytes_peak);
            spans.extend(report.spans);
            stash_peaks.push(report.stash_peak);
            mailbox_peaks.push(report.mailbox_peak);
        }
        // Square sums of the stages, in the order of stages, are those of the parameters in layer
        // order: the norm is summed alike however the model is cut.
        sums.sort_by_key(|(stage, _)| *stage);
        let grad_norm = global_norm(sums.into_iter().flat_map(|(_, of_stage)| of_stage));
        let clip = clip_factor(grad_norm, self.config.clip_norm);
        let lr = self.config.rate.at(step, self.config.steps);
        // In the order of the whole batch, wherever and whenever each micro-batch ended.
        losses.sort_by_key(|&(replica, micro_batch, _)| (replica, micro_batch));
        let sum = losses.iter().map(|&(.., l)| f64::from(l)).sum::<f64>();
        let loss = (sum / weight.unwrap_or(losses.len() as f64)) as f32;
        let is_finite = loss.is_finite() && grad_norm.is_finite();
        let is_skipped = !is_finite && self.on_nonfinite != OnNonfinite::Continue;
        let updated =
            if is_skipped { self.ranks.skip_update()? } else { self.ranks.update(lr, clip)? };
        let mut memories = Vec::new();
        for (_, report) in updated.into_places() {
            memories.push(report.memory);
            spans.extend(report.spans);
        }
        let elapsed = start.elapsed();
        let bubble = measure(&spans, self.config.ranks.plan.n_ranks(), elapsed.as_nanos() as u64);
        let outcome = StepOutcome {
            step,
            loss,
            lr,
            grad_norm,
            is_skipped,
            seconds: elapsed.as_secs_f64(),
            bubble,
            spans,
            memory: memories,
            stash_peaks,
            residue_peaks,
            mailbox_peaks,
        };
        self.skipped_in_a_row = if is_skipped { self.skipped_in_a_row + 1 } else { 0 };
        let in_a_row = self.skipped_in_a_row;
        if is_skipped && in_a_row >= self.on_nonfinite.most() {
            return Err(TrainerError::NotFinite(Box::new(NotFinite { outcome, in_a_row })));
        }
        Ok(outcome)
    }

    fn data_span(&self, step: u64, start_ns: u64, dur_ns: u64) -> Span {
        let span = Span {
            step,
            replica: 0,
            rank: 0,
            stage: 0,
            mb: 0,
            op: SpanKind::Data,
            start_ns,
            dur_ns,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        };
        self.config.ranks.recorder.span(span);
        span
    }

    /// What counts in these micro-batches, if the objective says how much does.
    fn weight_of<'a>(
        &self,
        micro_batches: impl Iterator<Item = &'a (Vec<Tensor>, Tensor)>,
    ) -> Result<Option<f64>, TrainerError> {
        let mut sum = None;
        for (_, targets) in micro_batches {
            match self.config.ranks.objective.weight(targets).map_err(ExecError::from)? {
                Some(weight) => sum = Some(sum.unwrap_or(0.0) + weight),
                None => return Ok(None),
            }
        }
        Ok(sum)
    }

    /// Each replica's own part of the batch, in micro-batches.
    fn split(&self, inputs: &[Tensor], targets: &Tensor) -> Result<Vec<Batch>, TrainerError> {
        let replicas = self.config.ranks.n_replicas;
        let micro_batches = self.config.ranks.plan.n_micro_batches();
        let samples = targets.dim(0).map_err(ExecError::from)?;
        if samples == 0 || !samples.is_multiple_of(replicas as usize * micro_batches as usize) {
            return Err(TrainerError::Uneven { samples, replicas, micro_batches });
        }
        let rows = samples / replicas as usize;
        (0..replicas as usize)
            .map(|r| {
                let part = |t: &Tensor| t.narrow(0, r * rows, rows).map_err(ExecError::from);
                let inputs = inputs.iter().map(part).collect::<Result<Vec<_>, _>>()?;
                let first = (r * rows) as u64;
                Ok(Batch::split(&inputs, &part(targets)?, micro_batches as usize, first)?)
            })
            .collect()
    }

    /// Copies the state of the model and its optimizer, for a checkpoint. The ranks do so at the
    /// same time, and train on when this returns. Where ranks are processes, each process gets the
    /// stages that its rank has of the first copy of the model.
    ///
    /// # Errors
    /// The first error of any rank.
    pub fn snapshot(&mut self) -> Result<ModelState, TrainerError> {
        let (mut ranks, mut optimizer_steps) = (Vec::new(), 0);
        for ((replica, _), snapshot) in self.ranks.snapshot()?.into_places() {
            if replica == Replica(0) {
                optimizer_steps = optimizer_steps.max(snapshot.optimizer_steps);
                ranks.push(snapshot.stages);
            }
        }
        Ok(ModelState { ranks, optimizer_steps })
    }

    /// Evaluates pieces of samples; each becomes a micro-batch, and replicas share them out.
    ///
    /// # Errors
    /// The first error of any rank, or that there is nothing to evaluate.
    pub fn evaluate(
        &mut self,
        pieces: &[(Vec<Tensor>, Tensor)],
    ) -> Result<Evaluation, TrainerError> {
        match self.evaluate_while(pieces, |_| true)? {
            Some(found) => Ok(found),
            // Nothing stops this evaluation.
            None => Err(TrainerError::NoSamples),
        }
    }

    /// The same, some pieces at a time: `goes_on` is told how many are done and says whether to go
    /// on. `None` where it does not.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate_while(
        &mut self,
        pieces: &[(Vec<Tensor>, Tensor)],
        mut goes_on: impl FnMut(usize) -> bool,
    ) -> Result<Option<Evaluation>, TrainerError> {
        if pieces.is_empty() {
            return Err(TrainerError::NoSamples);
        }
        // A rank's mailbox holds what the ranks before it have finished: some pieces at a time.
        let group = PIECES_AT_ONCE * self.config.ranks.n_replicas as usize;
        let (mut losses, mut correct) = (Vec::new(), None);
        let mut n_done = 0;
        for group in pieces.chunks(group) {
            // Where ranks are processes, any of them may end it, and all of them do.
            if self.ranks.agree(u64::from(!goes_on(n_done)), Vec::new())?.0 != 0 {
                return Ok(None);
            }
            self.evaluate_group(group, &mut losses, &mut correct)?;
            n_done += group.len();
        }
        let rows = pieces.iter().map(|(_, targets)| targets.dim(0).unwrap_or(0) as f64);
        let (mut sum, mut weight) = (0.0, 0.0);
        match self.weight_of(pieces.iter())? {
            Some(counted) => {
                sum = losses.into_iter().map(f64::from).sum();
                weight = counted;
            }
            None => {
                for (loss, rows) in losses.into_iter().zip(rows) {
                    sum += f64::from(loss) * rows;
                    weight += rows;
                }
            }
        }
        if weight <= 0.0 {
            return Err(TrainerError::NoSamples);
        }
        let accuracy = correct.map(|(right, all): (u64, u64)| right as f64 / all as f64);
        Ok(Some(Evaluation { loss: sum / weight, weight, accuracy }))
    }

    /// Adds the losses and the right predictions of some pieces, in their order.
    fn evaluate_group(
        &mut self,
        pieces: &[(Vec<Tensor>, Tensor)],
        losses: &mut Vec<f32>,
        correct: &mut Option<(u64, u64)>,
    ) -> Result<(), TrainerError> {
        let replicas = self.config.ranks.n_replicas as usize;
        let part = |r: usize| {
            let mine = r * pieces.len() / replicas..(r + 1) * pieces.len() / replicas;
            let micro_batches = pieces[mine].to_vec();
            Arc::new(Batch { micro_batches, first_sample: 0, weight: None })
        };
        let batches: Vec<Arc<Batch>> = (0..replicas).map(part).collect();
        for (_, found) in self.ranks.evaluate(&batches)?.into_places() {
            losses.extend(found.losses);
            if let Some((right, all)) = found.correct {
                let so_far = correct.unwrap_or_default();
                *correct = Some((so_far.0 + right, so_far.1 + all));
            }
        }
        Ok(())
    }

    /// The value of every parameter, in layer order.
    ///
    /// # Errors
    /// If a rank failed.
    pub fn weights(&mut self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        Ok(self.ranks.collect(What::Values)?)
    }

    /// The last step's gradient of every parameter before clipping, in layer order.
    ///
    /// # Errors
    /// If a rank failed.
    pub fn gradients(&mut self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        Ok(self.ranks.collect(What::Gradients)?)
    }
}
