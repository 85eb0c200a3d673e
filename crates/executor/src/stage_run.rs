//! One stage in training: its saved forwards, and weight gradients that wait their turn.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor};
use pp_nn::{ForwardContext, Gradients, Optimizer, Residue, ResidueQueue};
use pp_partition::{Objective, Stage};
use pp_schedule::MicroBatch;

use crate::boundary;
use crate::link::Tensors;
use crate::stash::{Held, Kept, Stash};

pub(crate) struct StageRun {
    pub(crate) stage: Stage,
    pub(crate) gradients: Gradients,
    pub(crate) optimizer: Optimizer,
    queue: ResidueQueue,
    saved: HashMap<MicroBatch, Saved>,
    /// Backwards whose weight gradients are not summed yet, by micro-batch.
    pending: BTreeMap<u32, Pending>,
    /// The micro-batch that is summed first in each step.
    first: u32,
    /// The micro-batch whose weight gradient is summed next.
    next: u32,
}

/// What the backward of a micro-batch needs.
struct Saved {
    leaves: Vec<Tensor>,
    outputs: Outputs,
    held: Held,
}

enum Outputs {
    Boundary(Vec<Tensor>),
    /// The mean loss of the micro-batch.
    Loss(Tensor),
}

struct Pending {
    residues: Vec<Residue>,
    /// Their bytes, until they are summed.
    kept: Kept,
    /// The pair, until the plan has asked for the sum.
    held: Option<Held>,
    /// Whether the plan has asked for the sum.
    due: bool,
}

/// What the forward of a stage gives.
pub(crate) enum Forwarded {
    Boundary(Tensors),
    Loss(f32),
}

impl StageRun {
    /// `first` is the first micro-batch that the plan sends through this copy of the stage.
    pub(crate) fn new(stage: Stage, optimizer: Optimizer, first: MicroBatch) -> Result<Self> {
        let gradients = Gradients::new(stage.parameters().to_vec())?;
        Ok(Self {
            stage,
            gradients,
            optimizer,
            queue: ResidueQueue::default(),
            saved: HashMap::new(),
            pending: BTreeMap::new(),
            first: first.0,
            next: first.0,
        })
    }

    /// Forgets the last step.
    pub(crate) fn begin(&mut self) {
        self.gradients.clear();
        self.saved.clear();
        self.pending.clear();
        self.queue.take();
        self.next = self.first;
    }

    /// `F`: keeps what the backward needs, returns what the next stage needs, or the loss.
    pub(crate) fn forward(
        &mut self,
        micro_batch: MicroBatch,
        inputs: &[Tensor],
        arrived: bool,
        last: Option<(&dyn Objective, &Tensor)>,
        context: ForwardContext,
        held: Held,
    ) -> Result<Forwarded> {
        // The batch itself needs no gradient; what another stage made does.
        let leaves = if arrived { boundary::leaves(inputs)? } else { inputs.to_vec() };
        let outputs = self.stage.forward(&leaves, &context.with_residues(self.queue.clone()))?;
        let (outputs, forwarded) = match last {
            None => {
                let tensors = outputs.iter().map(|t| Some(t.detach())).collect();
                (Outputs::Boundary(outputs), Forwarded::Boundary(tensors))
            }
            Some((objective, targets)) => {
                let loss = objective.loss(&outputs, targets)?;
                let value = loss.to_scalar::<f32>()?;
                (Outputs::Loss(loss), Forwarded::Loss(value))
            }
        };
        self.saved.insert(micro_batch, Saved { leaves, outputs, held });
        Ok(forwarded)
    }

    /// `I`: the gradients of the inputs. What the weights need is put aside.
    ///
    /// `gradients` are those of the outputs; the last stage starts from the loss, times `share`.
    pub(crate) fn input_gradient(
        &mut self,
        micro_batch: MicroBatch,
        gradients: &[Option<Tensor>],
        share: f64,
        stash: &Stash,
    ) -> Result<Tensors> {
        let Some(Saved { leaves, outputs, held }) = self.saved.remove(&micro_batch) else {
            candle_core::bail!("micro-batch {micro_batch} has no saved forward");
        };
        let store = match &outputs {
            Outputs::Boundary(outputs) => boundary::backward(outputs, gradients)?,
            Outputs::Loss(loss) => Some((loss * share)?.backward()?),
        };
        drop(outputs);
        let mut residues = self.queue.take();
        let mut back = vec![None; leaves.len()];
        if let Some(mut store) = store {
            back = boundary::leaf_gradients(&leaves, &mut store);
            residues.extend(self.gradients.dense_residues(&mut store));
        }
        let kept = stash.keep(residues.iter().map(Residue::bytes).sum::<usize>() as u64);
        let pending = Pending { residues, kept, held: Some(held), due: false };
        self.pending.insert(micro_batch.0, pending);
        Ok(back)
    }

    /// `W`: the sums of the weight gradients. They are always taken in ascending order of
    /// micro-batches, whatever order the plan has, so that every plan rounds alike.
    pub(crate) fn weight_gradient(&mut self, micro_batch: MicroBatch) -> Result<()> {
        let Some(pending) = self.pending.get_mut(&micro_batch.0) else {
            candle_core::bail!("micro-batch {micro_batch} has no input gradient yet");
        };
        pending.due = true;
        pending.held = None;
        while self.pending.get(&self.next).is_some_and(|p| p.due) {
            if let Some(Pending { residues, kept, .. }) = self.pending.remove(&self.next) {
                for residue in residues {
                    self.gradients.accumulate(residue)?;
                }
                drop(kept);
            }
            self.next += 1;
        }
        Ok(())
    }
}
