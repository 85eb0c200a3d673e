//! Residues: what a weight gradient needs, kept until the schedule computes it.
//!
//! Each layer implements [`WeightGradient`] in its own file: the tensors that it keeps, and how
//! they become a gradient that is added to the sums.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};

use crate::gradients::Gradients;

/// Computes the gradient of some parameters of a layer, for one micro-batch, from the tensors that
/// it keeps.
pub trait WeightGradient: Send {
    /// The name of the layer, for messages.
    fn name(&self) -> &'static str;

    /// Bytes of the tensors that wait here.
    fn bytes(&self) -> usize;

    /// The parameters whose sums [`Self::add_to`] changes, and no others. When all residues of a
    /// step that name a parameter are summed, its sum is finished and may be handed on.
    fn parameters(&self) -> Vec<TensorId>;

    /// Computes the gradient and adds it to the sums. `is_last` says that this finishes the sums:
    /// an implementation may then compute what [`Gradients::square_sums`] needs, while they are in
    /// the cache.
    ///
    /// # Errors
    /// If a parameter belongs to another stage, or a kernel fails.
    fn add_to(self: Box<Self>, sums: &mut Gradients, is_last: bool) -> Result<()>;
}

/// What one backward of a layer has left behind for its weights.
pub struct Residue(Box<dyn WeightGradient>);

impl fmt::Debug for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.0.name(), self.bytes())
    }
}

impl Residue {
    /// A residue that computes `gradient` when its turn comes.
    pub fn new(gradient: impl WeightGradient + 'static) -> Self {
        Self(Box::new(gradient))
    }

    /// The gradient of a parameter itself, of the same shape.
    pub fn dense(parameter: TensorId, gradient: Tensor) -> Self {
        Self::new(Dense { parameter, gradient })
    }

    /// Work that runs when the gradient would be computed; what it returns is added to the sums of
    /// `parameters`. `bytes` wait with it.
    pub fn deferred(
        bytes: usize,
        parameters: Vec<TensorId>,
        run: impl FnOnce() -> Result<Vec<Self>> + Send + 'static,
    ) -> Self {
        Self::new(Deferred { bytes, parameters, run })
    }

    /// The parameters whose sums it changes.
    pub fn parameters(&self) -> Vec<TensorId> {
        self.0.parameters()
    }

    /// Bytes of the tensors that wait here.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

struct Dense {
    parameter: TensorId,
    gradient: Tensor,
}

impl WeightGradient for Dense {
    fn name(&self) -> &'static str {
        "Dense"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.gradient)
    }

    fn parameters(&self) -> Vec<TensorId> {
        vec![self.parameter]
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, _: bool) -> Result<()> {
        sums.add(self.parameter, &self.gradient)
    }
}

struct Deferred<F> {
    bytes: usize,
    parameters: Vec<TensorId>,
    run: F,
}

impl<F: FnOnce() -> Result<Vec<Residue>> + Send> WeightGradient for Deferred<F> {
    fn name(&self) -> &'static str {
        "Deferred"
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn parameters(&self) -> Vec<TensorId> {
        self.parameters.clone()
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, is_last: bool) -> Result<()> {
        let residues = (self.run)()?;
        residues.into_iter().try_for_each(|residue| residue.0.add_to(sums, is_last))
    }
}

/// Bytes of a tensor's elements.
pub(crate) fn bytes_of(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

impl Gradients {
    /// Adds what `residue` stands for to the sums of its parameters.
    ///
    /// # Errors
    /// If the residue belongs to another stage, or a kernel fails.
    pub fn accumulate(&mut self, residue: Residue) -> Result<()> {
        residue.0.add_to(self, false)
    }

    /// Adds the residue of the last micro-batch of a step. This also computes what
    /// [`Self::square_sums`] needs, while the sums are in the cache.
    ///
    /// # Errors
    /// As [`Self::accumulate`].
    pub fn accumulate_last(&mut self, residue: Residue) -> Result<()> {
        residue.0.add_to(self, true)
    }

    /// Takes from `store`, as residues, the gradients that candle itself computed for these
    /// parameters (layers that are not of this crate).
    pub fn dense_residues(&self, store: &mut GradStore) -> Vec<Residue> {
        self.parameters()
            .filter_map(|parameter| {
                // Detached, or it would keep the graph that candle computed it with.
                let gradient = store.remove(parameter.var.as_tensor())?.detach();
                Some(Residue::dense(parameter.var.id(), gradient))
            })
            .collect()
    }
}

/// A shared queue of residues: layers push while candle walks the graph, the owner takes.
#[derive(Clone, Debug, Default)]
pub struct ResidueQueue(Arc<Mutex<Vec<Residue>>>);

impl ResidueQueue {
    /// Adds what one backward left behind.
    pub fn push(&self, residue: Residue) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(residue);
    }

    /// Takes everything, in the order of pushing.
    pub fn take(&self) -> Vec<Residue> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
