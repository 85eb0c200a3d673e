//! A model with its loss and its data.

use std::fmt;
use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};
use pp_nn::{ForwardContext, IGNORED, cross_entropy, linear_cross_entropy};
use pp_partition::{LayerStack, Objective};

use crate::data::DataSet;

/// Everything that a trainer needs.
pub struct Job {
    /// The model.
    pub stack: LayerStack,
    /// Its loss.
    pub objective: Arc<dyn Objective>,
    /// Its data.
    pub data: Box<dyn DataSet>,
    /// Floating-point operations that training on one sample needs; 0 where that is not known. By
    /// the usual count: two for each multiplication with an addition, six for each weight of a
    /// product over forward and backward, recomputation and what is done element by element left
    /// out.
    pub flops_per_sample: u64,
}

impl Job {
    /// A job without a count of floating-point operations.
    pub fn new(
        stack: LayerStack,
        objective: impl Objective + 'static,
        data: impl DataSet + 'static,
    ) -> Self {
        Self { stack, objective: Arc::new(objective), data: Box::new(data), flops_per_sample: 0 }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("stack", &self.stack).finish_non_exhaustive()
    }
}

/// Cross-entropy over classes: outputs `(…, c)`, targets `(…)` class numbers.
#[derive(Clone, Copy, Debug)]
pub struct Classes;

impl Objective for Classes {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        cross_entropy(&outputs[0], targets)
    }

    fn correct(&self, outputs: &[Tensor], targets: &Tensor) -> Result<Option<(u64, u64)>> {
        let guesses = outputs[0].argmax(D::Minus1)?.flatten_all()?;
        let hits = guesses.eq(&targets.to_dtype(DType::U32)?.flatten_all()?)?;
        let right = hits.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        Ok(Some((right as u64, hits.elem_count() as u64)))
    }
}

/// Cross-entropy over the tokens that count, those whose target is not [`IGNORED`]. The last layer
/// returns two tensors: what goes into the head, `(…, d)`, and the weight of the head, `(v, d)`. The
/// logits `(…, v)` never exist as a whole ([`linear_cross_entropy`]).
///
/// The loss of a step is the mean over all tokens that count in it, however they are spread over
/// micro-batches and replicas.
#[derive(Clone, Copy, Debug)]
pub struct Tokens;

impl Objective for Tokens {
    fn loss(
        &self,
        outputs: &[Tensor],
        targets: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor> {
        match outputs {
            [hidden, weight] => linear_cross_entropy(hidden, weight, targets, context),
            _ => candle_core::bail!(
                "a loss over tokens takes what goes into the head, and the head's weight; it got {} \
                 tensors",
                outputs.len()
            ),
        }
    }

    fn weight(&self, targets: &Tensor) -> Result<Option<f64>> {
        let counted = targets.to_dtype(DType::U32)?.ne(IGNORED)?.to_dtype(DType::F64)?;
        Ok(Some(counted.sum_all()?.to_scalar()?))
    }
}

/// The mean square of the difference between the first output and the targets, which have its
/// shape.
#[derive(Clone, Copy, Debug)]
pub struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}
