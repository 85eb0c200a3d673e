//! One stage in training: its saved forwards, and weight gradients that wait their turn.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use pp_nn::{
    ForwardContext, Gradients, Kernels, Optimizer, PackedWeights, Parameter, Residue, ResidueQueue,
};
use pp_partition::{Objective, Stage};
use pp_schedule::MicroBatch;

use crate::boundary;
use crate::boundary::Tensors;
use crate::buckets::{Buckets, Unfinished};
use crate::config::RankConfig;
use crate::exchange::{CopySums, Sums};
use crate::lane::Lane;
use crate::stash::{Held, Kept, Stash};

pub(crate) struct StageRun {
    pub(crate) stage: Stage,
    pub(crate) gradients: Gradients,
    pub(crate) optimizer: Optimizer,
    queue: ResidueQueue,
    kernels: Kernels,
    packed: Option<PackedWeights>,
    /// Whether the backward begins with the forward once more.
    recompute: bool,
    saved: HashMap<MicroBatch, Saved>,
    /// Backwards whose weight gradients are not summed yet, by micro-batch.
    pending: BTreeMap<u32, Pending>,
    /// The micro-batches that are summed in each step, in this order.
    micro_batches: Range<u32>,
    /// The micro-batch whose weight gradient is summed next, or now.
    next: u32,
    /// What is being added to the sums.
    summing: Option<Summing>,
    pub(crate) buckets: Buckets,
}

/// What the backward of a micro-batch needs.
struct Saved {
    forward: Forward,
    held: Held,
}

enum Forward {
    /// All that it made.
    Kept(Graph),
    /// What it started from.
    Again { inputs: Inputs, targets: Option<Tensor>, context: ForwardContext },
}

/// What a stage starts from.
struct Inputs {
    tensors: Vec<Tensor>,
    /// Whether another stage made them, and wants their gradients.
    arrived: bool,
}

/// A forward from its leaves to its outputs, with everything between them.
struct Graph {
    leaves: Vec<Tensor>,
    outputs: Outputs,
}

enum Outputs {
    Boundary(Vec<Tensor>),
    /// The loss of the micro-batch.
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
    /// The loss of the micro-batch: a scalar on the device.
    Loss(Tensor),
}

impl StageRun {
    /// `micro_batches` are those that the plan sends through this copy of the stage.
    pub(crate) fn new(
        stage: Stage,
        optimizer: Optimizer,
        micro_batches: Range<u32>,
        recompute: bool,
        config: &RankConfig,
    ) -> Result<Self> {
        let gradients = Gradients::new(stage.parameters().to_vec())?.with_kernels(config.kernels);
        let buckets = Buckets::new(&stage, config.bucket_bytes);
        Ok(Self {
            stage,
            buckets,
            gradients,
            optimizer,
            queue: ResidueQueue::default(),
            kernels: config.kernels,
            packed: config.keeps_packed().then(PackedWeights::default),
            recompute,
            saved: HashMap::new(),
            pending: BTreeMap::new(),
            next: micro_batches.start,
            micro_batches,
            summing: None,
        })
    }

    /// The weights have changed, or may have.
    pub(crate) fn outdate_packed(&self) {
        if let Some(packed) = &self.packed {
            packed.outdate();
        }
    }

    /// The parameters, but for second places of tied ones.
    pub(crate) fn first_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.stage.parameters().iter().filter(|parameter| !self.stage.is_second(parameter))
    }

    /// What there is of each parameter, but for second places of tied ones.
    pub(crate) fn without_seconds<T>(&self, of_each: Vec<T>) -> Vec<T> {
        let named = self.stage.parameters().iter().zip(of_each);
        named.filter(|(p, _)| !self.stage.is_second(p)).map(|(_, of)| of).collect()
    }

    /// Bytes of the parameters.
    pub(crate) fn parameter_bytes(&self) -> usize {
        let parameters = self.stage.parameters().iter();
        parameters.map(|p| p.var.elem_count() * p.var.dtype().size_in_bytes()).sum()
    }

    /// Bytes of packed copies of weights.
    pub(crate) fn packed_bytes(&self) -> usize {
        self.packed.as_ref().map_or(0, PackedWeights::bytes)
    }

    /// What every pass of this stage has in common.
    fn in_context(&self, context: ForwardContext) -> ForwardContext {
        let context = context.with_kernels(self.kernels);
        match &self.packed {
            Some(packed) => context.with_packed_weights(packed.clone()),
            None => context,
        }
    }

    /// A pass for evaluation. Its micro-batches may have more rows than those of training; no
    /// packed copy is added for them, since nobody has planned memory for it.
    pub(crate) fn evaluation(&self) -> ForwardContext {
        let context = ForwardContext::evaluation().with_kernels(self.kernels);
        match &self.packed {
            Some(packed) => context.with_packed_weights(packed.frozen()),
            None => context,
        }
    }

    /// Forgets the last step.
    pub(crate) fn begin(&mut self) {
        if let Some(packed) = &self.packed {
            packed.begin_step();
        }
        self.gradients.clear();
        self.saved.clear();
        self.pending.clear();
        self.queue.take();
        self.next = self.micro_batches.start;
        self.summing = None;
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
        let inputs = Inputs { tensors: inputs.to_vec(), arrived };
        let graph = self.graph(&inputs, last, &context)?;
        let forwarded = match &graph.outputs {
            Outputs::Boundary(outputs) => {
                Forwarded::Boundary(outputs.iter().map(|t| Some(t.detach())).collect())
            }
            Outputs::Loss(loss) => Forwarded::Loss(loss.detach()),
        };
        let forward = if self.recompute {
            Forward::Again { inputs, targets: last.map(|(_, targets)| targets.clone()), context }
        } else {
            Forward::Kept(graph)
        };
        self.saved.insert(micro_batch, Saved { forward, held });
        Ok(forwarded)
    }

    /// The forward itself.
    fn graph(
        &self,
        inputs: &Inputs,
        last: Option<(&dyn Objective, &Tensor)>,
        context: &ForwardContext,
    ) -> Result<Graph> {
        // The batch itself needs no gradient; what another stage made does.
        let leaves = if inputs.arrived {
            boundary::leaves(&inputs.tensors)?
        } else {
            inputs.tensors.clone()
        };
        let context = self.in_context(context.clone()).with_residues(self.queue.clone());
        let outputs = self.stage.forward(&leaves, &context)?;
        let outputs = match last {
            None => Outputs::Boundary(outputs),
            Some((objective, targets)) => {
                Outputs::Loss(objective.loss(&outputs, targets, &context)?)
            }
        };
        Ok(Graph { leaves, outputs })
    }

    /// `I`: the gradients of the inputs. What the weights need is put aside.
    ///
    /// `gradients` are those of the outputs; the last stage starts from the loss, times `share`.
    pub(crate) fn input_gradient(
        &mut self,
        micro_batch: MicroBatch,
        gradients: &[Option<Tensor>],
        share: f64,
        objective: &dyn Objective,
        stash: &Stash,
    ) -> Result<Tensors> {
        let Some(Saved { forward, held }) = self.saved.remove(&micro_batch) else {
            candle_core::bail!("micro-batch {micro_batch} has no saved forward");
        };
        let Graph { leaves, outputs } = match forward {
            Forward::Kept(graph) => graph,
            Forward::Again { inputs, targets, context } => {
                let last = targets.as_ref().map(|targets| (objective, targets));
                self.graph(&inputs, last, &context)?
            }
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

    /// `W`: asks for the sum of the weight gradients of a micro-batch. [`Self::sum_next`] computes
    /// it.
    pub(crate) fn weight_gradient(&mut self, micro_batch: MicroBatch) -> Result<()> {
        let Some(pending) = self.pending.get_mut(&micro_batch.0) else {
            candle_core::bail!("micro-batch {micro_batch} has no input gradient yet");
        };
        pending.due = true;
        pending.held = None;
        Ok(())
    }

    /// Adds the next weight gradient of all that the plan has asked for to its sum. Returns the
    /// buckets that are whole now, where the stage has copies, or `None` if nothing was left to add.
    ///
    /// Sums are always taken in ascending order of micro-batches, whatever order the plan has, so
    /// that every plan rounds alike.
    pub(crate) fn sum_next(&mut self, has_copies: bool) -> Result<Option<Vec<u32>>> {
        let is_last = self.next + 1 == self.micro_batches.end;
        if self.summing.is_none() {
            let Some(pending) = self.pending.remove(&self.next) else { return Ok(None) };
            if !pending.due {
                self.pending.insert(self.next, pending);
                return Ok(None);
            }
            let Pending { residues, kept, .. } = pending;
            let is_wanted = is_last && has_copies;
            let unfinished = is_wanted.then(|| Unfinished::new(&self.buckets, &residues));
            self.summing =
                Some(Summing { residues: residues.into_iter(), unfinished, _kept: kept });
        }
        let Some(summing) = &mut self.summing else { return Ok(None) };
        if let Some(residue) = summing.residues.next() {
            let parameters = residue.parameters();
            // Of a sum that is replaced by a mean nobody needs the square.
            if is_last && !has_copies {
                self.gradients.accumulate_last(residue)?;
            } else {
                self.gradients.accumulate(residue)?;
            }
            if let Some(unfinished) = &mut summing.unfinished {
                unfinished.summed(&self.buckets, parameters);
            }
        }
        let whole = summing.unfinished.as_mut().map(Unfinished::take_whole).unwrap_or_default();
        if summing.residues.len() == 0 {
            self.summing = None;
            self.next += 1;
        }
        Ok(Some(whole))
    }

    /// The whole sums of the parameters of a bucket, for the other copies of the stage. Nothing is
    /// copied, unless they go to other processes from a device.
    pub(crate) fn finish(&mut self, bucket: u32, lane: &Lane, to_processes: bool) -> Result<Sums> {
        let parameters = self.buckets.members(bucket).to_vec();
        self.finish_all(&parameters, lane, to_processes)
    }

    fn finish_all(
        &mut self,
        parameters: &[usize],
        lane: &Lane,
        to_processes: bool,
    ) -> Result<Sums> {
        let mut tensors = Vec::with_capacity(parameters.len());
        for &parameter in parameters {
            let sum = self.gradients.finish(parameter)?.clone();
            tensors.push(if to_processes { lane.on_host(sum)? } else { lane.sendable(sum)? });
        }
        let made = if to_processes { None } else { lane.made()? };
        Ok(Arc::new(CopySums { tensors, made }))
    }

    /// The same for one parameter.
    pub(crate) fn finish_one(
        &mut self,
        name: &str,
        lane: &Lane,
        to_processes: bool,
    ) -> Result<Sums> {
        let place = self.place_of(name)?;
        self.finish_all(&[place], lane, to_processes)
    }

    /// Replaces the sum of one parameter.
    pub(crate) fn replace_one(&mut self, name: &str, sum: Tensor) -> Result<()> {
        let place = self.place_of(name)?;
        self.gradients.replace(place, sum)
    }

    fn place_of(&self, name: &str) -> Result<usize> {
        match self.stage.parameters().iter().position(|parameter| parameter.name == name) {
            Some(place) => Ok(place),
            None => candle_core::bail!("a stage without {name}, which is tied"),
        }
    }
}

/// A micro-batch whose weight gradients are being added to the sums.
struct Summing {
    residues: std::vec::IntoIter<Residue>,
    /// What this finishes, if it is the last micro-batch and other copies wait for it.
    unfinished: Option<Unfinished>,
    /// The bytes of all residues, until the last is summed.
    _kept: Kept,
}
