//! What an op does in an evaluation: the forward of the first copy of the model. Nothing is kept.

use candle_core::Tensor;
use pp_partition::Objective;
use pp_schedule::{MicroBatch, Op, Pipe, Transfer, ValidPlan};

use crate::batch::Batch;
use crate::boundary::Tensors;
use crate::error::RankError;
use crate::journal::Journal;
use crate::lane::Lane;
use crate::report::Evaluated;
use crate::stages::Stages;
use crate::walk::Pass;

type Result<T> = std::result::Result<T, RankError>;

/// One evaluation of one rank.
pub(crate) struct Evaluation<'a> {
    plan: &'a ValidPlan,
    objective: &'a dyn Objective,
    lane: &'a Lane,
    stages: &'a mut Stages,
    batch: &'a Batch,
    /// Scalars on the device.
    losses: Vec<(MicroBatch, Tensor)>,
    found: Evaluated,
}

impl<'a> Evaluation<'a> {
    /// `plan` has one pipe and as many micro-batches as `batch`.
    pub(crate) fn new(
        plan: &'a ValidPlan,
        objective: &'a dyn Objective,
        lane: &'a Lane,
        stages: &'a mut Stages,
        batch: &'a Batch,
    ) -> Self {
        let last = plan.topology().stages().next_back();
        let is_last = last.is_some_and(|last| stages.holds(Pipe(0), last));
        let n_losses = if is_last { batch.micro_batches.len() } else { 0 };
        let found = Evaluated { losses: vec![f32::NAN; n_losses], correct: None };
        Self { plan, objective, lane, stages, batch, losses: Vec::new(), found }
    }
}

impl Evaluation<'_> {
    /// What was found, when all ops have run.
    pub(crate) fn finish(self) -> Result<Evaluated> {
        let Self { lane, losses, mut found, .. } = self;
        let (micro_batches, losses): (Vec<_>, Vec<_>) = losses.into_iter().unzip();
        for (micro_batch, loss) in micro_batches.into_iter().zip(lane.download(&losses)?) {
            found.losses[micro_batch.idx()] = loss;
        }
        // The next step begins with nothing left to do.
        lane.synchronize()?;
        Ok(found)
    }
}

impl Pass for Evaluation<'_> {
    const IS_RECORDED: bool = false;

    fn compute(&mut self, op: Op, input: Option<Tensors>, _: &mut Journal) -> Result<Tensors> {
        let inputs: Vec<Tensor> = match input {
            Some(tensors) => tensors.into_iter().flatten().collect(),
            None => self.batch.inputs(op.micro_batch, self.lane)?,
        };
        let run = self.stages.get(self.plan.pipe_of(op.micro_batch), op.stage)?;
        let context = run.evaluation();
        let outputs = run.stage.forward(&inputs, &context)?;
        if self.plan.output_stage(op).is_some() {
            return Ok(outputs.iter().map(|t| Some(t.detach())).collect());
        }
        let targets = self.batch.targets(op.micro_batch, self.lane)?;
        // Detached: the graph of the stage would live as long as the loss.
        self.losses
            .push((op.micro_batch, self.objective.loss(&outputs, &targets, &context)?.detach()));
        if let Some((right, all)) = self.objective.correct(&outputs, &targets)? {
            let so_far = self.found.correct.unwrap_or_default();
            self.found.correct = Some((so_far.0 + right, so_far.1 + all));
        }
        Ok(Tensors::new())
    }

    /// Nothing is kept here: the tensors are the receiver's alone.
    fn gives_away(&self, _: Transfer) -> bool {
        true
    }
}
