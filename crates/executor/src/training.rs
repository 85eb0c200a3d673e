//! What an op does in training.

use candle_core::Tensor;
use pp_nn::ForwardContext;
use pp_schedule::{MicroBatch, Op, Payload, Phase, Transfer, ValidPlan};

use crate::batch::Batch;
use crate::boundary::Tensors;
use crate::config::RankConfig;
use crate::error::RankError;
#[cfg(feature = "fault-injection")]
use crate::fault::FaultPoint;
use crate::gauge::Gauge;
use crate::journal::Journal;
use crate::lane::Lane;
use crate::progress::Reporter;
use crate::reduction::{Parts, Reduction};
use crate::stage_run::Forwarded;
use crate::stages::Stages;
use crate::stash::Stash;
use crate::walk::Pass;

type Result<T> = std::result::Result<T, RankError>;

/// One step of one rank.
pub(crate) struct Training<'a> {
    pub(crate) config: &'a RankConfig,
    pub(crate) plan: &'a ValidPlan,
    pub(crate) lane: &'a Lane,
    pub(crate) stages: &'a mut Stages,
    pub(crate) stash: &'a Stash,
    pub(crate) gauge: &'a mut Gauge,
    /// The mean over the copies of the model, where there are several.
    pub(crate) reduction: Option<&'a mut Reduction>,
    pub(crate) progress: Reporter,
    pub(crate) step: u64,
    /// The data of the replica.
    pub(crate) batch: &'a Batch,
    /// The index of the first sample of each micro-batch.
    pub(crate) first_samples: Vec<u64>,
    /// The loss of each micro-batch that has ended on this rank, which has the last stage then: a
    /// scalar on the device.
    pub(crate) losses: Vec<(MicroBatch, Tensor)>,
}

impl Pass for Training<'_> {
    const IS_RECORDED: bool = true;

    fn compute(
        &mut self,
        op: Op,
        input: Option<Tensors>,
        journal: &mut Journal,
    ) -> Result<Tensors> {
        #[cfg(feature = "fault-injection")]
        if let Some(fault) = self.config.fault {
            fault.strike(self.step, FaultPoint::Op(op))?;
        }
        let made = match op.phase {
            Phase::Forward => self.forward(op, input)?,
            Phase::Backward => {
                let made = self.input_gradient(op, input)?;
                self.weight_gradient(op, journal)?;
                made
            }
            Phase::InputGrad => self.input_gradient(op, input)?,
            Phase::WeightGrad => {
                self.weight_gradient(op, journal)?;
                Tensors::new()
            }
        };
        self.gauge.look(self.stages);
        Ok(made)
    }

    fn advance(&mut self, journal: &mut Journal) -> Result<()> {
        let Some(reduction) = &mut self.reduction else { return Ok(()) };
        let (stages, lane) = (&mut *self.stages, self.lane);
        reduction.advance(&mut Parts { stages, lane, journal, progress: &self.progress })
    }

    /// A forward's output stays in the stash too, unless it will be made again; a gradient is the
    /// receiver's alone.
    fn gives_away(&self, transfer: Transfer) -> bool {
        match transfer.payload {
            Payload::Gradient => true,
            Payload::Activation => self.config.recompute.is_for(transfer.from_stage),
        }
    }
}

impl Training<'_> {
    fn forward(&mut self, op: Op, input: Option<Tensors>) -> Result<Tensors> {
        let Op { stage, micro_batch, .. } = op;
        let arrived = input.is_some();
        let inputs: Vec<Tensor> = match input {
            Some(tensors) => tensors.into_iter().flatten().collect(),
            None => self.batch.inputs(micro_batch, self.lane)?,
        };
        let is_last = self.plan.output_stage(op).is_none();
        let targets = is_last.then(|| self.batch.targets(micro_batch, self.lane)).transpose()?;
        let context = ForwardContext::training(self.config.seed, self.step)
            .with_first_sample(self.first_samples[micro_batch.idx()]);
        let objective = self.config.objective.as_ref();
        let last = targets.as_ref().map(|targets| (objective, targets));
        let held = self.stash.hold();
        let run = self.stages.get(self.plan.pipe_of(micro_batch), stage)?;
        let _shapes = self.lane.keep_shapes();
        match run.forward(micro_batch, &inputs, arrived, last, context, held)? {
            Forwarded::Boundary(tensors) => Ok(tensors),
            Forwarded::Loss(loss) => {
                self.losses.push((micro_batch, loss));
                Ok(Tensors::new())
            }
        }
    }

    /// `input` are the gradients of the outputs; the last stage starts from its loss.
    fn input_gradient(&mut self, op: Op, input: Option<Tensors>) -> Result<Tensors> {
        let Op { stage, micro_batch, .. } = op;
        let gradients = input.unwrap_or_default();
        // Afterwards the mean over all copies of the model is taken: each copy takes the mean over
        // its own micro-batches, or as many times its part of the whole sum as there are copies.
        let n_pipes = self.plan.n_pipes() as usize;
        let share = match self.batch.weight {
            None => 1.0 / (self.batch.micro_batches.len() / n_pipes) as f64,
            Some(weight) => self.config.n_copies() as f64 / weight,
        };
        let objective = self.config.objective.as_ref();
        let run = self.stages.get(self.plan.pipe_of(micro_batch), stage)?;
        let _shapes = self.lane.keep_shapes();
        Ok(run.input_gradient(micro_batch, &gradients, share, objective, self.stash)?)
    }

    /// A bucket of gradients leaves as soon as it is whole.
    fn weight_gradient(&mut self, op: Op, journal: &mut Journal) -> Result<()> {
        let place = (self.plan.pipe_of(op.micro_batch), op.stage);
        let has_copies = self.config.has_copies();
        self.stages.get(place.0, place.1)?.weight_gradient(op.micro_batch)?;
        loop {
            let shapes = self.lane.keep_shapes();
            let summed = self.stages.get(place.0, place.1)?.sum_next(has_copies)?;
            drop(shapes);
            let Some(whole) = summed else { return Ok(()) };
            let Some(reduction) = self.reduction.as_mut().filter(|_| has_copies) else { continue };
            let (stages, lane) = (&mut *self.stages, self.lane);
            let mut parts = Parts { stages, lane, journal, progress: &self.progress };
            reduction.whole(place, whole, &mut parts)?;
            reduction.listen()?;
        }
    }
}
