//! What a model is made of.

use candle_core::{Result, Tensor};
use pp_nn::{Chain, ForwardContext};

/// One layer of a stack: the smallest thing that a cut can put on its own device.
///
/// It takes what the layer before it returned (one tensor, or several: skip connections, masks)
/// and returns what the next one takes. It runs under candle's autograd.
///
/// On a CUDA device it should upload nothing that changes from step to step: uploads of up to 4 KiB
/// are kept there, as the shapes of tensors are. The same holds for an [`Objective`].
pub trait Layer: Send {
    /// Runs the layer on one micro-batch.
    ///
    /// # Errors
    /// Whatever candle reports.
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>>;

    /// The layer as a chain, if it is one: neighbours that are chains run as one operation.
    fn as_chain(&self) -> Option<&Chain> {
        None
    }
}

/// A layer that is a chain.
pub fn chain(chain: Chain) -> Box<dyn Layer> {
    Box::new(Chained(chain))
}

struct Chained(Chain);

impl Layer for Chained {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        Ok(vec![self.0.forward(the_only(inputs)?, context)?])
    }

    fn as_chain(&self) -> Option<&Chain> {
        Some(&self.0)
    }
}

fn the_only(inputs: &[Tensor]) -> Result<&Tensor> {
    match inputs {
        [x] => Ok(x),
        _ => candle_core::bail!("a layer of one input got {} tensors", inputs.len()),
    }
}

/// A layer of one input and one output, from a closure.
pub fn single<F>(forward: F) -> Box<dyn Layer>
where
    F: Fn(&Tensor, &ForwardContext) -> Result<Tensor> + Send + 'static,
{
    Box::new(Single(forward))
}

struct Single<F>(F);

impl<F> Layer for Single<F>
where
    F: Fn(&Tensor, &ForwardContext) -> Result<Tensor> + Send,
{
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        Ok(vec![(self.0)(the_only(inputs)?, context)?])
    }
}

/// What the outputs of the last layer are compared with.
pub trait Objective: Send + Sync {
    /// The loss of a micro-batch: a scalar under autograd. It is the mean over the samples; or the
    /// sum over what counts, if [`Self::weight`] says how much that is. The context is that of the
    /// layers' pass, for a loss with weights.
    ///
    /// # Errors
    /// Whatever candle reports.
    fn loss(
        &self,
        outputs: &[Tensor],
        targets: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor>;

    /// How much of a micro-batch counts, such as the number of its tokens that are to be predicted.
    ///
    /// The loss of a step is then the sum over all micro-batches and replicas, divided by what
    /// counts in all of them, and so is its gradient. Micro-batches of which different parts count
    /// give what one large batch would give; a mean of their means would not. `None` if every
    /// micro-batch counts the same. The answer is the same kind for all micro-batches.
    ///
    /// # Errors
    /// Whatever candle reports.
    fn weight(&self, targets: &Tensor) -> Result<Option<f64>> {
        let _ = targets;
        Ok(None)
    }

    /// How many predictions are right and how many there are, where that makes sense.
    ///
    /// # Errors
    /// Whatever candle reports.
    fn correct(&self, outputs: &[Tensor], targets: &Tensor) -> Result<Option<(u64, u64)>> {
        let _ = (outputs, targets);
        Ok(None)
    }
}
